// Command gen writes the files that are made from the declaration of the configuration. Its
// argument is the root of the repository.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"workos-relay/internal/config"
	"workos-relay/internal/kinds"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen ROOT")
		os.Exit(2)
	}
	for name, text := range config.For(kinds.All).Generated() {
		if err := write(filepath.Join(os.Args[1], name), text); err != nil {
			fmt.Fprintf(os.Stderr, "gen: %v\n", err)
			os.Exit(1)
		}
	}
}

func write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil { //nolint:gosec // the caller names the root
		return err
	}
	return os.WriteFile(path, text, 0o644) //nolint:gosec // documentation
}
