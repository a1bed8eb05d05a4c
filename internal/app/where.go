package app

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"workos-relay/source"
)

// whereEvery is how often the log tells of one expression that fails for one reason.
const whereEvery = time.Minute

// whereFailures logs and counts the events for which the expression of a route cannot be evaluated.
// It is safe for concurrent use.
type whereFailures struct {
	log   *zap.Logger
	count atomic.Pointer[func()] // of the metrics; nil outside of `relay run`

	mu   sync.Mutex
	told map[whereFailure]time.Time
}

// whereFailure is a reason, of which there are few, for a route.
type whereFailure struct {
	route int
	why   string
}

// note is a router.Config.WhereFailed.
func (w *whereFailures) note(route int, e *source.Event, err error) {
	if count := w.count.Load(); count != nil {
		(*count)()
	}
	if w.due(whereFailure{route, err.Error()}) {
		w.log.Warn("the where of a route cannot be evaluated for an event, so the event goes on to the next route",
			zap.String("key", fmt.Sprintf("routes[%d].where", route)), zap.String("event", e.ID), zap.String("type", e.Event), zap.Error(err))
	}
}

// due reports whether the log has not told of f for a while.
func (w *whereFailures) due(f whereFailure) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.told[f]) < whereEvery {
		return false
	}
	if w.told == nil {
		w.told = map[whereFailure]time.Time{}
	}
	w.told[f] = time.Now()
	return true
}
