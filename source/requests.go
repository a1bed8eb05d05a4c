package source

import (
	"context"
	"sync"
	"time"

	"workos-relay/internal/contain"
	"workos-relay/internal/retry"
)

// result is what came of one request of a window.
type result struct {
	seg     *segment
	probe   bool
	opts    ListEventsOpts
	end     time.Time // of the range of a probe
	grant   *grant
	head    bool // the segment was the head when the request was made
	count   bool // for reading.count
	started time.Time
	waited  time.Duration // for the client's limiter
	a       answer
	err     error
}

// requests are the requests of a window that are under way, each in a separate goroutine. The
// methods are for the goroutine of the window.
type requests struct {
	r       *reader
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	results chan result // has room for every request under way

	inFlight int
	probes   int       // of those under way
	allowed  float64   // requests that may be under way at once
	cut      time.Time // when allowed was last cut
}

func newRequests(ctx context.Context, r *reader) *requests {
	q := &requests{r: r, results: make(chan result, r.s.Readers), allowed: float64(r.s.Readers)}
	q.ctx, q.cancel = context.WithCancel(ctx)
	return q
}

// close ends what is under way, and waits for it.
func (q *requests) close() {
	q.cancel()
	q.running.Wait()
}

// stopped reports whether the window is closed, or its context has ended.
func (q *requests) stopped() bool { return q.ctx.Err() != nil }

// full reports whether no further request may be started now.
func (q *requests) full() bool { return q.inFlight >= int(q.allowed) }

// start makes the request that res describes, once the rate limit and the API let it.
func (q *requests) start(res result) {
	q.inFlight++
	if res.probe {
		q.probes++
	}
	q.running.Go(func() {
		res.waited, res.err = q.r.client.wait(q.ctx)
		if res.err == nil {
			res.err = q.waitUntilQuiet()
		}
		if res.err == nil {
			res.err = contain.Do(func() (err error) {
				res.a, err = q.r.client.fetchAs(q.ctx, res.opts, reading{room: res.grant.grow, count: res.count})
				return err
			})
		}
		q.results <- res
	})
}

// waitUntilQuiet waits while the API has asked for no more requests; it may have done so while this
// one waited for its turn.
func (q *requests) waitUntilQuiet() error {
	for {
		d := time.Until(q.r.quietUntil())
		if err := retry.Sleep(q.ctx, d); err != nil || d <= 0 {
			return err
		}
	}
}

// await waits for the next result, until at if that is not zero. It reports false if none came.
func (q *requests) await(at time.Time) (result, bool) {
	var pause <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		pause = t.C
	}
	select {
	case res := <-q.results:
		return res, true
	case <-pause:
	case <-q.ctx.Done():
	}
	return result{}, false
}

// poll returns the next result if it is there.
func (q *requests) poll() (result, bool) {
	select {
	case res := <-q.results:
		return res, true
	default:
		return result{}, false
	}
}

// ended records that a request is over, and releases its memory.
func (q *requests) ended(res result) {
	q.inFlight--
	if res.probe {
		q.probes--
	}
	res.grant.end()
}

// worked lets more requests be under way after one that the API has answered: one more for as many
// answers as there may be requests.
func (q *requests) worked() { q.allowed = min(q.allowed+1/q.allowed, float64(q.r.s.Readers)) }

// hold keeps all readers back if a failure is about the key or the load, not about one request.
func (q *requests) hold(res result, reason RetryReason) {
	if reason == RetryRateLimited && !res.started.Before(q.cut) {
		q.cut = time.Now()
		q.allowed = max(q.allowed/2, 2) // one for the head, and one that looks ahead
	}
	if retryAfterOf(res.err) > 0 || reason == RetryRateLimited || isSlowReason(reason) {
		if until := res.seg.notBefore; until.After(q.r.quietUntil()) {
			q.r.quiet.Store(&until)
		}
	}
}
