package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"workos-relay/internal/retry"
)

// LiveConfig describes events that happen while the server runs.
type LiveConfig struct {
	Rate          float64 // average events/s; must be positive. Directory syncs come ten times faster, everyday life slower
	Seed          uint64  // same seed, same events but for their times
	Organizations int     // 0: 40
	Max           int     // stop after so many events; 0: when the context ends
}

// Live makes lifelike events, appended as time passes, until ctx ends or Max is reached; it returns
// nil then. It blocks: the caller owns the goroutine. Several calls, one after another or at once,
// go on with separate ids.
func (s *Server) Live(ctx context.Context, c LiveConfig) error {
	if !(c.Rate > 0) || math.IsInf(c.Rate, 0) {
		return errors.New("sourcetest: live generation needs a positive rate")
	}
	g := NewGenerator(Population{Seed: c.Seed, Organizations: c.Organizations})
	pace := newPace(g, c.Rate)
	due := s.cfg.now()
	for n := 0; ctx.Err() == nil; {
		// Those that are due go in together, so that a rate above the timer's resolution is kept.
		now := s.cfg.now()
		for ; !due.After(now) && (c.Max == 0 || n < c.Max) && ctx.Err() == nil; n++ {
			if err := s.happen(g, n, due); err != nil {
				return fmt.Errorf("sourcetest: live event: %w", err)
			}
			due = due.Add(pace.gap(n))
		}
		if c.Max > 0 && n == c.Max {
			break
		}
		_ = retry.Sleep(ctx, due.Sub(now))
	}
	return nil
}

// happen appends event n of g. Its time is no earlier than the last event's, so that the list stays
// in order, and its id is numbered by its place in the list, so that it is new.
func (s *Server) happen(g *Generator, n int, at time.Time) error {
	st := s.store
	st.mu.Lock()
	defer st.mu.Unlock()
	ms := at.UnixMilli()
	if last := st.len() - 1; last >= 0 {
		const perMS = int64(time.Millisecond)
		ms = max(ms, (st.created(last)+perMS-1)/perMS)
	}
	r := renderer{g: g}
	r.event(n, st.len(), ms)
	return st.appendRaw(r.b)
}

// pace spaces live events: exponential gaps, short within bursts, with the asked rate as the
// average.
type pace struct {
	g          *Generator
	burst, day time.Duration // mean gaps
}

func newPace(g *Generator, rate float64) pace {
	mean := float64(time.Second) / rate
	const quick = 0.1
	return pace{g: g, burst: time.Duration(mean * quick), day: time.Duration(mean * (1 - burstShare*quick) / (1 - burstShare))}
}

func (p pace) gap(n int) time.Duration {
	r := rng(mix(p.g.seed, uint64(n), 8))
	mean := p.day
	if kind, _ := p.g.block(n); kind != everyday {
		mean = p.burst
	}
	return time.Duration(-math.Log(1-r.float()) * float64(mean))
}
