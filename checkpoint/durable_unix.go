//go:build unix

package checkpoint

import (
	"errors"
	"os"
	"syscall"
)

// syncDir makes the names in dir durable: files created, renamed and removed.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // a path of the store's own
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // nothing was written through it
	// Some file systems order the changes of a directory by themselves and reject the request.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
