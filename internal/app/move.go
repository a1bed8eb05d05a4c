package app

import (
	"context"
	"fmt"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/source"
)

// Move moves the position of the lane to where the operator says. lanes are all lanes of the
// configuration.
func (p *Positions) Move(ctx context.Context, client *source.Client, to admin.Destination, lanes []*Lane) (admin.Moved, error) {
	switch to.From {
	case InFile:
		return p.moveBetweenModes(ctx, p.file, p.bus)
	case OnBus:
		return p.moveBetweenModes(ctx, p.bus, p.file)
	}
	position, err := p.lane.destination(ctx, client, to, lanes)
	if err != nil {
		return admin.Moved{}, err
	}
	return p.set(ctx, client, position, to.Skip)
}

// destination returns the position that the operator asks for.
func (l *Lane) destination(ctx context.Context, client *source.Client, to admin.Destination, lanes []*Lane) (checkpoint.Position, error) {
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
	return l.Position(ctx, client, nil, start)
}

// set moves the position and leaves it in the same place. It does not skip events unless the
// operator has agreed to that. A position that is missing or unusable does not tell what was
// published, so there is nothing to compare with then.
func (p *Positions) set(ctx context.Context, client *source.Client, to checkpoint.Position, agreed bool) (admin.Moved, error) {
	at, err := p.current(ctx)
	if err != nil {
		return admin.Moved{}, err
	}
	var left skipped
	committed, here, err := at.here(ctx)
	compared := err == nil && here
	switch {
	case compared:
		if left, err = p.lane.mayMove(ctx, client, committed.Position, to, agreed); err != nil {
			return admin.Moved{}, err
		}
	case err != nil && !replaceable(err):
		return admin.Moved{}, err
	}
	prev, kept, err := p.replace(ctx, at, func(prev checkpoint.Checkpoint) checkpoint.Checkpoint { return prev.Placed(to) })
	if err != nil {
		return admin.Moved{}, err
	}
	m := p.moved(at, prev, kept, to)
	if compared {
		left.tell(&m)
	}
	return m, nil
}

// moveBetweenModes moves the position from one place to the other, because the mode of delivery is
// to change. After a crash halfway both places hold a position, and relay asks which of them is
// valid.
func (p *Positions) moveBetweenModes(ctx context.Context, from, to *place) (admin.Moved, error) {
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
