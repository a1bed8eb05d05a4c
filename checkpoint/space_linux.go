package checkpoint

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// hasSpace returns an error if nothing can be written to a file in a directory because the disk is
// full. The file that it writes has no name, and is gone when hasSpace returns. It returns nil if
// the file system has no such files.
func hasSpace(dir string) error {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_WRONLY, fileMode) //nolint:gosec // a path of the store's own
	if err == nil {
		_, err = f.Write(make([]byte, 4096))
		err = errors.Join(err, f.Close())
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return unix.ENOSPC
	}
	return nil
}
