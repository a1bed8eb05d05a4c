//go:build unix

package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// weather is how likely the faults of the network are, for each request to the bus.
type weather struct {
	lost       float64       // it never arrives
	unanswered float64       // it is carried out, and the answer gets lost
	late       float64       // it arrives long after the relay has given it up
	twice      float64       // it arrives a second time, late
	broken     float64       // the relay is told that the connection broke; it may arrive or not
	slow       time.Duration // most latency of each way
	lateBy     time.Duration // most of what is late
}

// longest is how late a request may be.
const longest = 70 * time.Second

// fair is the weather without faults.
var fair = weather{slow: 4 * time.Millisecond}

// fate is what becomes of one request. It is drawn before anything happens, so that it does not
// depend on what the relay does meanwhile.
type fate struct {
	there, back   time.Duration
	lost          bool
	unanswered    bool
	again         time.Duration // after the first arrival; 0 for never
	broken        time.Duration // when the relay is told so; 0 for never
	cut, gap, ack float64       // of a request with many messages, as shares: see jetSink
	coin          bool          // for what else is to be decided
}

func (w weather) draw(r *rand.Rand, holes bool) fate {
	chance := func(p float64) bool { return r.Float64() < p }
	within := func(least, most time.Duration) time.Duration {
		return least + time.Duration(r.Int64N(int64(most-least)+1))
	}
	f := fate{
		there: within(50*time.Microsecond, w.slow), back: within(50*time.Microsecond, w.slow),
		lost: chance(w.lost), unanswered: chance(w.unanswered), cut: 1, ack: 1, coin: r.IntN(2) == 0,
	}
	if chance(w.late) {
		f.there += within(time.Second, max(w.lateBy, time.Second))
	}
	if chance(w.twice) {
		f.again = within(time.Millisecond, longest)
	}
	if chance(w.broken) {
		f.broken = within(time.Millisecond, 2*w.slow)
		f.lost = f.lost || f.coin
	}
	f.gap = -1
	if f.unanswered {
		f.ack = r.Float64()
	}
	if f.lost {
		f.cut = r.Float64()
	}
	if hole := chance(w.lost); hole && holes {
		f.gap = r.Float64()
	}
	return f
}

// Errors of the network.
var (
	errNoAnswer = errors.New("no answer from the bus in time")
	errBroken   = errors.New("the connection to the bus broke")
	errDead     = errors.New("the process was killed")
)

// outcome is an answer of the bus.
type outcome[T any] struct {
	value T
	err   error
}

// request is something that a process asks of the bus.
type request struct {
	what     string
	patience time.Duration // of the process
	// divisible: it is many messages, and a part of them may arrive: see fate.cut.
	divisible bool
	// once: nobody sends it a second time, and so it does not arrive twice.
	once bool
}

// call sends a request from a process to the bus and waits for the answer. arrives is carried out
// by the bus each time that the request arrives, with the lock of the world held; its error is the
// refusal of the bus. A process that is paused sends nothing and sees no answer until it runs
// again; one that was killed does neither for ever. What was sent arrives, also if the process is
// dead by then.
func call[T any](ctx context.Context, p *process, q request, arrives func(f *fate) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	stood := p.stand()
	f := p.fate()
	switch {
	case p.isDead():
		return none, errDead
	case ctx.Err() != nil && (!stood || !f.coin): // a process that was stopped may be past its last look at the clock
		return none, ctx.Err()
	}
	w := p.w
	if w.tracing {
		w.note("%s sends %s%s", p.name, q.what, f.text())
	}
	answers := make(chan outcome[T], 1)
	arrive := func(answer bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		var o outcome[T]
		if w.busDown {
			o.err = errBroken
		} else {
			o.value, o.err = arrives(&f)
		}
		if w.tracing {
			w.noteLocked("%s of %s arrives: %v", q.what, p.name, o.err)
		}
		if answer && !f.unanswered {
			time.AfterFunc(f.back, func() {
				select {
				case answers <- o:
				default:
				}
			})
		} else if answer {
			w.count.unanswered++
		}
	}
	if f.lost && !q.divisible {
		w.add(&w.count.lost)
	} else {
		time.AfterFunc(f.there, func() { arrive(true) })
	}
	if f.again > 0 && !q.once {
		w.add(&w.count.twice)
		time.AfterFunc(f.there+f.again, func() { arrive(false) })
	}
	if f.there > q.patience {
		w.add(&w.count.late)
	}
	var broken <-chan time.Time
	if f.broken > 0 {
		timer := time.NewTimer(f.broken)
		defer timer.Stop()
		broken = timer.C
	}
	patience := q.patience
	if !f.lost && !f.unanswered {
		patience = w.within(patience)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case o := <-answers:
		return seen(p, o)
	case <-broken:
		err = errBroken
	case <-timer.C:
		err = fmt.Errorf("%s: %w", q.what, errNoAnswer)
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.killed:
		return none, errDead
	}
	if p.stand() { // the answer may have come meanwhile
		select {
		case o := <-answers:
			return seen(p, o)
		default:
		}
	}
	return none, err
}

// seen returns an answer to a process as soon as that runs.
func seen[T any](p *process, o outcome[T]) (T, error) {
	p.stand()
	if p.isDead() {
		var none T
		return none, errDead
	}
	return o.value, o.err
}

func (f *fate) text() string {
	if f.lost {
		return fmt.Sprintf(", lost (%.2f)", f.cut)
	}
	s := ""
	if f.unanswered {
		s += ", its answer lost"
	}
	if f.there > time.Second {
		s += ", late by " + f.there.String()
	}
	if f.again > 0 {
		s += ", twice"
	}
	return s
}
