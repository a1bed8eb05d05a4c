package app

import (
	"context"
	"errors"
	"net"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// The position of a lane is in one of two places. The mode of delivery decides which. Commands use
// these names.
const (
	InFile = "file" // at_least_once: the checkpoint file
	OnBus  = "bus"  // exactly_once: the bus itself
)

// place is one of the two places where the position of a lane may be.
type place struct {
	name  string
	mode  checkpoint.Mode // of the positions that belong there
	store checkpoint.Store
}

// here returns the position of the place. It returns false if there is none, or if it is marked as
// moved to the other place.
func (p *place) here(ctx context.Context) (checkpoint.Checkpoint, bool, error) {
	cp, err := p.store.Load(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		return cp, false, nil
	case err != nil:
		return cp, false, err
	}
	return cp, cp.Mode == p.mode, nil
}

// Positions are both places of a lane, open.
type Positions struct {
	lane   *Lane
	file   *place
	bus    *place // nil where the sink keeps no positions
	ledger sink.Ledger
	holder string
	// holding is asked whether the destination holds messages; nil if it cannot be asked.
	holding sink.Destination

	moves func() // is called before a position is written; nil for nothing
	disk  *checkpoint.File
	Close func() error
}

// OpenPositions opens both places and holds the lock of the checkpoint directory. The caller must
// close them.
func (l *Lane) OpenPositions(ctx context.Context) (*Positions, error) {
	disk, err := checkpoint.OpenFile(l.Config.Checkpoint.Dir, l.Identity())
	if err != nil {
		return nil, err
	}
	p := &Positions{
		lane: l, disk: disk, holder: l.Holder(disk), Close: disk.Close,
		file: &place{name: InFile, mode: checkpoint.AtLeastOnce, store: disk},
	}
	if !l.MayBeOnBus() { // a kind of bus that keeps nothing to look at
		return p, nil
	}
	b, err := l.reach(ctx)
	if err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	p.holding = b
	p.Close = func() error { return errors.Join(b.Close(), disk.Close()) }
	if p.ledger = b.Ledger; p.ledger != nil {
		p.bus = &place{name: OnBus, mode: checkpoint.ExactlyOnce, store: sink.Positions(p.ledger)}
	}
	return p, nil
}

// MayBeOnBus reports whether the bus is of a kind that can keep the position.
func (l *Lane) MayBeOnBus() bool { return l.Sink.Kind.KeepsPositions }

// Reach opens the bus of the lane for a command. If an embedded server runs inside of another
// process, Reach connects to it.
func (l *Lane) reach(ctx context.Context) (*Bus, error) {
	if server := l.Embedded(); server != nil && l.EmbeddedRuns(ctx) {
		return l.openBus(ctx, server.Outside)
	}
	return l.Open(ctx)
}

// EmbeddedRuns reports whether a process listens on the address of the embedded server, which the
// lane must have.
func (l *Lane) EmbeddedRuns(ctx context.Context) bool {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", l.Embedded().Address)
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only to see
	return true
}

// current returns the place that holds the position. If neither does, it returns the place that the
// configuration asks for; to find that out may create topics, unless only is set: then it returns
// the checkpoint file or, for exactly_once, the bus.
func (p *Positions) current(ctx context.Context, only bool) (*place, error) {
	if p.bus == nil {
		return p.file, nil
	}
	_, fileHas, err := p.file.here(ctx)
	if err != nil && !replaceable(err) {
		return nil, err
	}
	fileHas = fileHas || err != nil
	_, busHas, err := p.bus.here(ctx)
	busHas = busHas || replaceable(err)
	switch {
	case err != nil && !busHas:
		return nil, err
	case fileHas && busHas:
		return nil, Usage(errors.New("the lane has two positions, one in the checkpoint file and one on the bus: say which holds, with --from file or --from bus"))
	case fileHas:
		return p.file, nil
	case busHas:
		return p.bus, nil
	case only && checkpoint.Mode(p.lane.Sink.Delivery) == checkpoint.AtLeastOnce:
		return p.file, nil
	case only:
		return p.bus, nil
	}
	return p.wanted(ctx)
}

// wanted returns the place where a first start would put the position.
func (p *Positions) wanted(ctx context.Context) (*place, error) {
	if checkpoint.Mode(p.lane.Sink.Delivery) == checkpoint.AtLeastOnce || p.bus == nil {
		return p.file, nil
	}
	err := p.ledger.Prepare(ctx, p.lane.Topics)
	switch {
	case err == nil:
		return p.bus, nil
	case p.lane.Incapable(err) && checkpoint.Mode(p.lane.Sink.Delivery) == pipeline.Auto:
		return p.file, nil
	default:
		return nil, err
	}
}

// replaceable reports whether err is about a position that belongs to the place and is unusable, so
// that a move may replace it.
func replaceable(err error) bool {
	return errors.Is(err, checkpoint.ErrCorrupt) || errors.Is(err, checkpoint.ErrForeign) || errors.Is(err, checkpoint.ErrLost)
}

// replace commits the position that becomes returns, for any present content of the place. It
// returns the previous position and the file that keeps it. If the destination has lost messages,
// the new position knows of no snapshot, since what a snapshot published may be among them.
func (p *Positions) replace(ctx context.Context, at *place, becomes func(prev checkpoint.Checkpoint) checkpoint.Checkpoint) (prev checkpoint.Checkpoint, kept string, err error) {
	if at == p.file {
		prev, kept, err = keepPrevious(ctx, p.disk)
	} else if prev, err = p.takeBus(ctx); err == nil && prev.Generation > 0 {
		kept, err = p.disk.Keep(ctx, prev)
	}
	if err != nil {
		return prev, kept, err
	}
	next := becomes(prev).Asking(p.lane.Types)
	if next.Snapshot != nil && p.lost(ctx) {
		next.Snapshot = nil
		p.lane.Log.Warn("the destination may have lost what a snapshot published; a lane that reads snapshots by itself reads one again, for any other relay snapshot does")
	}
	next.Generation, next.Holder, next.Released = prev.Generation+1, p.holder, true
	next.Source, next.Mode, next.UpdatedAt = p.lane.Identity(), at.mode, time.Now().UTC()
	if p.moves != nil {
		p.moves()
	}
	if _, err = at.store.Commit(ctx, prev, next); err != nil {
		return prev, kept, err
	}
	return prev, kept, p.disk.ForgetDestination(ctx) // what it held before does not matter any more
}

// surveyTime bounds how long a move waits for the destination to tell whether it has lost
// something.
const surveyTime = 20 * time.Second

// lost reports whether the destination lacks what is remembered of it. It is false if nothing is
// remembered, and true if nobody can tell.
func (p *Positions) lost(ctx context.Context) bool {
	known, err := p.disk.LoadDestination(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		return false
	case err != nil:
		return true
	case p.holding == nil:
		return known.Source != p.lane.Identity()
	}
	ctx, cancel := context.WithTimeout(ctx, surveyTime)
	defer cancel()
	lost, err := pipeline.HasLost(ctx, p.lane.Identity(), known, p.holding, p.lane.Topics)
	return lost || err != nil
}

// takeBus makes the bus ready for a move. It fails if another relay is active. If another relay has
// not released the position, takeBus watches for up to takeover_after whether that relay is active.
// If the position is unusable, it returns what is known of it.
func (p *Positions) takeBus(ctx context.Context) (checkpoint.Checkpoint, error) {
	p.ledger.Forget()
	if err := p.ledger.Prepare(ctx, p.lane.Topics); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	told := false
	cp, err := pipeline.AwaitSilence(ctx, p.lane.Config.TakeoverAfter, p.holder, func(ctx context.Context) (checkpoint.Checkpoint, error) {
		cp, err := p.ledger.Load(ctx)
		if err == nil && !told && !cp.Released && !checkpoint.SameStore(cp.Holder, p.holder) {
			told = true
			p.lane.Log.Warn("another relay has not released the position; watching whether it is active",
				zap.String("holder", cp.Holder), zap.Duration("for", p.lane.Config.TakeoverAfter))
		}
		return cp, err
	})
	switch {
	case errors.Is(err, pipeline.ErrActive):
		return cp, operator.Require(err, "stop it first")
	case errors.Is(err, checkpoint.ErrNotFound), replaceable(err):
	case err != nil:
		return cp, err
	}
	if err := p.ledger.Fence(ctx); err != nil {
		return cp, err
	}
	return p.ledger.LoadForReplace(ctx)
}

// markMoved marks a place as one whose position was moved to the other place, so that it is never
// used again.
func (p *Positions) markMoved(ctx context.Context, from, to *place) error {
	cp, here, err := from.here(ctx)
	if err != nil || !here {
		return err
	}
	next := cp
	next.Mode, next.Holder, next.Released, next.UpdatedAt = to.mode, p.holder, true, time.Now().UTC()
	_, err = from.store.Commit(ctx, cp, next)
	return err
}

// Committed reads the position of the lane from the place that holds it. It claims nothing.
func (l *Lane) Committed(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := checkpoint.ReadFile(l.Config.Checkpoint.Dir, l.Identity())
	if (errors.Is(err, checkpoint.ErrNotFound) || err == nil && cp.Mode != checkpoint.AtLeastOnce) && l.MayBeOnBus() {
		return l.ReadBus(ctx)
	}
	return cp, err
}

// ReadBus reads the position that the bus of the lane keeps. It returns checkpoint.ErrNotFound if
// there is none.
func (l *Lane) ReadBus(ctx context.Context) (checkpoint.Checkpoint, error) {
	b, err := l.reach(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if b.Ledger == nil {
		return checkpoint.Checkpoint{}, errors.Join(checkpoint.ErrNotFound, b.Close())
	}
	cp, err := b.Ledger.Load(ctx)
	if err == nil && cp.Mode != checkpoint.ExactlyOnce {
		err = checkpoint.ErrNotFound // it was taken to the file
	}
	return cp, errors.Join(err, b.Close())
}

// keepPrevious archives the current checkpoint. It moves an unreadable or foreign checkpoint away,
// so that the next commit finds none.
func keepPrevious(ctx context.Context, store *checkpoint.File) (prev checkpoint.Checkpoint, kept string, err error) {
	prev, err = store.Load(ctx)
	switch {
	case err == nil:
		kept, err = store.Archive(ctx)
	case errors.Is(err, checkpoint.ErrNotFound):
		err = nil
	case errors.Is(err, checkpoint.ErrCorrupt), errors.Is(err, checkpoint.ErrForeign):
		prev = checkpoint.Checkpoint{}
		kept, err = store.Remove(ctx)
	}
	return prev, kept, err
}
