package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/source"
)

// FindTime bounds how long a move looks for the event that it is to go on after. Tests raise it.
var FindTime = 10 * time.Second

const (
	// findPages bounds how far a move looks for that event.
	findPages = 10
	// findMargin is how far created_at of an event may be from the time in its id.
	findMargin = 2 * time.Minute
)

// ErrNotListed says that the Events API does not list an event.
var ErrNotListed = errors.New("the Events API does not list it")

// notFoundError says that a move was refused because it is not known whether its event exists.
type notFoundError struct {
	event   string
	unknown bool  // the API has answered, and does not know the event
	err     error // why
}

// Error implements error.
func (e *notFoundError) Error() string {
	if e.unknown {
		return fmt.Sprintf("nothing was moved: the Events API does not know %s: %v; check the id, or add --unchecked to go on after it without this check: "+
			"a wrong id repeats or skips events, or stops the lane", e.event, e.err)
	}
	return fmt.Sprintf("nothing was moved: the Events API cannot be asked whether %s exists: %v; try again once that is mended, or add --unchecked to go on "+
		"after it without this check: a wrong id repeats or skips events, or stops the lane", e.event, e.err)
}

// Unwrap returns why the API cannot be asked. If the API does not know the event, nothing of the
// API has to be mended, and Unwrap returns nil.
func (e *notFoundError) Unwrap() error {
	if e.unknown {
		return nil
	}
	return e.err
}

// find returns the position of an event that the lane is to go on after, with its time if that is
// known. It returns a *notFoundError if the Events API does not know the event, or does not answer
// within FindTime. near is where the lane stands, the zero Position if that is not known.
func (l *Lane) find(ctx context.Context, client *source.Client, near checkpoint.Position, event string) (checkpoint.Position, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, FindTime, fmt.Errorf("no answer within %s", FindTime))
	defer cancel()
	types := l.Types
	var refused *source.RefusedTypesError
	switch err := client.Reach(bounded, types, l.Config.Source.OrganizationID); {
	case errors.As(err, &refused):
		types = slices.DeleteFunc(slices.Clone(types), func(t string) bool { return slices.Contains(refused.Types, t) })
	case err != nil:
		return checkpoint.Position{}, &notFoundError{event: event, err: err}
	}
	at, err := l.look(bounded, client, types, near, event)
	var answer *source.APIError
	switch {
	case err == nil:
		return checkpoint.Position{EventID: event, CreatedAt: at}, nil
	case bounded.Err() != nil:
		return checkpoint.Position{}, &notFoundError{event: event, err: context.Cause(bounded)}
	case errors.Is(err, ErrNotListed), errors.As(err, &answer) && !answer.Foreign && slices.Contains(unknownEvent, answer.Status):
		return checkpoint.Position{}, Usage(&notFoundError{event: event, unknown: true, err: err})
	default:
		return checkpoint.Position{}, &notFoundError{event: event, err: err}
	}
}

// unknownEvent are the statuses that an API may answer with if it does not know an event.
var unknownEvent = []int{http.StatusBadRequest, http.StatusNotFound, http.StatusGone, http.StatusUnprocessableEntity}

// look looks for an event: at the time in its id, then by what the API answers with after it, since
// the lane may not carry its type. An API may ignore an id that it does not know, and begin at the
// earliest event or return nothing. So an answer counts only if it differs from that.
func (l *Lane) look(ctx context.Context, client *source.Client, types []string, near checkpoint.Position, event string) (created time.Time, err error) {
	stream := l.Stream(client, nil)
	if at, ok := timeOfID(event); ok {
		created, listed, err := lists(ctx, stream, checkpoint.Position{CreatedAt: at.Add(-findMargin)}, at.Add(findMargin), event)
		if listed || err != nil {
			return created, err
		}
	}
	first := func(after, order string) (e source.Event, err error) {
		page, err := client.ListEvents(ctx, source.ListEventsOpts{Events: types, Limit: 1, After: after, Order: order, OrganizationId: l.Config.Source.OrganizationID})
		if err == nil && len(page.Data) > 0 {
			e = page.Data[0]
		}
		return e, err
	}
	next, err := first(event, "asc")
	if err != nil {
		return time.Time{}, err
	}
	if next.ID != "" {
		earliest, err := first("", "asc")
		if err != nil || earliest.ID != next.ID {
			return time.Time{}, err
		}
	} else if newest, err := first("", "desc"); err != nil || newest.ID == event {
		return newest.CreatedAt, err
	}
	if !near.IsZero() {
		created, listed, err := lists(ctx, stream, near, time.Time{}, event)
		if listed || err != nil {
			return created, err
		}
	}
	created, listed, err := lists(ctx, stream, checkpoint.Position{}, time.Time{}, event)
	if listed || err != nil {
		return created, err
	}
	return time.Time{}, ErrNotListed
}

// lists looks for an event among those that follow a position, up to a time if that is not zero,
// and in at most findPages pages.
func lists(ctx context.Context, stream *source.Stream, after checkpoint.Position, until time.Time, event string) (created time.Time, listed bool, err error) {
	pages := 0
	for page, err := range stream.Pages(ctx, after) {
		if err != nil {
			return time.Time{}, false, err
		}
		for i := range page.Events {
			e := &page.Events[i]
			if e.ID == event {
				return e.CreatedAt, true, nil
			}
			if !until.IsZero() && e.CreatedAt.After(until) {
				return time.Time{}, false, nil
			}
		}
		if pages++; page.Tip || pages >= findPages {
			break
		}
	}
	return time.Time{}, false, nil
}

// Event asks the Events API for one event of a type that the lane carries, created at or near the
// given time. It tries again what may pass until ctx ends. If the API does not list the event, the
// error matches ErrNotListed.
func (l *Lane) Event(ctx context.Context, client *source.Client, id, eventType string, created time.Time) (*source.Event, error) {
	if created.IsZero() {
		created, _ = timeOfID(id)
	}
	if created.IsZero() {
		return nil, fmt.Errorf("%w: when it was created is not known", ErrNotListed)
	}
	s := l.Stream(client, nil)
	s.Events = []string{eventType}
	until := created.Add(findMargin)
	for page, err := range s.Pages(ctx, checkpoint.Position{CreatedAt: created.Add(-findMargin)}) {
		var answer *source.APIError
		switch {
		case err != nil && errors.As(err, &answer) && !answer.Foreign && slices.Contains(unknownEvent, answer.Status):
			return nil, fmt.Errorf("%w: %w", ErrNotListed, err)
		case err != nil:
			return nil, err
		}
		for i := range page.Events {
			e := &page.Events[i]
			if e.ID == id {
				own, err := source.ParseEvent(bytes.Clone(e.Raw)) // without the rest of its page
				return &own, err
			}
			if e.CreatedAt.After(until) {
				return nil, ErrNotListed
			}
		}
		if page.Tip {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, ErrNotListed
}

// timeOfID returns the time in an id that is a ULID, as those of WorkOS are.
func timeOfID(id string) (time.Time, bool) {
	const (
		alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
		length   = 26
		digits   = 10 // of the milliseconds since 1970
	)
	_, ulid, _ := strings.Cut(id, "_")
	if len(ulid) != length {
		return time.Time{}, false
	}
	var ms int64
	for i := range length {
		digit := strings.IndexByte(alphabet, ulid[i])
		if digit < 0 || i == 0 && digit > 7 {
			return time.Time{}, false
		}
		if i < digits {
			ms = ms<<5 | int64(digit)
		}
	}
	at := time.UnixMilli(ms).UTC()
	return at, at.Year() >= 2010 && at.Before(time.Now().AddDate(1, 0, 0))
}
