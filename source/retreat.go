package source

import (
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/retry"
)

// calmFirst and calmMost bound how long one request follows the other after a backfill met a
// contradiction.
const (
	calmFirst = time.Minute
	calmMost  = time.Hour
)

// retreat gives way to the plain cursor, which goes on from the position. The segments that were
// read ahead are lost.
type retreat struct {
	r     *reader
	chain *chain

	left    bool
	err     error // final; the reader returns it
	dropped int   // segments, since the last report
}

// endBackfill ends the backfill; the plain cursor goes on from the position.
func (b *retreat) endBackfill(why string) {
	if b.left {
		return
	}
	b.left = true
	b.dropped += len(b.chain.segs) - 1
	b.r.log.Debug("reading on with one reader", zap.String("reason", why), zap.Stringer("after", b.r.pos))
}

// contradiction ends the backfill over an answer that does not agree with others, and keeps from
// another one for a while.
func (b *retreat) contradiction(why string, err error) {
	if b.left {
		return
	}
	r := b.r
	r.contradictions++
	calm := retry.Backoff{First: calmFirst, Most: calmMost}.Full(r.contradictions)
	r.calmUntil = time.Now().Add(calm)
	r.log.Warn("an answer of the Events API contradicts others; reading on with one reader for a while",
		zap.String("reason", why), zap.Duration("for", calm), zap.Stringer("after", r.pos), zap.Error(err))
	b.endBackfill(why)
}

// unsupported ends the backfill for good.
func (b *retreat) unsupported(why string, err error) {
	if b.left {
		return
	}
	b.r.noRanges = true
	b.r.log.Warn("the Events API does not answer by time as reading with several readers needs; reading with one, so more slowly",
		zap.String("reason", why), zap.Stringer("after", b.r.pos), zap.Error(err))
	b.endBackfill(why)
}
