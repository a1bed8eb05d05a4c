package source

import (
	"context"
	"errors"

	"workos-relay/checkpoint"
)

// Look returns the first page of Resume: the events that a lane would read next, or none and Tip.
// It waits nothing out. An error that Resume would wait out is returned with what to check, a
// refused cursor at once as one that matches ErrCursorLost.
func (s *Stream) Look(ctx context.Context, from checkpoint.Checkpoint) (Page, error) {
	r, err := newReader(s, from)
	if err != nil {
		return Page{}, err
	}
	r.impatient = true
	page, err := r.next(ctx)
	if errors.Is(err, ErrTooLarge) {
		return page, err
	}
	return page, addRequestHint(err, s.OrganizationID)
}
