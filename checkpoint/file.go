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

// File is a Store in a folder of the local file system, under a lock that keeps every other process out. For relay R and lane
// L these files are R.L.checkpoint, the checkpoint in force; R.L.previous, the one before it; R.L.lock; and R.L.holder.
// Characters of the two names other than letters, digits, _ and - are percent-encoded.
//
// A commit costs one fsync of a file and one of the folder. At no instant, and after no crash or power failure, is the
// checkpoint missing or half written, as far as the file system keeps what it says of fsync and rename. Waiting for the disk
// cannot be interrupted: a context that ends is seen before a commit begins, not within.
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

// WithClock sets the clock that archives and the lock are stamped with, for tests. The default is time.Now.
func WithClock(now func() time.Time) FileOption { return func(f *File) { f.now = now } }

// OpenFile opens the store of id in the folder dir, which it creates, readable by its owner only, where it is missing. It
// returns an error that matches ErrLocked and names the holder where another process, or another File of this one, has it
// open. What a crash left behind is removed. The checkpoint itself is not read: Load does that.
func OpenFile(dir string, id Identity, opts ...FileOption) (*File, error) {
	p, err := newPaths(dir, id)
	if err != nil {
		return nil, err
	}
	f := &File{id: id, paths: p, now: time.Now}
	for _, opt := range opts {
		opt(f)
	}
	if err := makeFolder(dir); err != nil {
		return nil, unusable(fmt.Errorf("create the folder of checkpoints %s (checkpoint.dir): %w", dir, err))
	}
	f.lock, err = takeLock(p.lock, f.now())
	if err != nil {
		if errors.Is(err, ErrLocked) {
			return nil, err
		}
		return nil, unusable(fmt.Errorf("lock the folder of checkpoints %s (checkpoint.dir): %w", dir, err))
	}
	if err := f.prepare(); err != nil {
		return nil, errors.Join(unusable(fmt.Errorf("prepare the folder of checkpoints %s (checkpoint.dir): %w", dir, err)), f.Close())
	}
	return f, nil
}

// unusable returns err, and asks an operator to act unless it may pass: a disk that is full may be emptied, and a disk that fails
// may answer the next time.
func unusable(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EMFILE) {
		return err
	}
	return operator.Require(err, "correct checkpoint.dir, or let relay write there")
}

// prepare runs under the lock, before anything else.
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

// ReadFile reads the checkpoint of id in the folder dir without the lock, while a relay may be running: for looking at it. Its
// errors are those of File.Load.
func ReadFile(dir string, id Identity) (Checkpoint, error) {
	p, err := newPaths(dir, id)
	if err != nil {
		return Checkpoint{}, err
	}
	return load(p, id)
}

// Load implements Store. A checkpoint committed in another mode of delivery is returned as it stands: the caller compares.
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
		if _, statErr := os.Stat(p.previous); statErr == nil { // no failure of relay's leaves it so
			return Checkpoint{}, fmt.Errorf("%w: %s does not exist, though the one before it does: %s", ErrNotFound, p.main, p.previous)
		}
		return Checkpoint{}, fmt.Errorf("%w: %s does not exist", ErrNotFound, p.main)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("read the checkpoint: %w", err)
	}
	c, err := open(id, document)
	if err != nil {
		return Checkpoint{}, operator.Require(fmt.Errorf("%s: %w", p.main, err), p.advice(err))
	}
	return c, nil
}

// advice says what to do about a checkpoint that is there and cannot be used.
func (p paths) advice(err error) string {
	if errors.Is(err, ErrForeign) {
		return "give this relay another checkpoint.dir, or say where it is to go on with `relay checkpoint set`"
	}
	if _, statErr := os.Stat(p.previous); statErr == nil {
		return "the one before it is kept in " + p.previous + "; say where to go on with `relay checkpoint set`"
	}
	return "say where to go on with `relay checkpoint set`"
}

// Commit implements Store. What is on the disk is read and compared each time. Where a commit fails, as on a full disk or a
// folder that has become read-only, the checkpoint in force stays.
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
		return Checkpoint{}, fmt.Errorf("write the checkpoint %s: %w; the one before stays in force", f.paths.main, err)
	}
	if err := syncFolder(f.paths.dir); err != nil {
		return Checkpoint{}, fmt.Errorf("make the checkpoint %s durable: fsync of its folder: %w", f.paths.main, err)
	}
	return committed, nil
}

// replace puts document in force, and what was in force in the place of the previous one.
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

// Holder identifies this place among those that may hold the lane: a random name, made at the first OpenFile and kept in the
// folder, so that a relay that was killed recognises its own claim when it starts again.
func (f *File) Holder() string { return f.holder }

// Close releases the lock. Every call after it fails with an error that matches os.ErrClosed; closing again does nothing.
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

// usable reports why the store is not, under mu.
func (f *File) usable() error {
	if f.lock == nil {
		return fmt.Errorf("checkpoint store %s: %w", f.paths.dir, os.ErrClosed)
	}
	return f.lock.check()
}
