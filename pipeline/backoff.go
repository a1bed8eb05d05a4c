package pipeline

import (
	"math/rand/v2"
	"time"
)

// backoff returns waits that double from first to most. Each wait is random between half and all of
// it, so that lanes that failed together do not retry together.
type backoff struct {
	first, most time.Duration
	current     time.Duration
}

func (b *backoff) next() time.Duration {
	b.current = min(max(2*b.current, b.first), b.most)
	return b.current/2 + rand.N(b.current/2+1) //nolint:gosec // jitter, not a secret
}

func (b *backoff) reset() { b.current = 0 }
