package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"workos-relay/internal/operator"
)

// lock is a file that one process at a time has locked. The operating system lets go of it when the process ends, however it
// ends; the file itself stays, since removing it would let two processes lock two files of one name.
type lock struct {
	path string
	file *os.File
}

// takeLock locks the file at path, which it creates where it is missing, and writes into it who holds it. Where another
// process does it returns an error that matches ErrLocked and says who.
func takeLock(path string, now time.Time) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode) //nolint:gosec // a path of the store's own
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		if errors.Is(err, errHeld) {
			err = operator.Require(fmt.Errorf("%w: another relay%s runs on this folder (%s)", ErrLocked, holderNote(f), path),
				"stop it or give one another checkpoint.dir")
		} else {
			err = fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	l := &lock{path: path, file: f}
	if err := l.describe(now); err != nil {
		return nil, errors.Join(fmt.Errorf("write who holds %s: %w", path, err), f.Close())
	}
	return l, nil
}

// errHeld is what lockFile returns where another has the lock.
var errHeld = errors.New("held by another")

// describe writes who holds the lock. Nothing depends on it but the message that another process gives.
func (l *lock) describe(now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err = l.file.WriteAt(fmt.Appendf(nil, "pid %d on host %s since %s\n", os.Getpid(), host, now.UTC().Format(time.RFC3339)), 0)
	return err
}

func holderNote(f *os.File) string {
	text, err := io.ReadAll(io.LimitReader(f, 512))
	note := strings.TrimSpace(string(text))
	if err != nil || note == "" {
		return ""
	}
	return fmt.Sprintf(" (%q)", note)
}

// check returns an error that matches ErrLocked where the file was removed or replaced, so that the lock protects nothing.
func (l *lock) check() error {
	held, err := l.file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(held, there)):
		return operator.Require(fmt.Errorf("%w: %s was removed or replaced while this relay held it, so another may be running on the folder",
			ErrLocked, l.path), "make sure that only one is, then start it again")
	case err != nil:
		return err
	}
	return nil
}

func (l *lock) release() error {
	_ = l.file.Truncate(0) // what it says serves people only, and the lock goes with the file descriptor
	return l.file.Close()
}
