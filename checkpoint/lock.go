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

// lock is a file that one process at a time has locked. The operating system releases the lock when
// the process ends, however it ends. The file itself stays, because removing it would let two
// processes lock two files of one name.
type lock struct {
	path string
	file *os.File
	sole bool // the file has no other name: it may be written to
}

// takeLock locks the file at path, creating it if it is missing, and writes into it who holds it.
// If another process holds it, takeLock returns an error that matches ErrLocked and names that
// process. It writes nothing before it holds the lock, and never to a file that has a second name.
func takeLock(path string, now time.Time) (*lock, error) {
	f, err := openOwn(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := lockPatiently(f); err != nil {
		return nil, errors.Join(notTaken(f, path, err), f.Close())
	}
	l := &lock{path: path, file: f}
	if info, err := f.Stat(); err == nil {
		l.sole = soleName(info)
	}
	if err := l.describe(now); err != nil {
		return nil, errors.Join(fmt.Errorf("write who holds %s: %w", path, err), f.Close())
	}
	return l, nil
}

// lockTries is how often takeLock tries, since CheckFile of another process holds the lock for an
// instant. lockPause is the time between two tries.
const (
	lockTries = 5
	lockPause = 20 * time.Millisecond
)

func lockPatiently(f *os.File) error {
	for try := 1; ; try++ {
		err := lockFile(f)
		if !errors.Is(err, errHeld) || try == lockTries {
			return err
		}
		time.Sleep(lockPause)
	}
}

// notTaken is the error for a lock that cannot be taken because of err, an error of lockFile.
func notTaken(f *os.File, path string, err error) error {
	if !errors.Is(err, errHeld) {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	return operator.Require(fmt.Errorf("%w: another relay%s uses this directory (%s)", ErrLocked, holderNote(f), path),
		"stop it or give one another checkpoint.dir")
}

// errHeld is the error of lockFile if another process holds the lock.
var errHeld = errors.New("held by another")

// describe writes who holds the lock. Only the error message of another process uses it.
func (l *lock) describe(now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if err := l.empty(); err != nil {
		return err
	}
	if !l.sole {
		return nil
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

// check returns an error that matches ErrLocked if the file was removed or replaced, so that the
// lock protects nothing.
func (l *lock) check() error {
	held, err := l.file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(held, there)):
		return operator.Require(fmt.Errorf("%w: %s was removed or replaced while this relay held it, so another may be using the directory",
			ErrLocked, l.path), "make sure that only one is, then start it again")
	case err != nil:
		return err
	}
	return nil
}

func (l *lock) release() error {
	_ = l.empty() // the text is only informative, and closing the file releases the lock
	return l.file.Close()
}

// empty takes out who holds the lock.
func (l *lock) empty() error {
	if !l.sole {
		return nil
	}
	return l.file.Truncate(0)
}
