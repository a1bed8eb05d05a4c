package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Auto asks for the best mode that the bus can do, and keeps a recorded mode.
const Auto checkpoint.Mode = "auto"

// ModeError says that the position of a lane is recorded in another mode than the lane is to run
// in, or in two places. Only an operator can decide which one is valid. It matches
// checkpoint.ErrForeign.
type ModeError struct {
	Lane   string
	Have   checkpoint.Mode // of the position that was found; empty if there is one of each mode
	Text   string          // what was found
	Action string          // what the operator has to do
}

// Error implements error.
func (e *ModeError) Error() string { return e.Text + ": " + e.Action }

// OperatorAction returns what the operator has to do.
func (e *ModeError) OperatorAction() string { return e.Action }

// Is makes errors.Is(err, checkpoint.ErrForeign) hold.
func (e *ModeError) Is(target error) bool { return target == checkpoint.ErrForeign }

// Delivery is the Target that finds the mode of its lane and keeps it. The two modes keep the
// position in different places, so a silent change from one to the other would start over. The
// recorded mode decides. If it contradicts Want, the lane stops. A temporary fault never changes
// the mode.
type Delivery struct {
	Want        checkpoint.Mode // AtLeastOnce, ExactlyOnce or Auto
	AtLeastOnce *AtLeastOnce
	ExactlyOnce *ExactlyOnce // nil if the bus can never do it
	// Incapable reports whether an error of ExactlyOnce.Ledger.Prepare says that the bus cannot do
	// exactly_once as it is.
	Incapable func(error) bool
	// Fit checks whether the bus can do exactly_once if no mode is recorded yet. nil means
	// ExactlyOnce.Ledger.Prepare. `relay check` sets a function that changes nothing.
	Fit func(ctx context.Context) error

	finding sync.Mutex // held while the bus is asked, for as long as that takes
	mu      sync.Mutex // guards chosen, only for moments
	chosen  Target
}

// Observe implements Target.
func (d *Delivery) Observe(o Observer) {
	d.AtLeastOnce.Observe(o)
	if d.ExactlyOnce != nil {
		d.ExactlyOnce.Observe(o)
	}
}

// Mode returns the mode, or Auto if it was not found yet. It never waits for the bus.
func (d *Delivery) Mode() checkpoint.Mode {
	switch d.found().(type) {
	case *AtLeastOnce:
		return checkpoint.AtLeastOnce
	case *ExactlyOnce:
		return checkpoint.ExactlyOnce
	default:
		return Auto
	}
}

// Shared implements Target.
func (d *Delivery) Shared() bool { return d.Mode() == checkpoint.ExactlyOnce }

// Load implements Target.
func (d *Delivery) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	t, err := d.target(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return t.Load(ctx)
}

// Acquire implements Target.
func (d *Delivery) Acquire(ctx context.Context, seen *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	t, err := d.target(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return t.Acquire(ctx, seen)
}

// Append implements Target.
func (d *Delivery) Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	t, err := d.target(ctx)
	if err != nil {
		return prev, err
	}
	return t.Append(ctx, prev, batch, next)
}

// Verify implements Target.
func (d *Delivery) Verify(ctx context.Context) error {
	t, err := d.target(ctx)
	if err != nil {
		return err
	}
	return t.Verify(ctx)
}

// Ping implements Target.
func (d *Delivery) Ping(ctx context.Context) error {
	t, err := d.target(ctx)
	if err != nil {
		return err
	}
	return t.Ping(ctx)
}

// Flush implements Target. Both modes share one Guard.
func (d *Delivery) Flush(ctx context.Context) { d.AtLeastOnce.Flush(ctx) }

// Release implements Target.
func (d *Delivery) Release(ctx context.Context) error {
	t, err := d.target(ctx)
	if err != nil {
		return err
	}
	return t.Release(ctx)
}

// Find finds the mode of the lane if it was not found yet. Its errors are those of a start of the
// lane.
func (d *Delivery) Find(ctx context.Context) (checkpoint.Mode, error) {
	if _, err := d.target(ctx); err != nil {
		return "", err
	}
	return d.Mode(), nil
}

