package snapshot

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
	"workos-relay/source"
	"workos-relay/source/lists"
)

const (
	// patience is how long WorkOS may refuse a list before relay asks whether it answers at all.
	patience = 10 * time.Second
	// laterPatience is the same after one list was refused for so long: an API key that may not
	// read one list often may not read several, and an emulator may have none.
	laterPatience = 2 * time.Second
	// mostRefused is how many lists of an entity are asked for if each of them is refused.
	mostRefused = 8
	// mostRestarts is how often a list that WorkOS does not continue is read again from its start.
	mostRestarts = 3
	// mostRestartsOfAll is the same of all lists of an entity together.
	mostRestartsOfAll = 30
	// reasonLimit bounds what a checkpoint records of a refusal, in bytes.
	reasonLimit = 300
)

// Patience returns how long a request that is made now may be refused, for lists.Client.Patience.
// It may be called at any time from any goroutine.
func (e *Engine) Patience() time.Duration {
	switch {
	case !e.LeaveOut:
		return 0
	case e.refuses.Load():
		return laterPatience
	default:
		return patience
	}
}

// refusedError means that WorkOS refuses a list, or an object, although it answers requests for
// events.
type refusedError struct{ err error }

// Error implements error.
func (e *refusedError) Error() string { return e.err.Error() }

// Unwrap returns the refusal.
func (e *refusedError) Unwrap() error { return e.err }

// isRefused reports whether err contains a *refusedError.
func isRefused(err error) bool { return errors.As(err, new(*refusedError)) }

// ask makes a request. If WorkOS refuses it, ask waits until WorkOS answers a request for events,
// since it may be the key or the network that is at fault, and makes it again. It returns a
// *refusedError if it is refused once more.
func (e *Engine) ask(ctx context.Context, request func() error) error {
	err := request()
	if !e.LeaveOut || !errors.As(err, new(*source.RefusalError)) {
		return err
	}
	if _, err := e.Now(ctx); err != nil {
		return err
	}
	e.refuses.Store(true)
	err = request()
	if refusal := (*source.RefusalError)(nil); errors.As(err, &refusal) {
		return &refusedError{refusal.Err}
	}
	e.refuses.Store(false)
	return err
}

func (e *Engine) page(ctx context.Context, q lists.Query) (p lists.Page, err error) {
	err = e.ask(ctx, func() (err error) {
		p, err = e.Lists.Page(ctx, q)
		return err
	})
	return p, err
}

func (e *Engine) get(ctx context.Context, ref lists.Ref) (o lists.Object, err error) {
	err = e.ask(ctx, func() (err error) {
		o, err = e.Lists.Get(ctx, ref)
		return err
	})
	return o, err
}

// restarted takes note that WorkOS does not continue a list of an entity; parents tells which, and
// is nil for the lists of its parents together. It returns err, or a *refusedError if reading the
// list from its start, or lists of the entity, was tried often enough.
func (e *Engine) restarted(entity string, parents []string, err error) error {
	if e.restarts == nil {
		e.restarts = map[string]int{}
	}
	one := entity + " " + strings.Join(parents, " ") // differs from entity, the key of all
	e.restarts[entity]++
	e.restarts[one]++
	if e.LeaveOut && (e.restarts[one] > mostRestarts || e.restarts[entity] > mostRestartsOfAll) {
		return &refusedError{err}
	}
	return err
}

// refuse returns s with the refusal of s.Entity, which is logged unless one is recorded.
func (e *Engine) refuse(s *checkpoint.Snapshot, err error) *checkpoint.Snapshot {
	if s.Refusal(s.Entity) != "" {
		return s
	}
	e.Logger.Error("snapshot: WorkOS refuses a list; its entity is not read as a whole, and its state topic may lack objects",
		zap.String("entity", s.Entity), zap.Error(err), zap.String("once_it_is_allowed", "relay snapshot --entities "+s.Entity))
	next := *s
	next.Refused = append(slices.Clone(s.Refused), checkpoint.SnapshotRefusal{Entity: s.Entity, Reason: printable.Clip(err.Error(), reasonLimit)})
	return &next
}
