//go:build unix

package checkpoint

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

var errNotDirectory error = syscall.ENOTDIR

// mayWrite returns why this process cannot create files in a directory; nil if it can.
func mayWrite(dir string) error {
	for {
		err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			return hasSpace(dir)
		}
	}
}
