//go:build unix

package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"workos-relay/checkpoint"
)

// disk is the checkpoint directory of a relay: it outlives the processes that use it. One of them
// at a time may.
type disk struct {
	w      *world
	digits string // of the holder

	mu          sync.Mutex
	owner       *process
	saved       *checkpoint.Checkpoint
	destination *checkpoint.Destination
}

var errDiskFull = errors.New("no space left on device")

func (d *disk) open(p *process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owner != nil {
		panic("two processes use one directory")
	}
	d.owner = p
}

func (d *disk) close(p *process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owner == p {
		d.owner = nil
	}
}

// of returns the directory as a process uses it for the lane id.
func (d *disk) of(p *process, id checkpoint.Identity) *directory {
	return &directory{d: d, p: p, id: id}
}

// directory is a checkpoint.Store and a pipeline.DestinationStore.
type directory struct {
	d  *disk
	p  *process
	id checkpoint.Identity
}

// use begins an access. The caller unlocks d.mu, also after an error.
func (u *directory) use(ctx context.Context) error {
	u.p.stand()
	u.d.mu.Lock()
	if u.p.isDead() {
		return errDead
	}
	return ctx.Err()
}

// Load implements checkpoint.Store.
func (u *directory) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	err := u.use(ctx)
	defer u.d.mu.Unlock()
	switch {
	case err != nil:
		return checkpoint.Checkpoint{}, err
	case u.d.saved == nil:
		return checkpoint.Checkpoint{}, fmt.Errorf("%w in the directory of %s", checkpoint.ErrNotFound, u.p.name)
	}
	if err := u.id.Check(u.d.saved.Source); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return copied(*u.d.saved), nil
}

func copied(cp checkpoint.Checkpoint) checkpoint.Checkpoint {
	c, err := checkpoint.Decode(checkpoint.Encode(cp))
	if err != nil {
		panic(err)
	}
	c.Revision = cp.Revision
	return c
}

// Commit implements checkpoint.Store. A full disk fails before or after the rename.
func (u *directory) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	err := u.use(ctx)
	defer u.d.mu.Unlock()
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if err := u.id.Check(next.Source); err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("refused to commit for another: %w", err)
	}
	current := uint64(0)
	if u.d.saved != nil {
		current = u.d.saved.Revision
	}
	if u.d.saved != nil && u.id.Check(u.d.saved.Source) != nil {
		return checkpoint.Checkpoint{}, u.id.Check(u.d.saved.Source)
	}
	if prev.Revision != current {
		return checkpoint.Checkpoint{}, fmt.Errorf("%w: revision %d is current, not %d", checkpoint.ErrConflict, current, prev.Revision)
	}
	fails := u.d.w.diskFails(u.p)
	if fails == failsBefore {
		return checkpoint.Checkpoint{}, errDiskFull
	}
	saved := copied(next)
	saved.Revision = current + 1
	u.d.saved = &saved
	u.d.w.committedToDisk(u.p, saved)
	if fails == failsAfter {
		return checkpoint.Checkpoint{}, errDiskFull
	}
	return copied(saved), nil
}

// LoadDestination implements pipeline.DestinationStore.
func (u *directory) LoadDestination(ctx context.Context) (checkpoint.Destination, error) {
	err := u.use(ctx)
	defer u.d.mu.Unlock()
	switch {
	case err != nil:
		return checkpoint.Destination{}, err
	case u.d.destination == nil:
		return checkpoint.Destination{}, checkpoint.ErrNotFound
	}
	return copiedDestination(*u.d.destination), nil
}

// SaveDestination implements pipeline.DestinationStore.
func (u *directory) SaveDestination(ctx context.Context, dest checkpoint.Destination) error {
	err := u.use(ctx)
	defer u.d.mu.Unlock()
	if err != nil {
		return err
	}
	dest = copiedDestination(dest)
	u.d.destination = &dest
	return nil
}

func copiedDestination(d checkpoint.Destination) checkpoint.Destination {
	d.Parts = slices.Clone(d.Parts)
	for i := range d.Parts {
		d.Parts[i].Ends = slices.Clone(d.Parts[i].Ends)
	}
	return d
}
