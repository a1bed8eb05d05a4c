package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// silenceCheck is how long a reader that is told "nothing new" believes it.
	silenceCheck = time.Minute
	// maxStretches bounds how far a check for silence looks back, in stretches of maxRange: far
	// more than the API keeps.
	maxStretches = 13
)

// checkSilence guards against an API that answers an unknown cursor with an empty page, without
// end. At the first answer of a stream that brings nothing, and once a minute while nothing comes,
// it asks by time for an event that is clearly newer than the position and clearly older than what
// the API may hold back. If there is one, and the cursor still brings nothing, the cursor is lost.
// If there is none, and the API surely keeps what is that old, everything up to there has been
// seen; then the cursor counts as lost if the API does not list its event any more. If the API does
// not answer by time, nothing is concluded. Nor is anything concluded from what it does not list
// while it refuses types, since the event may be of one of them.
func (r *reader) checkSilence(ctx context.Context, a answer, opts ListEventsOpts) error {
	if len(a.Data) > 0 {
		r.silentUntil = time.Now().Add(silenceCheck)
		return nil
	}
	if opts.After == "" || r.pos.CreatedAt.IsZero() || time.Now().Before(r.silentUntil) {
		return nil
	}
	from, until := later(r.pos.CreatedAt.Add(maxStepBack), r.seenTo), r.clock().Add(-heldBack)
	if !from.Before(until) {
		return nil
	}
	r.silentUntil = time.Now().Add(silenceCheck)
	found, err := r.unread(ctx, from, until)
	if err != nil {
		r.noteSilence(err)
		return ctx.Err()
	}
	if found != nil {
		return r.confirmSilence(ctx, opts, found)
	}
	listed, err := r.isListed(ctx, r.pos)
	if err != nil {
		r.noteSilence(err)
		return ctx.Err()
	}
	kept := true
	switch {
	case listed:
		r.tip = r.pos.EventID
	case r.types.reduced() && r.clock().Sub(from) <= documentedRetention-24*time.Hour: // its type may be why
	default:
		if kept, err = r.isKept(ctx, from); err != nil {
			return err
		}
	}
	lost := &CursorLostError{Position: r.pos, Reason: "it says that nothing follows, and lists that event no longer"}
	if !kept {
		return mayBeMissing(lost, from)
	}
	if a.Date.IsZero() {
		return nil
	}
	r.sawAll(until)
	if !listed && !r.types.reduced() && r.anchor == nil && !r.trail.from.After(r.seenTo) { // what comes can be told from what was relayed
		return lost
	}
	return nil
}

// confirmSilence asks the cursor again, since an event was found that it should have brought.
func (r *reader) confirmSilence(ctx context.Context, opts ListEventsOpts, found *Event) error {
	again, err := r.send(ctx, opts)
	if err != nil || len(again.Data) > 0 {
		r.noteSilence(err)
		return ctx.Err() // the next poll meets the same answer
	}
	return &CursorLostError{
		Position:  r.pos,
		Reason:    fmt.Sprintf("it says that nothing follows, but by time there is %s", found.Position()),
		RequestID: again.RequestID,
	}
}

// unread asks by time for an event that was not read. It returns nil if there is none, and an error
// if that is not known.
func (r *reader) unread(ctx context.Context, from, until time.Time) (*Event, error) {
	for from = later(from, until.Add(-maxStretches*maxRange)); from.Before(until); {
		end := earlier(from.Add(maxRange), until)
		opts := r.byTime(from, end)
		found, err := r.send(ctx, opts)
		if err != nil {
			return nil, err
		}
		for i := range found.Data {
			switch e := &found.Data[i]; {
			case e.CreatedAt.Before(from.Add(-time.Second)) || e.CreatedAt.After(end.Add(time.Second)):
				return nil, errNoRanges
			case !r.trail.has(e.ID):
				return e, nil
			}
		}
		if found.full(opts) {
			return nil, errors.New("too many events that were read already")
		}
		from = end
	}
	return nil, nil //nolint:nilnil // none
}

func (r *reader) noteSilence(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		r.log.Debug("whether nothing new has happened could not be checked by time", zap.Error(err))
	}
}
