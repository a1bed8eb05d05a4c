package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
	"workos-relay/internal/snapshot"
	"workos-relay/internal/verify"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
	apilists "workos-relay/source/lists"
	"workos-relay/state"
)

// StateCheck returns what compares the state of a lane with the lists of WorkOS, for the entities
// of which snapshot.Listed says that it reads a list.
func (l *Lane) StateCheck(client *source.Client, objects *Objects, entities []string) *verify.StateCheck {
	return &verify.StateCheck{
		Source:       &stateSource{lane: l, client: client, lists: &apilists.Client{Getter: &source.Getter{Client: client, Hooks: l.asks, Logger: l.Log}}},
		Form:         stateForm{l.Router},
		Stored:       objects,
		Entities:     entities,
		Organization: l.Config.Source.OrganizationID,
	}
}

// stateSource implements verify.StateSource.
type stateSource struct {
	lane   *Lane
	client *source.Client
	lists  *apilists.Client
}

// Get implements verify.StateSource.
func (s *stateSource) Get(ctx context.Context, ref apilists.Ref) (apilists.Object, error) {
	return s.lists.Get(ctx, ref)
}

// List implements verify.StateSource. It reads the lists as a snapshot does, and publishes nothing.
func (s *stateSource) List(ctx context.Context, entity string, fn func(*state.Change) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error
	e := &snapshot.Engine{
		Lists:        s.lists,
		Entities:     []string{entity},
		Organization: s.lane.Config.Source.OrganizationID,
		Message: func(batch []sink.Message, c *state.Change, _ string) ([]sink.Message, error) {
			if failed == nil {
				if failed = fn(c); failed != nil {
					cancel()
				}
			}
			return batch, nil
		},
		Now:    func(ctx context.Context) (time.Time, error) { return s.lane.Stream(s.client, nil).Now(ctx) },
		Logger: s.lane.Log.WithOptions(zap.IncreaseLevel(zapcore.WarnLevel)),
	}
	if err := e.Request(nil); err != nil {
		return err
	}
	for _, err := range e.Read(ctx, checkpoint.Checkpoint{}) {
		if failed != nil {
			return failed
		}
		if err != nil {
			return err
		}
	}
	return failed
}

const (
	carriedTries = 4
	carriedPause = 2 * time.Second
)

// Carried implements verify.StateSource. It asks WorkOS what follows the checkpoint of the lane.
func (s *stateSource) Carried(ctx context.Context) (now, carried time.Time, known bool, err error) {
	for try := 1; ; try++ {
		now, carried, known, err = s.carried(ctx)
		if err == nil || try == carriedTries || ctx.Err() != nil {
			return now, carried, known, err
		}
		if err := retry.Sleep(ctx, carriedPause); err != nil {
			return now, carried, known, err
		}
	}
}

func (s *stateSource) carried(ctx context.Context) (now, carried time.Time, known bool, err error) {
	stream := s.lane.Stream(s.client, nil)
	stream.Logger = zap.NewNop()
	cp, err := s.lane.Committed(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound): // none, or it is on another machine
		now, err = stream.Now(ctx)
		return now, time.Time{}, false, err
	case err != nil:
		return time.Time{}, time.Time{}, false, fmt.Errorf("read the checkpoint: %w", err)
	}
	page, err := stream.Look(ctx, cp)
	switch {
	case err != nil:
		return time.Time{}, time.Time{}, true, err
	case page.Now.IsZero():
		now = time.Now()
	default:
		now = page.Now
	}
	if len(page.Events) == 0 {
		return now, now, true, nil
	}
	return now, page.Events[0].CreatedAt, true, nil
}

// stateForm implements verify.StateForm.
type stateForm struct{ router *router.Router }

// Object implements verify.StateForm.
func (f stateForm) Object(entity string, object []byte) (shown []byte, out bool) {
	e, ok := state.Lookup(entity)
	if !ok {
		return nil, true
	}
	c, ok := e.Of(object)
	if !ok {
		return nil, true
	}
	messages, err := f.router.AppendObject(nil, &c, "")
	if err != nil || len(messages) == 0 || f.router.MayLeaveOut(entity, object) {
		return nil, true
	}
	return f.router.ObjectIn(messages[0].Body), false
}

// MayLeaveOut implements verify.StateForm.
func (f stateForm) MayLeaveOut(entity string, object []byte) bool {
	return f.router.MayLeaveOut(entity, object)
}

// ErrSnapshotGoesOn means that a lane publishes a snapshot, so that its state is not complete.
var ErrSnapshotGoesOn = errors.New("the lane publishes a snapshot, so its state is not complete yet; run relay verify --state again when `relay status` says that it is finished")

// NoSnapshotGoesOn returns ErrSnapshotGoesOn while the lane publishes a snapshot.
func (l *Lane) NoSnapshotGoesOn(ctx context.Context) error {
	cp, err := l.Committed(ctx)
	if err != nil && !errors.Is(err, checkpoint.ErrNotFound) {
		return fmt.Errorf("read the checkpoint, to see whether a snapshot goes on: %w", err)
	}
	if s := cp.Snapshot; err == nil && s != nil && !s.Finished() && l.rules().Reads(cp) {
		return ErrSnapshotGoesOn
	}
	return nil
}
