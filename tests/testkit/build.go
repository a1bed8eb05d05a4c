//go:build unix

package testkit

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// Build builds cmd/relay into dir and returns the path of the binary.
func Build(dir string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	path := filepath.Join(dir, "relay")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "workos-relay/cmd/relay")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building relay: %w\n%s", err, out)
	}
	return path, nil
}
