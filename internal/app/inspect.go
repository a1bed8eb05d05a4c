package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// Finder returns a Delivery that finds the mode and the position of the lane by the functions of a
// start, and changes nothing. fit reports whether the bus can do exactly_once; nil asks nothing.
func (l *Lane) Finder(b *Bus, fit func(context.Context) error) *pipeline.Delivery {
	dir, id := l.Config.Checkpoint.Dir, l.Identity()
	owner := pipeline.Ownership{
		Topics: l.Topics, Identity: id, Logger: zap.NewNop(),
		Guard: &pipeline.Guard{Store: readOnlyDestination{dir, id}, Logger: zap.NewNop()},
	}
	d := &pipeline.Delivery{
		Want:        checkpoint.Mode(l.Sink.Delivery),
		AtLeastOnce: &pipeline.AtLeastOnce{Ownership: owner, Sink: b, Store: readOnly{dir: dir, id: id}},
		Incapable:   l.Incapable,
		Fit:         fit,
	}
	if b.Ledger != nil {
		d.ExactlyOnce = &pipeline.ExactlyOnce{Ownership: owner, Ledger: b.Ledger}
	}
	return d
}

// Outlook is where a start of a lane would go on.
type Outlook struct {
	// First: there is no position yet, and the lane begins at source.start. Latest: that is after
	// everything that there is now.
	First, Latest bool
	// From is the position, with all that is known of it. It is zero if First is set.
	From checkpoint.Checkpoint
	// Rival is another relay that may hold the lease: who it is, as the position names it. It is
	// empty if there is none.
	Rival string
	// Unknown: an embedded server that does not run may hold the position.
	Unknown bool
	// Remembered: the position is inside an embedded server that does not run, and From is only
	// what relay remembers of it.
	Remembered bool
}

// Outlook finds the position from which a start of the lane would go on, with the errors of a
// start, and claims nothing.
func (l *Lane) Outlook(ctx context.Context, d *pipeline.Delivery) (Outlook, error) {
	cp, err := d.Load(ctx)
	first := errors.Is(err, checkpoint.ErrNotFound)
	if err != nil && !first {
		return Outlook{}, err
	}
	if err := d.Verify(ctx); err != nil {
		return Outlook{}, err
	}
	if first {
		return Outlook{First: true, Latest: l.Config.Source.Start.Latest}, nil
	}
	out := Outlook{From: cp}
	own, err := checkpoint.ReadHolder(l.Config.Checkpoint.Dir, l.Identity())
	if err == nil && d.Shared() && !checkpoint.SameStore(cp.Holder, own) && !cp.Released {
		out.Rival = cp.Holder
	}
	return out, nil
}

// readOnly reads a checkpoint file that a running relay may have locked.
type readOnly struct {
	dir string
	id  checkpoint.Identity
}

// Load implements checkpoint.Store.
func (s readOnly) Load(context.Context) (checkpoint.Checkpoint, error) {
	return checkpoint.ReadFile(s.dir, s.id)
}

// Commit implements checkpoint.Store. It always fails.
func (readOnly) Commit(context.Context, checkpoint.Checkpoint, checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return checkpoint.Checkpoint{}, errors.ErrUnsupported
}

// OutlookOffline is Outlook for a lane whose embedded server does not run. It knows what the
// checkpoint file says and what relay remembers of the server.
func (l *Lane) OutlookOffline(ctx context.Context, server *sink.Rehearsal) (Outlook, error) {
	known, err := checkpoint.ReadDestination(l.Config.Checkpoint.Dir, l.Identity())
	nothing := errors.Is(err, checkpoint.ErrNotFound)
	if err != nil && !nothing {
		return Outlook{}, err
	}
	bus := &offline{identity: l.Sink.Settings.Identity(), known: known, stored: server.Stored}
	d := l.Finder(&Bus{Sink: bus, Ledger: bus}, func(context.Context) error { return nil })
	out, err := l.Outlook(ctx, d)
	out.Remembered = !out.First && d.Mode() == checkpoint.ExactlyOnce
	out.Unknown = out.First && nothing && server.Stored
	out.Rival = ""
	return out, err
}

