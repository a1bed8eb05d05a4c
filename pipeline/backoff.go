package pipeline

import (
	"math/rand/v2"
	"time"
)

// backoff doubles from first to most, each wait between half of it and all of it, so that lanes that failed together do not come
// back together.
type backoff struct {
	first, most time.Duration
	current     time.Duration
}

func (b *backoff) next() time.Duration {
	b.current = min(max(2*b.current, b.first), b.most)
	return b.current/2 + rand.N(b.current/2+1) //nolint:gosec // jitter, not a secret
}

func (b *backoff) reset() { b.current = 0 }
