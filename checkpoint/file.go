package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"workos-relay/internal/operator"
)

// File is a Store in a directory of the local file system, under a lock that keeps every other
// process out. For relay R and lane L its files are R.L.checkpoint, the current checkpoint;
// R.L.previous, the one before it; R.L.destination, the record of the destination; R.L.lock; and
// R.L.holder. Characters of the two names other than letters, digits, _ and - are percent-encoded.
//
// A commit costs one fsync of a file and one of the directory. The checkpoint is never missing or
// half written, not even after a crash or a power failure, provided that the file system implements
// fsync and rename as documented. Waiting for the disk cannot be interrupted: Commit checks its
// context before it begins, not while it writes.
type File struct {
	id     Identity
	paths  paths
	holder string
	now    func() time.Time

	mu   sync.Mutex
	lock *lock // nil when closed
}

var _ Store = (*File)(nil)

// FileOption changes how OpenFile works.
type FileOption func(*File)

// WithClock sets the clock that archives and the lock are stamped with, for tests. The default is
// time.Now.
func WithClock(now func() time.Time) FileOption { return func(f *File) { f.now = now } }

// OpenFile opens the store of id in the directory dir. It creates a missing directory, readable by
// its owner only. It returns an error that matches ErrLocked and names the holder if another
// process, or another File of this process, has the store open, and one that asks for an operator
// if other users could replace files in dir. It removes temporary files that a crash left behind.
// It does not read the checkpoint: Load does that.
func OpenFile(dir string, id Identity, opts ...FileOption) (*File, error) {
	p, err := newPaths(dir, id)
	if err != nil {
		return nil, err
	}
	f := &File{id: id, paths: p, now: time.Now}
	for _, opt := range opts {
		opt(f)
	}
	if err := makeDir(dir); err != nil {
		return nil, notMade(dir, err)
	}
	if err := CheckDirectory(dir, "checkpoint.dir"); err != nil {
		return nil, err
	}
	f.lock, err = takeLock(p.lock, f.now())
	if err != nil {
		return nil, notLocked(dir, err)
	}
	if err := f.prepare(); err != nil {
		return nil, errors.Join(notPrepared(dir, err), f.Close())
	}
	return f, nil
}

// notMade, notLocked and notPrepared are the errors of OpenFile and CheckFile for a directory that
// cannot be created, locked or read.
func notMade(dir string, err error) error {
	return unusable(fmt.Errorf("create the checkpoint directory %s (checkpoint.dir): %w", dir, err))
}

func notLocked(dir string, err error) error {
	if errors.Is(err, ErrLocked) || operator.Required(err) {
		return err
	}
	return unusable(fmt.Errorf("lock the checkpoint directory %s (checkpoint.dir): %w", dir, err))
}

func notPrepared(dir string, err error) error {
	if operator.Required(err) {
		return err
	}
	return unusable(fmt.Errorf("prepare the checkpoint directory %s (checkpoint.dir): %w", dir, err))
}

// unusable returns err, and asks an operator to act unless the error may pass: a full disk may get
// space, and a failing disk may answer the next time.
func unusable(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EMFILE) {
		return err
	}
	return operator.Require(err, "correct checkpoint.dir, or let relay write there")
}

// prepare runs under the lock, before any other operation.
func (f *File) prepare() error {
	leftovers, err := f.paths.temporaries()
	if err != nil {
		return err
	}
	for _, path := range leftovers {
		if err := removeIfThere(path); err != nil {
			return err
		}
	}
	f.holder, err = loadHolder(f.paths)
	return err
}

// ReadFile reads the checkpoint of id in the directory dir without the lock, so it works while a
// relay is running. Its errors are those of File.Load.
func ReadFile(dir string, id Identity) (Checkpoint, error) {
	p, err := newPaths(dir, id)
	if err != nil {
		return Checkpoint{}, err
	}
	return load(p, id)
}

// Load implements Store. It also returns a checkpoint that was committed in another mode of
// delivery: the caller compares.
func (f *File) Load(ctx context.Context) (Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return Checkpoint{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return Checkpoint{}, err
	}
	return load(f.paths, f.id)
}

func load(p paths, id Identity) (Checkpoint, error) {
	document, err := readBounded(p.main)
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Lstat(p.previous); statErr == nil { // relay never leaves it so
			return Checkpoint{}, fmt.Errorf("%w: %s does not exist, though the one before it does: %s", ErrNotFound, p.main, p.previous)
		}
		return Checkpoint{}, fmt.Errorf("%w: %s does not exist", ErrNotFound, p.main)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read the checkpoint: %w", err)
	}
	c, err := decodeOwn(id, document)
	if err != nil {
		return Checkpoint{}, operator.Require(fmt.Errorf("%s: %w", p.main, err), p.advice(err))
	}
	return c, nil
}

// advice returns what to do about a checkpoint that exists and cannot be used.
func (p paths) advice(err error) string {
	if errors.As(err, new(*NewerError)) {
		return "" // it says what to do
	}
	if errors.Is(err, ErrForeign) {
		return "give this relay another checkpoint.dir, or say where it is to go on"
	}
	if _, statErr := os.Stat(p.previous); statErr == nil {
		return "the one before it is kept in " + p.previous + "; say where to go on"
	}
	return "say where to go on"
}

// Commit implements Store. It reads and compares what is on the disk each time. If a commit fails,
// for example because the disk is full or the directory became read-only, the current checkpoint
// stays.
func (f *File) Commit(ctx context.Context, prev, next Checkpoint) (Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return Checkpoint{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return Checkpoint{}, err
	}
	have, err := readBounded(f.paths.main)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Checkpoint{}, fmt.Errorf("read the checkpoint to be replaced: %w", err)
	}
	committed, document, err := swap(f.id, have, prev, next)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%s: %w", f.paths.main, err)
	}
	if err := f.paths.replace(document, have != nil); err != nil {
		return Checkpoint{}, fmt.Errorf("write the checkpoint %s: %w; the previous checkpoint stays in effect", f.paths.main, err)
	}
	if err := syncDir(f.paths.dir); err != nil {
		return Checkpoint{}, fmt.Errorf("make the checkpoint %s durable: fsync of its directory: %w", f.paths.main, err)
	}
	return committed, nil
}

// replace makes document the current checkpoint, and the current one the previous one.
func (p paths) replace(document []byte, existed bool) error {
	temporary := p.main + temporarySuffix
	if err := writeSynced(temporary, document); err != nil {
		return errors.Join(err, removeIfThere(temporary))
	}
	if existed {
		if err := keepAs(p.main, p.previous); err != nil {
			return errors.Join(fmt.Errorf("keep the one before as %s: %w", p.previous, err), removeIfThere(temporary))
		}
	}
	if err := os.Rename(temporary, p.main); err != nil {
		return errors.Join(err, removeIfThere(temporary))
	}
	return nil
}

// Holder identifies this directory among the holders of the lane: a random name of 32 hexadecimal
// digits, made by the first OpenFile and kept in the directory. HolderName makes the name of a
// process from it. A relay that was killed recognizes its own lease by it when it restarts.
func (f *File) Holder() string { return f.holder }

// Close releases the lock. Every call after it fails with an error that matches os.ErrClosed;
// closing again does nothing.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return nil
	}
	err := f.lock.release()
	f.lock = nil
	return err
}

// usable returns why the store cannot be used, nil if it can. f.mu is held.
func (f *File) usable() error {
	if f.lock == nil {
		return fmt.Errorf("checkpoint store %s: %w", f.paths.dir, os.ErrClosed)
	}
	return f.lock.check()
}
