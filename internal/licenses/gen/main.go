// Command gen writes docs/licenses.md of the repository whose root is its first argument. With a
// second one it writes the texts of the licences into the file of that name instead.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"workos-relay/internal/licenses"
)

func main() {
	if len(os.Args) != 2 && len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: gen ROOT [FILE]")
		os.Exit(2)
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "gen: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	modules, err := licenses.Collect(context.Background(), args[0], "./cmd/relay")
	if err != nil {
		return err
	}
	file, text := filepath.Join(args[0], "docs", "licenses.md"), licenses.Table(modules)
	if len(args) == 2 {
		file, text = args[1], licenses.Texts(modules)
	}
	return os.WriteFile(file, text, 0o644) //nolint:gosec // documentation, in a place that the caller names
}
