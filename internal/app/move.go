package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/source"
)

// Move moves the position of the lane to where the operator says. lanes are all lanes of the
// configuration.
func (p *Positions) Move(ctx context.Context, client *source.Client, to admin.Destination, lanes []*Lane) (admin.Moved, error) {
	switch to.From {
	case InFile:
		return p.moveBetweenModes(ctx, p.file, p.bus, to.DryRun)
	case OnBus:
		return p.moveBetweenModes(ctx, p.bus, p.file, to.DryRun)
	}
	return p.set(ctx, client, to, lanes)
}

// destination returns the position that the operator asks for. near is where the lane stands, the
// zero Position if that is not known. If the position is an event, destination asks the Events API
// whether it exists, unless the operator does without that.
func (l *Lane) destination(ctx context.Context, client *source.Client, near checkpoint.Position, to admin.Destination, lanes []*Lane) (checkpoint.Position, error) {
	if to.From != "" {
		other, err := ChooseLane(lanes, to.From)
		if err != nil {
			return checkpoint.Position{}, err
		}
		cp, err := other.Committed(ctx)
		if err != nil {
			return checkpoint.Position{}, fmt.Errorf("reading the position of lane %s: %w", to.From, err)
		}
		return cp.Position, nil
	}
	start := l.Config.Source.Start
	if !to.Reset {
		if err := start.UnmarshalText([]byte(to.To)); err != nil {
			return checkpoint.Position{}, Usage(fmt.Errorf("%q %w", to.To, err))
		}
	}
	if start.NeedsTime() { // a stream asks until it has an answer
		bounded, cancel := context.WithTimeoutCause(ctx, FindTime, fmt.Errorf("no answer within %s", FindTime))
		defer cancel()
		position, err := l.Position(bounded, client, nil, start)
		if err != nil && bounded.Err() != nil {
			err = fmt.Errorf("nothing was moved: asking the Events API for its time: %w", context.Cause(bounded))
		}
		return position, err
	}
	position, err := l.Position(ctx, client, nil, start)
	if err != nil || position.EventID == "" || to.Unchecked || position.Equal(near) {
		return position, err
	}
	return l.find(ctx, client, near, position.EventID)
}

// set moves the position and leaves it in the same place. It does not skip events unless the
// operator has agreed to that.
func (p *Positions) set(ctx context.Context, client *source.Client, to admin.Destination, lanes []*Lane) (admin.Moved, error) {
	at, err := p.current(ctx, to.DryRun)
	if err != nil {
		return admin.Moved{}, err
	}
	from, prev, err := p.standing(ctx, at)
	if err != nil {
		return admin.Moved{}, err
	}
	position, err := p.lane.destination(ctx, client, from.position, to, lanes)
	if err != nil {
		return admin.Moved{}, err
	}
	effect, err := p.lane.mayMove(ctx, client, from, position, to.Skip || to.DryRun)
	if err != nil {
		return admin.Moved{}, err
	}
	kept := ""
	if !to.DryRun {
		prev, kept, err = p.replace(ctx, at, func(prev checkpoint.Checkpoint) checkpoint.Checkpoint {
			next := prev.Placed(position)
			if prev.Generation == 0 { // there is none, or it cannot be read
				next.StateFromStart = p.lane.BeginsWithState()
			}
			return next
		})
		if err != nil {
			return admin.Moved{}, err
		}
	}
	m := p.moved(at, prev, kept, position)
	m.DryRun = to.DryRun
	effect.tell(&m)
	return m, nil
}

// standing is up to where a lane has published, as far as that is known.
type standing struct {
	position checkpoint.Position
	unknown  error // why the position is not known; nil if it is
	first    bool  // nothing was published yet, so that nothing can be skipped
}

// standing returns where the lane stands, and its position as it is. If the position is missing or
// unusable, relay may remember the last one beside the destination. If it does not, nothing tells
// what was published, unless the destination is empty.
func (p *Positions) standing(ctx context.Context, at *place) (standing, checkpoint.Checkpoint, error) {
	committed, here, err := at.here(ctx)
	switch {
	case err == nil && here:
		return standing{position: committed.Position}, committed, nil
	case err != nil && !replaceable(err):
		return standing{}, committed, err
	}
	unusable := err
	known, err := p.disk.LoadDestination(ctx)
	if err == nil && known.Source == p.lane.Identity() {
		return standing{position: known.Position}, committed, nil
	}
	if unusable == nil && errors.Is(err, checkpoint.ErrNotFound) {
		holds, err := p.holds(ctx)
		if err != nil {
			return standing{}, committed, err
		}
		if !holds {
			return standing{first: true}, committed, nil
		}
	}
	return standing{unknown: errors.New("no position tells what was published")}, committed, nil
}

// holds reports whether the destination of the lane holds messages on its topics.
func (p *Positions) holds(ctx context.Context) (bool, error) {
	if p.holding == nil {
		return false, nil
	}
	return p.holding.Holds(ctx, p.lane.Topics)
}

// moveBetweenModes moves the position from one place to the other, because the mode of delivery is
// to change. After a crash halfway both places hold a position, and relay asks which of them is
// valid.
func (p *Positions) moveBetweenModes(ctx context.Context, from, to *place, dryRun bool) (admin.Moved, error) {
	if p.bus == nil {
		return admin.Moved{}, Usage(fmt.Errorf("sink %s keeps no positions, so there is nothing to take along", p.lane.Sink.Name))
	}
	cp, here, err := from.here(ctx)
	if err != nil {
		return admin.Moved{}, err
	}
	if !here {
		return admin.Moved{}, Usage(fmt.Errorf("lane %s has no position in the place called %s", p.lane.Sink.Name, from.name))
	}
	if dryRun {
		prev, _, err := to.here(ctx)
		if err != nil && !replaceable(err) {
			return admin.Moved{}, err
		}
		m := p.moved(to, prev, "", cp.Position)
		m.DryRun = true
		return m, nil
	}
	if from == p.bus { // no other relay may move it any more, and Kafka lets only the last session mark it as left
		if cp, err = p.takeBus(ctx); err != nil {
			return admin.Moved{}, err
		}
	}
	prev, kept, err := p.replace(ctx, to, func(checkpoint.Checkpoint) checkpoint.Checkpoint { return cp })
	if err != nil {
		return admin.Moved{}, err
	}
	if err := p.markMoved(ctx, from, to); err != nil {
		return admin.Moved{}, fmt.Errorf("the position is in both places now; marking the one called %s as left: %w", from.name, err)
	}
	return p.moved(to, prev, kept, cp.Position), nil
}

func (p *Positions) moved(at *place, prev checkpoint.Checkpoint, kept string, to checkpoint.Position) admin.Moved {
	m := admin.Moved{Lane: p.lane.Sink.Name, Place: at.name, Mode: at.mode, After: admin.PlaceOf(to), Kept: kept}
	switch {
	case prev.Generation > 0:
		before := admin.PlaceOf(prev.Position)
		m.Before = &before
	case prev.Revision > 0:
		m.Unreadable = true
	}
	return m
}

// Argument writes a position as `relay checkpoint set` takes it.
func Argument(p admin.Position) string {
	switch {
	case p.EventID != "":
		return p.EventID
	case p.CreatedAt != nil && !p.CreatedAt.IsZero():
		return p.CreatedAt.UTC().Format(time.RFC3339Nano)
	default:
		return "earliest"
	}
}
