package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
)

// flow counts what a lane carries, for the display, and passes everything on to another observer.
type flow struct {
	pipeline.Observer

	mu     sync.Mutex
	total  int
	byType map[string]int
}

func newFlow() *flow { return &flow{byType: map[string]int{}} }

// observe makes f the observer of the only lane, before next.
func (f *flow) observe(next pipeline.Observer) pipeline.Observer {
	f.Observer = next
	return f
}

// Committed implements pipeline.Observer.
func (f *flow) Committed(o pipeline.Outcome, cp checkpoint.Checkpoint) {
	f.mu.Lock()
	f.total += len(o.Events)
	for i := range o.Events {
		f.byType[o.Events[i].Event]++
	}
	f.mu.Unlock()
	f.Observer.Committed(o, cp)
}

const (
	flowInterval = 2 * time.Second
	flowTypes    = 8 // most types shown
)

// display prints what flows until ctx ends: on a terminal as one block that is redrawn, else as a
// line each time.
func (f *flow) display(ctx context.Context, out io.Writer, terminal bool, status func() pipeline.Status) {
	ticker := time.NewTicker(flowInterval)
	defer ticker.Stop()
	before, at, drawn := 0, time.Now(), 0
	for done := false; !done; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			done = true
		}
		total, types := f.snapshot()
		now := time.Now()
		rate := float64(total-before) / now.Sub(at).Seconds()
		before, at = total, now
		s := status()
		if !terminal {
			fmt.Fprintln(out, flowLine(now, total, rate, types, &s))
			continue
		}
		block := flowBlock(total, rate, types, &s)
		if drawn > 0 {
			control(out, fmt.Sprintf("\x1b[%dA\x1b[J", drawn))
		}
		fmt.Fprint(out, block)
		drawn = strings.Count(block, "\n")
	}
}

type typeCount struct {
	name string
	n    int
}

func (f *flow) snapshot() (total int, types []typeCount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.byType)) {
		types = append(types, typeCount{name, f.byType[name]})
	}
	slices.SortStableFunc(types, func(a, b typeCount) int { return cmp.Compare(b.n, a.n) })
	return f.total, types
}

func flowLine(now time.Time, total int, rate float64, types []typeCount, s *pipeline.Status) string {
	var top []string
	for _, t := range types[:min(3, len(types))] {
		top = append(top, fmt.Sprintf("%s %s", t.name, thousands(t.n)))
	}
	return fmt.Sprintf("%s  %s, %s/s, lag %s, at %s; most: %s", now.Format(time.TimeOnly), counted(total, "event"), thousands(int(rate)),
		lagText(s), s.Checkpoint.Position, strings.Join(top, ", "))
}

func flowBlock(total int, rate float64, types []typeCount, s *pipeline.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in the stream   %s/s   lag %s   %s\n", counted(total, "event"), thousands(int(rate)), lagText(s), s.State)
	fmt.Fprintf(&b, "checkpoint: %s\n", s.Checkpoint.Position)
	for _, t := range types[:min(flowTypes, len(types))] {
		fmt.Fprintf(&b, "  %-44s %12s\n", t.name, thousands(t.n))
	}
	if more := len(types) - flowTypes; more > 0 {
		fmt.Fprintf(&b, "  and %s\n", counted(more, "more type"))
	}
	return b.String()
}

func lagText(s *pipeline.Status) string {
	if s.AtTip {
		return "none"
	}
	return s.Lag().Round(time.Second).String()
}

// thousands writes n with a comma between groups of three digits.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
