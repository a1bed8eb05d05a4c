package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/sink"
	"workos-relay/source"
)

// CountTime bounds how long a move looks for events that it would skip. Tests raise it.
var CountTime = 15 * time.Second

const (
	// countEvents bounds how far a move looks for events that it would skip.
	countEvents = 100_000
	// repeatTime and repeatEvents bound how far a move looks for events that it would repeat.
	repeatTime   = 5 * time.Second
	repeatEvents = 20_000
	// disorder is how far the times of neighbouring events may contradict their order.
	disorder = time.Minute
)

// skipped is what a move of a position skips.
type skipped struct {
	events      int    // that are not published; those that the routes drop do not count
	first, last string // their ids
	unknown     error  // why they cannot be counted; nil if they are
	behind      bool   // the move goes back
}

// moveEffect is what a move of a position skips and repeats.
type moveEffect struct {
	skipped
	repeated        int   // events that are published already
	repeatedUnknown error // why they cannot be counted; nil if they are
}

// none reports whether the move certainly skips nothing.
func (s skipped) none() bool { return s.unknown == nil && s.events == 0 }

// skips counts the events between the committed position and a later one, which the lane has not
// published. A move backwards skips nothing. skips asks the Events API for at most CountTime.
func (l *Lane) skips(ctx context.Context, client *source.Client, from, to checkpoint.Position) skipped {
	if from.Equal(to) || to.IsZero() {
		return skipped{}
	}
	counting, cancel := context.WithTimeoutCause(ctx, CountTime, fmt.Errorf("not done within %s", CountTime))
	defer cancel()
	s, err := l.count(counting, client, from, to)
	if err != nil && counting.Err() != nil {
		err = context.Cause(counting)
	}
	s.unknown = err
	return s
}

func (l *Lane) count(ctx context.Context, client *source.Client, from, to checkpoint.Position) (skipped, error) {
	events := l.Stream(client, nil)
	end, err := findEnd(ctx, events, from, to)
	if err != nil || end.behind {
		return skipped{behind: end.behind}, err
	}
	var s skipped
	seen := 0
	for page, err := range events.Pages(ctx, from) {
		if err != nil {
			return skipped{}, fmt.Errorf("reading the events after %s: %w", from, err)
		}
		for i := range page.Events {
			e := &page.Events[i]
			switch {
			case end.event != "" && e.ID == end.event, !end.time.IsZero() && e.CreatedAt.Sub(end.time) > disorder:
				return s, nil
			case end.time.IsZero() || e.CreatedAt.Before(end.time):
				l.leaveOut(&s, e)
			}
			if e.ID == to.EventID {
				return s, nil
			}
		}
		if seen += len(page.Events); seen > countEvents {
			return s, fmt.Errorf("there are more than %d events up to there", countEvents)
		}
		if page.Tip {
			break
		}
	}
	if end.event != "" { // it does not follow the committed position
		return skipped{behind: true}, nil
	}
	return s, nil
}

// repeats counts the events from a position up to the committed one, which the lane publishes again
// if it moves there. It asks the Events API for at most repeatTime.
func (l *Lane) repeats(ctx context.Context, client *source.Client, committed, to checkpoint.Position) (int, error) {
	counting, cancel := context.WithTimeoutCause(ctx, repeatTime, fmt.Errorf("not done within %s", repeatTime))
	defer cancel()
	n, seen := 0, 0
	for page, err := range l.Stream(client, nil).Pages(counting, to) {
		switch {
		case err != nil && counting.Err() != nil:
			return n, context.Cause(counting)
		case err != nil:
			return n, fmt.Errorf("reading the events after %s: %w", to, err)
		}
		for i := range page.Events {
			e := &page.Events[i]
			if committed.EventID == "" && !e.CreatedAt.Before(committed.CreatedAt) || !committed.CreatedAt.IsZero() && e.CreatedAt.Sub(committed.CreatedAt) > disorder {
				return n, nil
			}
			if messages, err := l.Router.Append([]sink.Message(nil), e); err != nil || len(messages) > 0 {
				n++
			}
			if e.ID == committed.EventID {
				return n, nil
			}
		}
		if seen += len(page.Events); seen > repeatEvents {
			return n, fmt.Errorf("more than %d events", repeatEvents)
		}
		if page.Tip {
			break
		}
	}
	return n, nil
}

