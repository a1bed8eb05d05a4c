//go:build unix

package simulation

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"workos-relay/internal/retry"
	"workos-relay/source/sourcetest"
)

// apiWeather is how likely the faults of the Events API are, for each request.
type apiWeather struct {
	hang, reset, fails, throttles, cut, stalls, repeats float64
	slow                                                time.Duration // most latency of each way
}

var fairAPI = apiWeather{slow: 30 * time.Millisecond}

// fault draws what goes wrong with a request. What it draws for passes by itself: a page that
// descends would stop relay, which asks then.
func (w apiWeather) fault(r *rand.Rand) (f sourcetest.Fault, hangs bool) {
	n := r.Float64()
	within := func(p float64) bool {
		n -= p
		return n < 0
	}
	one := r.IntN(4)
	switch {
	case within(w.hang):
		return sourcetest.OK(), true
	case within(w.reset):
		return sourcetest.Reset(), false
	case within(w.fails):
		return sourcetest.Status([]int{500, 502, 503, 408}[one]), false
	case within(w.throttles):
		return sourcetest.TooManyRequests(time.Duration(1+one)*time.Second, sourcetest.RetryAfterSeconds), false
	case within(w.cut):
		return sourcetest.Cut(r.Float64()), false
	case within(w.stalls):
		return sourcetest.Stall(r.Float64()), false
	case within(w.repeats):
		return []sourcetest.Fault{sourcetest.Overlap(3), sourcetest.Twice(), sourcetest.Replay(), sourcetest.Overlap(1)}[one], false
	}
	return sourcetest.OK(), false
}

// transport is the way of one process to the Events API. Requests may be under way at once, in a
// backfill. What becomes of one follows from its query, so that it does not depend on their order.
type transport struct {
	p *process

	mu   sync.Mutex
	seen map[string]uint64 // how often each query was asked
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	p, w, ctx := t.p, t.p.w, req.Context()
	p.stand()
	if p.isDead() {
		return nil, errDead
	}
	query := req.URL.RawQuery
	t.mu.Lock()
	t.seen[query]++
	r := rand.New(rand.NewPCG(w.seed^hash(p.name), hash(query)+t.seen[query]))
	t.mu.Unlock()
	w.mu.Lock()
	now := w.apiWeather
	w.mu.Unlock()
	fault, hangs := now.fault(r)
	there, back := latency(r, now.slow), latency(r, now.slow)
	if w.tracing {
		w.note("%s asks the API for what follows %q, fault %s", p.name, req.URL.Query().Get("after"), fault)
	}
	if err := retry.Sleep(ctx, there); err != nil {
		return nil, t.ended(err)
	}
	if hangs {
		<-ctx.Done()
		return nil, t.ended(ctx.Err())
	}
	resp, err := w.askAPI(req, fault)
	if err == nil {
		err = retry.Sleep(ctx, back)
	}
	if err != nil {
		return nil, t.ended(err)
	}
	if err := t.ended(nil); err != nil {
		return nil, err
	}
	return resp, nil
}

// ended returns err to a process as soon as that runs.
func (t *transport) ended(err error) error {
	t.p.stand()
	if t.p.isDead() {
		return errDead
	}
	return err
}

func latency(r *rand.Rand, most time.Duration) time.Duration {
	return 50*time.Microsecond + time.Duration(r.Int64N(int64(most)))
}

// askAPI has the API answer one request, with a fault.
func (w *world) askAPI(req *http.Request, f sourcetest.Fault) (*http.Response, error) {
	w.asking.Lock()
	defer w.asking.Unlock()
	w.add(&w.count.requests)
	if f.String() != sourcetest.OK().String() {
		w.add(&w.count.apiFaults)
		w.api.Fail(1, f)
	}
	return w.api.RoundTripper().RoundTrip(req)
}

// hash is the same in every process.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// appendEvents adds events to the list of the API.
func (w *world) appendEvents(n int, at func(i int) time.Time) {
	for i := range n {
		number := len(w.events)
		id := fmt.Sprintf("event_%06d", number)
		kind := types[w.rnd.IntN(len(types))]
		raw := fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":{"object":"thing","id":"thing_%d"},"created_at":%q}`,
			id, kind, w.rnd.IntN(5), at(i).UTC().Format("2006-01-02T15:04:05.000Z"))
		if err := w.api.Append(raw); err != nil {
			panic(err)
		}
		w.mu.Lock()
		w.events, w.kind = append(w.events, id), append(w.kind, kind)
		w.place[id] = number
		w.raw[id] = raw
		w.mu.Unlock()
	}
}
