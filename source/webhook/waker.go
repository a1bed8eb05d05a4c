package webhook

import (
	"context"
	"sync"
	"time"
)

// pauses lie between the wakes that follow one call of Wake, about 20 s in all: WorkOS holds events
// back from ascending reads for a few seconds, so the event of a webhook may not be there yet when
// the webhook comes.
var pauses = [...]time.Duration{
	500 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 6 * time.Second, 6 * time.Second,
}

// gap is the least time between two wakes, however many calls of Wake there are.
const gap = 250 * time.Millisecond

// Waker passes wakes on to any number of streams, each of which gets its own channel from
// Subscribe, for Stream.Wake. After a call of Wake it wakes every subscriber, at once or as soon as
// the last wake is 250 ms old, and again at growing intervals over about 20 s; a further call
// starts that over. So there are at most four wakes per second, and one after the last call. A
// subscriber that has not looked yet has one wake pending, never more. The zero value is ready to
// use, and it is safe for concurrent use.
type Waker struct {
	once sync.Once
	call chan struct{} // one pending call of Wake; Run takes it

	mu   sync.Mutex
	subs map[chan struct{}]struct{}
}

func (w *Waker) init() {
	w.once.Do(func() { w.call = make(chan struct{}, 1) })
}

// Wake wakes every subscriber, by way of Run. It never blocks; calls before Run has taken note of
// one are merged with it.
func (w *Waker) Wake() {
	w.init()
	select {
	case w.call <- struct{}{}:
	default:
	}
}

// Subscribe returns a channel of wakes, and a function that ends the subscription and may be called
// more than once. The channel is never closed.
func (w *Waker) Subscribe() (wake <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs == nil {
		w.subs = map[chan struct{}]struct{}{}
	}
	w.subs[c] = struct{}{}
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, c)
	}
}

// Run passes wakes on until ctx ends. It blocks: the caller owns the goroutine. There must be one
// at a time.
func (w *Waker) Run(ctx context.Context) {
	w.init()
	timer := time.NewTimer(0)
	timer.Stop()
	defer timer.Stop()
	var last time.Time // of the last wake
	next := 0          // index of the pause after the wake that timer waits for
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.call:
			next = 0
			if wait := gap - time.Since(last); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-timer.C:
		}
		w.signal()
		last = time.Now()
		if next < len(pauses) {
			timer.Reset(pauses[next])
			next++
		} else {
			timer.Stop()
		}
	}
}

// signal leaves one wake with every subscriber that has none pending.
func (w *Waker) signal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.subs {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
