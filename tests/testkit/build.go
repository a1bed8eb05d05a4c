//go:build unix

package testkit

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// Hour is how long an hour of verify.every lasts for a binary of Build, and of all other waits of a
// verification. Nothing else is quicker there.
const Hour = 2 * time.Second

// Build builds cmd/relay into dir and returns the path of the binary.
func Build(dir string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	path := filepath.Join(dir, "relay")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-X workos-relay/internal/app.testHour="+Hour.String(), "-o", path, "workos-relay/cmd/relay")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building relay: %w\n%s", err, out)
	}
	return path, nil
}
