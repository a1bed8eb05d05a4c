package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// silenceCheck is how long a reader that is told "nothing new" believes it.
const silenceCheck = time.Hour

// checkSilence guards against an API that answers an unknown cursor with an empty page, for ever. Where the position that a
// stream begins with brings nothing, and whenever nothing came for an hour, it asks by time for an event that is clearly newer
// than the position and clearly older than what the API may hold back. Where there is one, and the cursor still brings
// nothing, the cursor is lost. Where the API does not answer by time, nothing is concluded.
func (r *reader) checkSilence(ctx context.Context, a answer, opts ListEventsOpts) error {
	if len(a.Data) > 0 {
		r.silentUntil = time.Now().Add(silenceCheck)
		return nil
	}
	from := r.pos.CreatedAt.Add(maxStepBack)
	if opts.After == "" || r.pos.CreatedAt.IsZero() || time.Now().Before(r.silentUntil) || r.clock().Sub(from) < heldBack {
		return nil
	}
	r.silentUntil = time.Now().Add(silenceCheck)
	probe := opts
	probe.After, probe.Limit = "", 1
	probe.RangeStart = from.UTC().Format(apiTime)
	if end := from.Add(maxRange); end.Before(r.clock()) {
		probe.RangeEnd = end.UTC().Format(apiTime)
	}
	found, err := r.send(ctx, probe)
	if err != nil || len(found.Data) == 0 {
		r.noteSilence(err)
		return ctx.Err()
	}
	e := &found.Data[0]
	if e.CreatedAt.Before(from) || r.clock().Sub(e.CreatedAt) < heldBack {
		return nil
	}
	again, err := r.send(ctx, opts)
	if err != nil || len(again.Data) > 0 {
		r.noteSilence(err)
		return ctx.Err() // the next poll meets the same answer
	}
	return &CursorLostError{
		Position:  r.pos,
		Reason:    fmt.Sprintf("it says that nothing follows, but by time there is %s", e.Position()),
		RequestID: again.RequestID,
	}
}

func (r *reader) noteSilence(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		r.log.Debug("whether nothing new has happened could not be checked by time", zap.Error(err))
	}
}
