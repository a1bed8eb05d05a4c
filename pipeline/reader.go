package pipeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/contain"
	"workos-relay/source"
)

// reader reads ahead of the lane. It holds pages that are read and not yet committed, within a
// budget of bytes.
type reader struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	pages   []source.Page // read, not yet gathered
	held    *atomic.Int64 // bytes of all pages that are read and not released; changed under mu
	budget  int64
	err     error         // why there are no more pages; set once
	changed chan struct{} // closed and replaced whenever one of the above changes
}

// startReader starts a reader of what follows a checkpoint. The caller must call stop, which waits
// for it. budget bounds the bytes of pages that are held.
func startReader(ctx context.Context, src Source, budget int, status *tracker, from checkpoint.Checkpoint) *reader {
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{cancel: cancel, done: make(chan struct{}), held: &status.held, budget: int64(budget), changed: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.end(contain.Do(func() error { return r.run(ctx, src, status, from) }))
	}()
	return r
}

// run reads pages until ctx ends or the source fails, and returns the reason.
func (r *reader) run(ctx context.Context, src Source, status *tracker, from checkpoint.Checkpoint) error {
	for p, err := range src.Resume(ctx, from) {
		if err == nil {
			status.polled(&p, time.Now())
			err = r.push(ctx, p)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (r *reader) stop() {
	r.cancel()
	<-r.done
	r.held.Store(0)
}

func (r *reader) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		err = context.Canceled
	}
	r.err = err
	r.signal()
}

// signal wakes all waiters. The caller holds r.mu.
func (r *reader) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// push queues a page as soon as it fits the budget, or nothing else is held. An empty page behind
// others only marks the last of them as the tip, so that polling during an outage of the bus costs
// no memory.
func (r *reader) push(ctx context.Context, p source.Page) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.pages); n > 0 && len(p.Events) == 0 && together(&r.pages[n-1], &p) {
		r.pages[n-1].Tip, r.pages[n-1].Now, r.pages[n-1].Seen = p.Tip, p.Now, p.Seen
		return nil
	}
	for held := r.held.Load(); held > 0 && held+int64(p.Size) > r.budget; held = r.held.Load() {
		if err := r.wait(ctx, nil); err != nil {
			return err
		}
	}
	r.held.Add(int64(p.Size))
	r.pages = append(r.pages, p)
	r.signal()
	return nil
}

// wait releases r.mu until something changes, or until steered is closed, for which it returns
// errSteered.
func (r *reader) wait(ctx context.Context, steered <-chan struct{}) error {
	changed := r.changed
	r.mu.Unlock()
	defer r.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-steered:
		return errSteered
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gather returns the next page, and with it the pages queued behind it as far as they may be
// committed together and stay within maxEvents and maxBytes. It waits for one page only, so nothing
// that could go out waits for more. It waits at most idle, if that is not zero, and then returns
// errIdle. If steered is closed it returns errSteered. After the last page it returns the error of
// the reader.
func (r *reader) gather(ctx context.Context, maxEvents, maxBytes int, idle time.Duration, steered <-chan struct{}) ([]source.Page, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.await(ctx, idle, steered); err != nil {
		return nil, err
	}
	n, events, size := 0, 0, 0
	for n < len(r.pages) {
		p := &r.pages[n]
		if n > 0 && (events+len(p.Events) > maxEvents || size+p.Size > maxBytes || !together(&r.pages[n-1], p)) {
			break
		}
		n, events, size = n+1, events+len(p.Events), size+p.Size
	}
	pages := r.pages[:n:n]
	r.pages = r.pages[n:]
	return pages, nil
}

// errIdle says that no page has come for a while.
var errIdle = errors.New("no page has come")

// await waits until there is a page. The caller holds r.mu.
func (r *reader) await(ctx context.Context, idle time.Duration, steered <-chan struct{}) error {
	waiting := ctx
	if idle > 0 && len(r.pages) == 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, idle)
		defer cancel()
	}
	for len(r.pages) == 0 {
		if r.err != nil {
			return r.err
		}
		switch err := r.wait(waiting, steered); {
		case err == nil:
		case errors.Is(err, errSteered):
			return err
		case ctx.Err() != nil: // err may be that of waiting, if both end at once
			return ctx.Err()
		default:
			return errIdle
		}
	}
	return ctx.Err()
}

// release returns the budget of committed pages.
func (r *reader) release(pages []source.Page) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range pages {
		r.held.Add(-int64(pages[i].Size))
		pages[i] = source.Page{}
	}
	r.signal()
}