// offline is the bus of an embedded server that does not run, as far as relay remembers it.
type offline struct {
	sink.Sink
	identity string
	known    checkpoint.Destination
	stored   bool // its store has the stream
}

// Identity implements sink.Destination.
func (b *offline) Identity() string { return b.identity }

// Load implements sink.Ledger by what is remembered.
func (b *offline) Load(context.Context) (checkpoint.Checkpoint, error) {
	if b.known.Mode != checkpoint.ExactlyOnce {
		return checkpoint.Checkpoint{}, checkpoint.ErrNotFound
	}
	return checkpoint.Checkpoint{Position: b.known.Position, Source: b.known.Source, Mode: b.known.Mode, Released: b.known.Closed}, nil
}

// Survey implements sink.Destination: a store that is there has not lost anything as far as can be
// seen.
func (b *offline) Survey(_ context.Context, _ []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	if !b.stored {
		return nil, nil
	}
	parts := slices.Clone(known)
	for i := range parts {
		parts[i].Ends = nil
	}
	return parts, nil
}

// Holds implements sink.Destination. What the store holds is not known.
func (*offline) Holds(context.Context, []string) (bool, error) { return false, nil }

// Fence implements sink.Ledger.
func (*offline) Fence(context.Context) error { return errors.ErrUnsupported }

// Commit implements sink.Ledger.
func (*offline) Commit(context.Context, []sink.Message, checkpoint.Checkpoint, checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return checkpoint.Checkpoint{}, errors.ErrUnsupported
}

// LoadForReplace implements sink.Ledger.
func (*offline) LoadForReplace(context.Context) (checkpoint.Checkpoint, error) {
	return checkpoint.Checkpoint{}, errors.ErrUnsupported
}

// Forget implements sink.Ledger.
func (*offline) Forget() {}

// readOnlyDestination reads what relay remembers of a bus, and never writes it.
type readOnlyDestination struct {
	dir string
	id  checkpoint.Identity
}

// LoadDestination implements pipeline.DestinationStore.
func (d readOnlyDestination) LoadDestination(context.Context) (checkpoint.Destination, error) {
	return checkpoint.ReadDestination(d.dir, d.id)
}

// SaveDestination implements pipeline.DestinationStore.
func (readOnlyDestination) SaveDestination(context.Context, checkpoint.Destination) error { return nil }

// Next is the event that a start of a lane would read first.
type Next struct {
	Position checkpoint.Position
	None     bool          // there is none yet
	Age      time.Duration // of the event, by the clock of the Events API
	ClockOff string        // says that the clock of this machine differs from that of the Events API; else empty
}

// clockTolerance is how far the clock of this machine may be off before that is worth a warning.
const clockTolerance = time.Minute

// Next asks the Events API which event a start of the lane would read first. It retries nothing.
func (l *Lane) Next(ctx context.Context, client *source.Client, out Outlook) (Next, error) {
	if out.First {
		var err error
		if out.From.Position, err = l.Position(ctx, client, nil, l.Config.Source.Start); err != nil {
			return Next{}, err
		}
	}
	var off time.Duration
	s := l.Stream(client, &source.Hooks{OnResponse: func(r source.ResponseInfo) {
		if !r.Now.IsZero() {
			off = time.Since(r.Now)
		}
	}})
	s.Logger = zap.NewNop()
	page, err := s.Look(ctx, out.From)
	if err != nil {
		return Next{}, err
	}
	next := Next{None: len(page.Events) == 0}
	if !next.None {
		next.Position = page.Events[0].Position()
		next.Age = max(page.Now.Sub(next.Position.CreatedAt), 0)
	}
	if off.Abs() > clockTolerance {
		direction := "ahead of"
		if off < 0 {
			direction = "behind"
		}
		next.ClockOff = fmt.Sprintf("the clock of this machine is %s %s that of the Events API: set it, since certificates and tokens depend on it", off.Abs().Round(time.Second), direction)
	}
	return next, nil
}

// Roughly writes a duration in its largest unit, for people.
func Roughly(d time.Duration) string {
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if n := int(d.Round(u.unit) / u.unit); n >= 2 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return fmt.Sprintf("%d seconds", int(d.Round(time.Second)/time.Second))
}
