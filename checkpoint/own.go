package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"workos-relay/internal/operator"
)

// A file or directory of relay's that others can change decides what relay publishes and what it
// leaves out. So relay uses none that is not its own.

// openOwn opens a file of relay's: it follows no symbolic link, and refuses what is not a regular
// file or what others can write to. A file that may not be used is an error for an operator.
func openOwn(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|noFollow, fileMode) //nolint:gosec // a path of the store's own
	if err != nil {
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, operator.Require(fmt.Errorf("%s is a symbolic link, and relay follows none among its own files", path),
				"find out who made it, and remove it")
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkFile(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadOwn reads a file that relay keeps at path, and no more than limit bytes of it. As with the
// files of File, it returns an error if path is a symbolic link or if other users may write to it.
func ReadOwn(path string, limit int64) ([]byte, error) {
	f, err := openOwn(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return operator.Require(fmt.Errorf("%s is not a regular file", path), "find out who made it, and remove it")
	}
	return checkOwner(path, info)
}

// CheckDirectory returns an error if other users could replace files in a directory of relay. key
// is the key of the configuration that names the directory. A directory that does not exist is not
// an error.
//
// A directory like /tmp (sticky) is accepted, for nobody can replace the files of others there; so
// is one that a group may write to if that is how a volume is handed over: with the setgid bit, as
// Kubernetes does it for fsGroup, with the process's own group, or as the root of a mount, as
// emptyDir is.
func CheckDirectory(dir, key string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking who can write to %s (%s): %w", dir, key, err)
	case !info.IsDir():
		return nil // the caller that makes the directory reports it
	}
	who, remedy := writers(dir, info)
	if who == "" {
		return nil
	}
	return operator.Require(fmt.Errorf("%s (%s) has mode %04o: %s can replace the files in it, and so decide what relay publishes",
		dir, key, info.Mode().Perm(), who), fmt.Sprintf("take that right away: chmod %s %s", remedy, dir))
}
