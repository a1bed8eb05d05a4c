package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CheckFile returns the error that OpenFile would return, and changes nothing. Its error matches
// ErrLocked if another process has the store open. It also reports a directory in which a
// checkpoint could not be written.
func CheckFile(dir string, id Identity) error {
	p, err := newPaths(dir, id)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return notMade(dir, err)
	}
	there, err := CanMakeDirectory(dir)
	if err != nil {
		return notMade(dir, err)
	}
	if !there {
		return nil
	}
	if err := CheckDirectory(dir, "checkpoint.dir"); err != nil {
		return err
	}
	if err := p.checkLock(); err != nil {
		return notLocked(dir, err)
	}
	if _, err := p.temporaries(); err != nil {
		return notPrepared(dir, err)
	}
	if _, err := readHolder(p); err != nil {
		return notPrepared(dir, err)
	}
	if err := mayWrite(dir); err != nil {
		return unusable(fmt.Errorf("write the checkpoint %s: %w", p.main, &fs.PathError{Op: "open", Path: p.main + temporarySuffix, Err: err}))
	}
	return nil
}

// ReadHolder returns what Holder of the store of id in the directory dir returns, without the lock.
// It is empty if no process has opened the store yet.
func ReadHolder(dir string, id Identity) (string, error) {
	p, err := newPaths(dir, id)
	if err != nil {
		return "", err
	}
	return readHolder(p)
}

// checkLock returns the error of takeLock without creating the file or writing to it. It holds the
// lock for an instant, which takeLock waits out.
func (p paths) checkLock() error {
	f, err := openOwn(p.lock, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		if err = mayWrite(p.dir); err != nil {
			err = &fs.PathError{Op: "open", Path: p.lock, Err: err}
		}
		return err
	}
	if err != nil {
		return err
	}
	if err = lockFile(f); err != nil {
		err = notTaken(f, p.lock, err)
	}
	return errors.Join(err, f.Close())
}

// MayWrite returns an error if this process cannot create files in the directory dir. A directory
// that does not exist is not an error.
func MayWrite(dir string) error {
	err := mayWrite(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return &fs.PathError{Op: "write to", Path: dir, Err: err}
}

// CanMakeDirectory reports whether the directory dir exists. If it does not, and could not be
// created with its missing parents, it returns the error that os.MkdirAll would return. It creates
// nothing.
func CanMakeDirectory(dir string) (there bool, err error) {
	first := "" // the first directory that has to be created
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case err == nil && !info.IsDir():
			return false, &fs.PathError{Op: "mkdir", Path: at, Err: errNotDirectory}
		case err == nil && first == "":
			return true, nil
		case err == nil:
			if err := mayWrite(at); err != nil {
				return false, &fs.PathError{Op: "mkdir", Path: first, Err: err}
			}
			return false, nil
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotDirectory):
			return false, err
		case filepath.Dir(at) == at:
			return false, err
		}
		first = at
	}
}
