package pipeline_test

import (
	"context"
	"iter"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

// pagesInMemory is a source of pages of 100 that stay as they are.
type pagesInMemory []source.Page

func newPagesInMemory(pages int) pagesInMemory {
	s := newSequence(100*pages, 100)
	for i := range s.events {
		e := &s.events[i]
		data := `{"object":"directory_user","id":"directory_user_01H","organization_id":"org_01H","note":"` + strings.Repeat("x", 700) + `"}`
		e.Raw = []byte(`{"object":"event","id":"` + e.ID + `","event":"user.created","data":` + data + `,"created_at":"2026-01-01T00:00:00.000Z"}`)
		at := strings.Index(string(e.Raw), data)
		e.Data = e.Raw[at : at+len(data)]
	}
	var out pagesInMemory
	for at := 0; at < len(s.events); at += 100 {
		out = append(out, source.Page{Events: s.events[at : at+100 : at+100], Now: sourceNow, Size: 90_000})
	}
	return out
}

func (p pagesInMemory) Resume(ctx context.Context, _ checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		for i := range p {
			if !yield(p[i], nil) {
				return
			}
		}
		<-ctx.Done()
		yield(source.Page{}, ctx.Err())
	}
}

// nowhere is a Target that takes everything at once.
type nowhere struct {
	left int
	done func()
}

func (*nowhere) Load(context.Context) (checkpoint.Checkpoint, error) {
	return checkpoint.Checkpoint{}, nil
}

func (*nowhere) Acquire(context.Context, *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return checkpoint.Checkpoint{}, nil
}

func (*nowhere) Observe(pipeline.Observer) {}

func (n *nowhere) Append(_ context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	if n.left -= len(batch); n.left <= 0 {
		n.done()
	}
	prev.Position = next
	prev.Revision++
	return prev, nil
}

func (*nowhere) Release(context.Context) error { return nil }
func (*nowhere) Verify(context.Context) error  { return nil }
func (*nowhere) Flush(context.Context)         {}
func (*nowhere) Ping(context.Context) error    { return nil }
func (*nowhere) Shared() bool                  { return false }

// carryInMemory runs a lane through all pages and returns what it allocated for an event.
func carryInMemory(tb testing.TB, pages pagesInMemory) (objects, bytes float64) {
	tb.Helper()
	r, err := router.New(router.Config{})
	require.NoError(tb, err)
	ctx, cancel := context.WithCancel(tb.Context())
	defer cancel()
	events := 100 * len(pages)
	lane := &pipeline.Lane{Name: "lane", Source: pages, Router: r, Target: &nowhere{left: events, done: cancel}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.NoError(tb, lane.Run(ctx))
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(events), float64(after.TotalAlloc-before.TotalAlloc) / float64(events)
}

// TestALaneCopiesNoEvent: from the page to the bus an event costs the text of its time, and its
// share of what a batch costs.
func TestALaneCopiesNoEvent(t *testing.T) {
	objects, bytes := carryInMemory(t, newPagesInMemory(200))
	require.Less(t, objects, 2.0, "allocations per event")
	require.Less(t, bytes, 300.0, "bytes allocated per event, of some 850 that it has")
}

// BenchmarkLane is a lane with a real router and nothing around it.
func BenchmarkLane(b *testing.B) {
	pages := newPagesInMemory(1000)
	var objects, bytes float64
	for b.Loop() {
		objects, bytes = carryInMemory(b, pages)
	}
	events := float64(100 * len(pages))
	b.ReportMetric(float64(b.N)*events/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(objects, "allocs/event")
	b.ReportMetric(bytes, "B/event")
}
