package pipeline

import (
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
)

// tellCaughtUp is how long a lane must have been behind, after it has caught up once, so that
// catching up is logged again.
const tellCaughtUp = time.Minute

// lifecycle logs the life of a lane at info: one line each for a start, standing by, a takeover,
// catching up and the stop. Only the goroutine of Lane.Run uses it.
type lifecycle struct {
	logger *zap.Logger

	found   checkpoint.Checkpoint // as it was before the last attempt to acquire; see exists
	exists  bool                  // found was read
	own     bool                  // found was this lane's
	waiting string                // the holder that the lane stands by for, as logged
	holding bool                  // the lease was acquired, and is not known to be lost

	behind time.Time // since when the lane has not been at the tip; zero if it is
	before uint64    // events committed when it began to be behind
	caught bool      // it has caught up since it acquired the lease
}

// reads records the checkpoint that an attempt to acquire starts from.
func (l *lifecycle) reads(cp checkpoint.Checkpoint, exists, own bool) {
	l.found, l.exists, l.own = cp, exists, own
}

// standsBy logs for whom the lane stands by, once for each holder.
func (l *lifecycle) standsBy(after time.Duration) {
	holder := printable.Text(l.found.Holder)
	if l.holding = false; l.found.Released || holder == "" || l.waiting == holder {
		return
	}
	l.waiting = holder
	l.logger.Info("standing by: another relay is active", append(placed(l.found.Position),
		zap.String("holder", holder), zap.Duration("takeover_after", after))...)
}

// acquired logs from where the lane goes on, and why it may. committed is how many events this
// process has committed.
func (l *lifecycle) acquired(cp checkpoint.Checkpoint, committed uint64) {
	if l.holding {
		return
	}
	l.holding, l.waiting = true, ""
	l.behind, l.before, l.caught = time.Now(), committed, false
	fields := placed(cp.Position)
	if known := later(cp.CreatedAt, cp.Seen); !known.IsZero() { // nothing older waits
		fields = append(fields, zap.Duration("behind_at_most", max(0, time.Since(known)).Round(time.Millisecond)))
	}
	from := zap.String("from", printable.Text(l.found.Holder))
	switch {
	case !l.exists: // a first start is logged with what it starts from
	case !l.own && !l.found.Released:
		l.logger.Info("took over from another relay, which was silent for takeover_after", append(fields, from)...)
	case !l.own && l.found.Holder != "":
		l.logger.Info("took over from another relay, which had stopped in order", append(fields, from)...)
	case cp.EventID == "":
		l.logger.Info("resuming: no event is committed yet", append(fields, zap.Stringer("start", cp.Position))...)
	default:
		l.logger.Info("resuming after an event", fields...)
	}
}

// delivered is called with whether everything that the source has is committed.
func (l *lifecycle) delivered(cp checkpoint.Checkpoint, atTip bool, committed uint64) {
	switch {
	case !atTip && l.behind.IsZero():
		l.behind = time.Now()
	case atTip:
		if took := time.Since(l.behind); !l.behind.IsZero() && (!l.caught || took >= tellCaughtUp) {
			l.logger.Info("caught up", append(placed(cp.Position), zap.Uint64("events", committed-l.before),
				zap.Duration("took", took.Round(time.Millisecond)))...)
			l.caught = true
		}
		l.behind, l.before = time.Time{}, committed
	}
}

// stopped logs where the lane has stopped. lease is what has become of its lease.
func (l *lifecycle) stopped(cp checkpoint.Checkpoint, lease string, committed uint64) {
	l.logger.Info("stopped", append(placed(cp.Position), zap.String("lease", lease), zap.Uint64("events", committed))...)
	l.holding, l.waiting = false, ""
}

// placed returns the fields of a position.
func placed(p checkpoint.Position) []zap.Field {
	fields := []zap.Field{zap.String("event", printable.Text(p.EventID))}
	if !p.CreatedAt.IsZero() {
		fields = append(fields, zap.String("created_at", p.CreatedAt.UTC().Format(time.RFC3339Nano)))
	}
	return fields
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
