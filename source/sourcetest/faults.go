package sourcetest

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Fault is one way for an answer to go wrong. The functions of this file make them; a Fault may be
// used any number of times.
type Fault struct {
	name   string
	delay  time.Duration
	jitter time.Duration
	hang   bool
	answer func(now time.Time) *reply // instead of looking at the request at all
	query  func(*query)               // before events are chosen
	page   func([]int)                // on the events chosen
	reply  func(*reply)               // on a finished 200
}

// String returns the fault's name, as Request.Fault has it.
func (f Fault) String() string { return f.name }

// OK is not a fault: it lets one request through, within a script.
func OK() Fault { return Fault{name: "ok"} }

// Status answers with a status code and the body that goes with it: {message, code} and its
// documented variants, and no JSON for 502, 503 and 504. A 429 carries no Retry-After; see
// TooManyRequests.
func Status(code int) Fault {
	contentType, body := statusBody(code)
	f := Answer(code, contentType, body)
	f.name = fmt.Sprintf("status %d", code)
	return f
}

// Answer answers with what it is given.
func Answer(code int, contentType string, body []byte) Fault {
	return Fault{name: fmt.Sprintf("answer %d", code), answer: func(time.Time) *reply { return newReply(code, contentType, body) }}
}

// TooManyRequests answers 429 with a Retry-After of d, rounded up to the second.
func TooManyRequests(d time.Duration, how RetryAfter) Fault {
	return Fault{name: "status 429", answer: func(now time.Time) *reply { return errorReply(tooManyRequests(now, d, how)) }}
}

// Redirect answers 307 to location.
func Redirect(location string) Fault {
	return Fault{name: "redirect", answer: func(time.Time) *reply {
		r := newReply(http.StatusTemporaryRedirect, "text/plain")
		r.header.Set("Location", location)
		return r
	}}
}

// Reset breaks the connection before anything is answered.
func Reset() Fault {
	return Fault{name: "reset", answer: func(time.Time) *reply { return &reply{reset: true, cut: -1, header: http.Header{}} }}
}

// Cut breaks the connection after a share of the body, from 0 to 1, with Content-Length announcing
// the whole.
func Cut(share float64) Fault {
	return Fault{name: "cut", reply: func(r *reply) { r.cut = min(int(share*float64(r.size())), r.size()-1) }}
}

// Hang never answers; the request ends with its context.
func Hang() Fault { return Fault{name: "hang", hang: true} }

// Stall sends the header and a share of the body, from 0 to 1, and nothing more; the request ends
// with its context. Over HTTP/2 the connection stays alive and answers pings.
func Stall(share float64) Fault {
	return Fault{name: "stall", reply: func(r *reply) {
		r.cut, r.stalls = min(int(share*float64(r.size())), r.size()-1), true
	}}
}

// Slow delays the answer by d and a share of jitter that the query decides.
func Slow(d, jitter time.Duration) Fault { return Fault{name: "slow", delay: d, jitter: jitter} }

// Trickle sends the headers at once and the body in pieces over d.
func Trickle(d time.Duration) Fault {
	return Fault{name: "trickle", reply: func(r *reply) { r.spread = d }}
}

// Mutate replaces the body of a page by what change makes of it, with a Content-Length that is
// right for it.
func Mutate(name string, change func(body []byte) []byte) Fault {
	return Fault{name: name, reply: func(r *reply) { r.body = [][]byte{change(r.flat())} }}
}

// Malformed sends a page that ends in the middle of its JSON though the response is complete.
func Malformed() Fault {
	return Mutate("malformed", func(b []byte) []byte { return b[:len(b)*2/3] })
}

// WrongShape sends JSON that is not a list of events.
func WrongShape() Fault {
	return Mutate("wrong shape", func([]byte) []byte { return []byte(`{"object":"list","data":{"events":[]},"list_metadata":[]}`) })
}

// Empty sends a page without events and without a cursor, also if there are events.
func Empty() Fault {
	return Mutate("empty", func([]byte) []byte {
		return []byte(`{"object":"list","data":[],"list_metadata":{"before":null,"after":null}}`)
	})
}

// Oversize sends a valid page that white space fills up to size bytes.
func Oversize(size int) Fault {
	return Fault{name: "oversize", reply: func(r *reply) {
		blank := bytes.Repeat([]byte{' '}, 64<<10)
		for missing := size - r.size(); missing > 0; missing -= len(blank) {
			r.body = append(r.body, blank[:min(missing, len(blank))])
		}
	}}
}

// Descending turns the page's order round.
func Descending() Fault { return Fault{name: "descending", page: slices.Reverse[[]int]} }

// Twice lists the event in the middle of the page twice; the page ends one event earlier.
func Twice() Fault {
	return Fault{name: "twice", page: func(idx []int) {
		if k := len(idx) / 2; k > 0 && k < len(idx)-1 {
			copy(idx[k+1:], idx[k:len(idx)-1])
		}
	}}
}

// Overlap begins the page of a request with `after` n events too early, the event of `after` being
// the last of them.
func Overlap(n int) Fault {
	return Fault{name: "overlap", query: func(q *query) { q.overlap = n }}
}

// Inversion swaps two neighbours in the middle of the page.
func Inversion() Fault {
	return Fault{name: "inversion", page: func(idx []int) {
		if k := len(idx) / 2; k > 0 {
			idx[k-1], idx[k] = idx[k], idx[k-1]
		}
	}}
}

// Replay sends again what the client has: the page that ends with the event of `after`. It changes
// nothing without `after`, and in descending order.
func Replay() Fault {
	return Fault{name: "replay", query: func(q *query) { q.inclusive = q.after != "" && !q.desc }}
}

// ReplayFromStart ignores `after`, as LostReplay does for a lost one.
func ReplayFromStart() Fault {
	return Fault{name: "replay from start", query: func(q *query) { q.after = "" }}
}

// plan is what is to go wrong.
type plan struct {
	script []step
	until  time.Time // of always
	always *Fault
	rate   float64
	random []Fault
	rng    rng
}

type step struct {
	left  int // negative: until ClearFaults
	fault Fault
}

// Fail applies f to the next n requests, after those of earlier calls; with a negative n to all
// until ClearFaults.
func (s *Server) Fail(n int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n != 0 {
		s.faults.script = append(s.faults.script, step{n, f})
	}
}

// FailFor applies f to every request within d from now by the server's clock, once the script of
// Fail is done.
func (s *Server) FailFor(d time.Duration, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.always, s.faults.until = &f, s.cfg.now().Add(d)
}

// FailRandomly applies one of faults to a share of requests, from 0 to 1, wherever neither Fail nor
// FailFor does. The same seed gives the same sequence. A rate of 0 ends it.
func (s *Server) FailRandomly(rate float64, seed uint64, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(faults) == 0 {
		rate = 0
	}
	s.faults.rate, s.faults.random, s.faults.rng = rate, slices.Clone(faults), rng(seed)
}

// ClearFaults ends all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = plan{}
}

// next returns the fault for a request that arrives now.
func (p *plan) next(now time.Time) (Fault, bool) {
	if len(p.script) > 0 {
		st := &p.script[0]
		f := st.fault
		if st.left > 0 {
			if st.left--; st.left == 0 {
				p.script = p.script[1:]
			}
		}
		return f, true
	}
	if p.always != nil {
		if now.Before(p.until) {
			return *p.always, true
		}
		p.always = nil
	}
	if p.rate > 0 && p.rng.float() < p.rate {
		return pick(&p.rng, p.random), true
	}
	return Fault{}, false
}