// leaveOut counts an event unless the routes drop it.
func (l *Lane) leaveOut(s *skipped, e *source.Event) {
	if messages, err := l.Router.Append([]sink.Message(nil), e); err == nil && len(messages) == 0 {
		return
	}
	if s.events++; s.first == "" {
		s.first = e.ID
	}
	s.last = e.ID
}

// countEnd is where counting ends.
type countEnd struct {
	event  string    // before this event; empty if there is none after the new position
	time   time.Time // before this time; zero if the new position is an event
	behind bool      // the new position lies before the committed one
}

// findEnd finds the end of the events that a move skips. The target may be an event of a type that
// the lane does not carry, so findEnd asks what follows it.
func findEnd(ctx context.Context, events *source.Stream, from, to checkpoint.Position) (countEnd, error) {
	if to.EventID == "" {
		return countEnd{time: to.CreatedAt, behind: !to.CreatedAt.After(from.CreatedAt)}, nil
	}
	for page, err := range events.Pages(ctx, to) {
		if err != nil {
			return countEnd{}, fmt.Errorf("reading the events after %s: %w", to, err)
		}
		if len(page.Events) > 0 {
			next := &page.Events[0]
			behind := next.ID == from.EventID || !from.CreatedAt.IsZero() && from.CreatedAt.Sub(next.CreatedAt) > disorder
			return countEnd{event: next.ID, behind: behind}, nil
		}
		if page.Tip {
			break
		}
	}
	return countEnd{}, nil
}

// mayMove returns what a move does. It returns a *skipError if the move would skip events and the
// operator has not agreed to that.
func (l *Lane) mayMove(ctx context.Context, client *source.Client, from standing, to checkpoint.Position, agreed bool) (moveEffect, error) {
	var does moveEffect
	switch {
	case from.first:
	case from.unknown != nil && !to.IsZero():
		does.unknown = from.unknown
		does.repeatedUnknown = from.unknown
	case from.unknown != nil:
		does.repeatedUnknown = from.unknown
	case l.inFuture(ctx, client, to):
		does.unknown = errors.New("it lies in the future, and what happens until then is skipped, too")
	default:
		does.skipped = l.skips(ctx, client, from.position, to)
		if (does.behind || to.IsZero()) && !from.position.IsZero() {
			does.repeated, does.repeatedUnknown = l.repeats(ctx, client, from.position, to)
		}
	}
	if does.none() || agreed {
		return does, nil
	}
	return does, &skipError{lane: l.Sink.Name, from: from, to: to, skipped: does.skipped}
}

// inFuture reports whether a position is a time that has not come yet. It asks the Events API only
// if the local clock says so.
func (l *Lane) inFuture(ctx context.Context, client *source.Client, p checkpoint.Position) bool {
	if p.EventID != "" || time.Until(p.CreatedAt) < disorder {
		return false
	}
	asking, cancel := context.WithTimeout(ctx, FindTime)
	defer cancel()
	now, err := l.Stream(client, nil).Now(asking)
	return err != nil || p.CreatedAt.Sub(now) > disorder
}

// tell adds to m what a move skips and repeats.
func (e moveEffect) tell(m *admin.Moved) {
	if e.unknown != nil {
		m.SkippedUnknown = e.unknown.Error()
	} else {
		m.Skipped, m.SkippedFirst, m.SkippedLast = &e.events, e.first, e.last
	}
	if e.repeatedUnknown != nil {
		m.RepeatedUnknown = e.repeatedUnknown.Error()
	} else {
		m.Repeated = &e.repeated
	}
}

// skipError says that a move would skip events that are not published.
type skipError struct {
	lane    string
	from    standing
	to      checkpoint.Position
	skipped skipped
}

// Error implements error.
func (e *skipError) Error() string {
	if e.from.unknown != nil {
		return fmt.Sprintf("nothing was moved: no position tells what lane %s has published, and a move to %s may skip events; %s", e.lane, e.to, e.OperatorAction())
	}
	return fmt.Sprintf("nothing was moved: lane %s is at %s, and a move to %s would skip %s; %s", e.lane, e.from.position, e.to, skippedText(e.skipped),
		e.OperatorAction())
}

// OperatorAction says what to do.
func (e *skipError) OperatorAction() string {
	return "choose an earlier position, or add --skip to skip them"
}

func skippedText(s skipped) string {
	switch {
	case s.unknown != nil:
		return fmt.Sprintf("an unknown number of events that follow its position (%v)", s.unknown)
	case s.events == 1:
		return "1 event that follows its position, " + s.first
	default:
		return fmt.Sprintf("%d events that follow its position, from %s to %s", s.events, s.first, s.last)
	}
}
