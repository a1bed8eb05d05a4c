//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package checkpoint

import (
	"errors"
	"os"
)

// lockFile refuses: without a lock two relays could share a directory unnoticed.
func lockFile(*os.File) error {
	return errors.New("file locks are not known to relay on this operating system")
}
