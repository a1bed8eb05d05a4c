package pipeline

import (
	"context"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/source"
)

// recordEvery is how often the checkpoint of a lane without news is committed to keep what the source says of it.
const recordEvery = time.Minute

// record knows what of Checkpoint.Seen is committed. While a lane has events, or renews its lease, each commit takes Seen along;
// otherwise a record is due once in a while.
type record struct {
	seen  time.Time // as committed
	tries time.Time // when it was last committed by itself, or tried to be
}

func newRecord(cp checkpoint.Checkpoint) *record { return &record{seen: cp.Seen} }

// isDue reports whether Seen of cp is to be committed by itself.
func (r *record) isDue(cp checkpoint.Checkpoint) bool {
	return cp.Seen.After(r.seen) && (r.tries.IsZero() || time.Since(r.tries) >= recordEvery)
}

func (r *record) tried() { r.tries = time.Now() }

// done takes note that cp is committed.
func (r *record) done(cp checkpoint.Checkpoint) { r.seen = cp.Seen }

// seenBy is cp once the pages are committed, up to when the source has shown everything.
func seenBy(cp checkpoint.Checkpoint, pages []source.Page) checkpoint.Checkpoint {
	if n := len(pages); n > 0 && pages[n-1].Seen.After(cp.Seen) {
		cp.Seen = pages[n-1].Seen
	}
	return cp
}

// keepRecord commits Seen of cp before the lane ends. If that fails the next start only knows less.
func (l *Lane) keepRecord(work context.Context, cp checkpoint.Checkpoint, rec *record) checkpoint.Checkpoint {
	if !cp.Seen.After(rec.seen) {
		return cp
	}
	now, err := l.Target.Append(work, cp, nil, cp.Position)
	if err != nil {
		l.Logger.Debug("up to when everything was seen could not be recorded", zap.Error(err))
		return cp
	}
	return now
}