// target returns the Target of the mode. It finds the mode if that was not found yet.
func (d *Delivery) target(ctx context.Context) (Target, error) {
	d.finding.Lock()
	defer d.finding.Unlock()
	if t := d.found(); t != nil {
		return t, nil
	}
	mode, err := d.find(ctx)
	if err != nil {
		return nil, err
	}
	var t Target = d.AtLeastOnce
	if mode == checkpoint.ExactlyOnce {
		t = d.ExactlyOnce
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.chosen = t
	return t, nil
}

// found returns the chosen target, or nil if there is none yet.
func (d *Delivery) found() Target {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.chosen
}

// find looks in which store a position is recorded.
func (d *Delivery) find(ctx context.Context) (checkpoint.Mode, error) {
	lane, log := d.AtLeastOnce.Identity.Lane, d.AtLeastOnce.Logger
	file, err := locatePosition(ctx, d.AtLeastOnce.Store, checkpoint.AtLeastOnce)
	if err != nil {
		return "", err
	}
	bus := nowhere
	if d.ExactlyOnce != nil {
		if bus, err = locatePosition(ctx, d.ExactlyOnce.Ledger, checkpoint.ExactlyOnce); err != nil {
			return "", err
		}
	}
	switch {
	// P8: the mode is the recorded one; two records are a question.
	case file == here && bus == here:
		return "", &ModeError{
			Lane:   lane,
			Text:   fmt.Sprintf("lane %s has two positions, one in the checkpoint file and one on the bus", lane),
			Action: "say which one holds",
		}
	case file == here && d.Want == checkpoint.ExactlyOnce:
		return "", &ModeError{
			Lane:   lane,
			Have:   checkpoint.AtLeastOnce,
			Text:   fmt.Sprintf("lane %s ran as at_least_once and is to run as exactly_once", lane),
			Action: "take its position along",
		}
	case bus == here && d.Want == checkpoint.AtLeastOnce:
		return "", &ModeError{
			Lane:   lane,
			Have:   checkpoint.ExactlyOnce,
			Text:   fmt.Sprintf("lane %s ran as exactly_once and is to run as at_least_once", lane),
			Action: "take its position along",
		}
	case file == here:
		if d.Want == Auto && d.ExactlyOnce != nil {
			log.Info("delivery: at_least_once, as recorded; for exactly_once, stop relay, set delivery: exactly_once, and take the position along with `relay checkpoint set --from file`")
		}
		return checkpoint.AtLeastOnce, nil
	case bus == here:
		log.Info("delivery: exactly_once, as recorded")
		return checkpoint.ExactlyOnce, nil
	case file == elsewhere:
		return "", fmt.Errorf("%w: the checkpoint file says that the position of lane %s was taken to the bus, which has none: "+
			"say where to go on", checkpoint.ErrLost, lane)
	case bus == elsewhere:
		return "", fmt.Errorf("%w: the bus says that the position of lane %s was taken to the checkpoint file, which is not there: "+
			"say where to go on", checkpoint.ErrLost, lane)
	}
	if mode, err := d.remembered(ctx); mode != "" || err != nil {
		return mode, err
	}
	return d.first(ctx, log)
}

// remembered returns the mode of a remembered position if the position is found after all: a bus
// that is starting may have answered that it has none. If it is not found, the error matches
// checkpoint.ErrLost.
func (d *Delivery) remembered(ctx context.Context) (checkpoint.Mode, error) {
	o := &d.AtLeastOnce.Ownership
	known, err := o.Guard.recall(ctx, o.Identity)
	if err != nil || known == nil {
		return "", err
	}
	var t Target = d.AtLeastOnce
	if known.Mode == checkpoint.ExactlyOnce && d.ExactlyOnce != nil {
		t = d.ExactlyOnce
	}
	_, err = t.Load(ctx)
	return known.Mode, err
}

// Whether a store holds the position of a lane. A checkpoint of the other mode was left behind when
// the position moved.
const (
	nowhere = iota
	here
	elsewhere
)

// locatePosition finds out whether store holds the position of a lane of that mode: nowhere, here
// or elsewhere. A position that cannot be used counts as here.
func locatePosition(ctx context.Context, store interface {
	Load(context.Context) (checkpoint.Checkpoint, error)
}, mode checkpoint.Mode) (int, error) {
	cp, err := store.Load(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		return nowhere, nil
	case errors.Is(err, checkpoint.ErrCorrupt), errors.Is(err, checkpoint.ErrForeign):
		return here, nil // its own Load asks the person
	case err != nil:
		return nowhere, err
	case cp.Mode != mode:
		return elsewhere, nil
	default:
		return here, nil
	}
}

// WithoutExactlyOnce says that a lane runs in at_least_once because the bus cannot do exactly_once,
// and what that costs. The log of a start and `relay check` use the same words.
func WithoutExactlyOnce(reason error) string {
	return fmt.Sprintf("delivery: at_least_once, since the bus cannot do exactly_once: %v; after a crash what was in flight may come twice, "+
		"as far as the bus itself does not recognise copies", reason)
}

// first decides if no position is recorded yet.
func (d *Delivery) first(ctx context.Context, log *zap.Logger) (checkpoint.Mode, error) {
	switch {
	case d.Want == checkpoint.AtLeastOnce:
		return checkpoint.AtLeastOnce, nil
	case d.ExactlyOnce == nil && d.Want == checkpoint.ExactlyOnce:
		return "", &sink.FatalError{Err: fmt.Errorf("delivery: %s cannot do exactly_once; use at_least_once or auto", d.AtLeastOnce.Identity.Destination)}
	case d.ExactlyOnce == nil:
		log.Info("delivery: at_least_once, the best that this sink can do")
		return checkpoint.AtLeastOnce, nil
	}
	fit := d.Fit
	if fit == nil {
		fit = func(ctx context.Context) error { return d.ExactlyOnce.Ledger.Prepare(ctx, d.ExactlyOnce.Topics) }
	}
	err := fit(ctx)
	switch {
	case err == nil:
		log.Info("delivery: exactly_once; events and position are stored in one atomic act of the bus")
		return checkpoint.ExactlyOnce, nil
	case d.Incapable != nil && d.Incapable(err) && d.Want == Auto:
		log.Warn(WithoutExactlyOnce(err))
		return checkpoint.AtLeastOnce, nil
	case d.Incapable != nil && d.Incapable(err):
		return "", &sink.FatalError{Err: fmt.Errorf("delivery: exactly_once was asked for: %w", err)}
	default:
		return "", err
	}
}
