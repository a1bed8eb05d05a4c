package pipeline

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/source"
)

// recordEvery is how often a lane without events commits its checkpoint to keep what the source
// says about it.
const recordEvery = time.Minute

// record knows what is committed of Checkpoint.Seen and Refused. While a lane has events, or renews
// its lease, each commit includes them. Otherwise a commit for them is due: at once for Refused,
// and every recordEvery for Seen.
type record struct {
	seen    time.Time            // as committed
	refused []checkpoint.Refused // as committed
	tries   time.Time            // when it was last committed by itself, or tried to be
}

func newRecord(cp checkpoint.Checkpoint) *record {
	return &record{seen: cp.Seen, refused: cp.Refused}
}

// isDue reports whether a commit is due for Seen or Refused of cp alone.
func (r *record) isDue(cp checkpoint.Checkpoint) bool {
	return !sameRefused(cp.Refused, r.refused) || cp.Seen.After(r.seen) && (r.tries.IsZero() || time.Since(r.tries) >= recordEvery)
}

func sameRefused(a, b []checkpoint.Refused) bool {
	return slices.EqualFunc(a, b, checkpoint.Refused.Equal)
}

func (r *record) tried() { r.tries = time.Now() }

// done records that cp is committed.
func (r *record) done(cp checkpoint.Checkpoint) { r.seen, r.refused = cp.Seen, cp.Refused }

// recordedBy returns cp as it is once the events of the pages are committed, with what the source
// says: up to when it has returned everything, and which types it refuses.
func recordedBy(cp checkpoint.Checkpoint, pages []source.Page) checkpoint.Checkpoint {
	if len(pages) == 0 {
		return cp
	}
	last := &pages[len(pages)-1]
	if last.Seen.After(cp.Seen) {
		cp.Seen = last.Seen
	}
	if last.Refused != nil {
		cp.Refused = last.Refused
	}
	return cp
}

// keepRecord commits Seen of cp before the lane ends. If that fails, the next start knows less.
func (l *Lane) keepRecord(work context.Context, cp checkpoint.Checkpoint, rec *record) checkpoint.Checkpoint {
	if !cp.Seen.After(rec.seen) && sameRefused(cp.Refused, rec.refused) {
		return cp
	}
	now, err := l.Target.Append(work, cp, nil, cp.Position)
	if err != nil {
		l.Logger.Debug("up to when everything was seen could not be recorded", zap.Error(err))
		return cp
	}
	return now
}
