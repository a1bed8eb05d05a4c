package verify

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/republish"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// list is a source that holds events.
type list []source.Event

func (l list) Pages(context.Context, checkpoint.Position) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		for from := 0; from < len(l); from += 100 {
			to := min(from+100, len(l))
			if !yield(source.Page{Events: slices.Clone(l[from:to]), Tip: to == len(l)}, nil) {
				return
			}
		}
	}
}

var types = []string{"user.created", "user.updated", "dsync.user.created"}

// some makes n events, a second apart.
func some(n int) list {
	l := make(list, n)
	for i := range l {
		id, name := fmt.Sprintf("event_%06d", i), types[i%len(types)]
		l[i] = source.Event{
			ID: id, Event: name, CreatedAt: noon.Add(time.Duration(i) * time.Second),
			Raw: fmt.Appendf(nil, `{"id":%q,"event":%q,"data":{"n":%d}}`, id, name, i),
		}
	}
	return l
}

// bus is a stream, or several partitions, in memory. Message i of a log is at offset i+1.
type bus struct {
	logs   []sink.Log
	stored [][]sink.Stored
	asked  []string
	since  time.Time
}

func (b *bus) Logs(_ context.Context, topics []string, since time.Time) ([]sink.Log, error) {
	b.asked, b.since = topics, since
	for i := range b.logs {
		b.logs[i].From, b.logs[i].End = 1, int64(len(b.stored[i])+1)
	}
	return b.logs, nil
}

func (b *bus) Scan(_ context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	for i := range b.logs {
		if b.logs[i].Name != log.Name {
			continue
		}
		for n, m := range b.stored[i] {
			m.Offset = int64(n + 1)
			if err := fn(&m); err != nil {
				return err
			}
		}
	}
	return nil
}

func newRouter(t *testing.T) *router.Router {
	t.Helper()
	r, err := router.New(router.Config{DeadLetter: "dead", Routes: []router.Route{{Events: []string{"session.*"}, Drop: true}}})
	require.NoError(t, err)
	return r
}

// message is the message of e, as relay stores it.
func message(t *testing.T, r *router.Router, e source.Event) sink.Stored {
	t.Helper()
	m, err := r.Route(&e)
	require.NoError(t, err)
	return sink.Stored{Topic: m[0].Topic, Headers: m[0].Headers, Body: m[0].Body, Time: e.CreatedAt.Add(time.Minute)}
}

func marked(m sink.Stored, header string) sink.Stored {
	m.Headers = append(slices.Clone(m.Headers), sink.Header{Key: header, Value: "run"})
	return m
}

// stream puts the messages of all events into one log.
func stream(t *testing.T, l list) *bus {
	t.Helper()
	r := newRouter(t)
	b := &bus{logs: []sink.Log{{Name: "stream"}}, stored: make([][]sink.Stored, 1)}
	for _, e := range l {
		b.stored[0] = append(b.stored[0], message(t, r, e))
	}
	return b
}

func check(t *testing.T, l list, b *bus) *Result {
	t.Helper()
	c := &Check{
		Source: l, Router: newRouter(t), Bus: b, Dir: t.TempDir(), Examples: 3,
		Span: republish.Span{Since: checkpoint.Position{CreatedAt: noon}, Until: noon.Add(1000 * time.Hour)},
	}
	r, err := c.Run(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		left, err := os.ReadDir(c.Dir)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	return r
}

func counts(r *Report) [5]int {
	return [5]int{r.Missing.Count, r.Duplicate.Count, r.Misrouted.Count, r.Altered.Count, r.OutOfOrder.Count}
}

func TestCases(t *testing.T) {
	l := some(100)
	for name, c := range map[string]struct {
		change func(m []sink.Stored) []sink.Stored
		want   [5]int // missing, duplicate, misrouted, altered, out of order
		also   func(t *testing.T, r *Report)
	}{
		"clean":   {func(m []sink.Stored) []sink.Stored { return m }, [5]int{}, nil},
		"missing": {func(m []sink.Stored) []sink.Stored { return slices.Delete(m, 40, 42) }, [5]int{2}, nil},
		"strangers": {func(m []sink.Stored) []sink.Stored {
			return append(m, sink.Stored{Topic: "other"}, sink.Stored{Topic: "other", Headers: []sink.Header{{Key: router.HeaderID, Value: "event_x"}}})
		}, [5]int{}, func(t *testing.T, r *Report) { require.Equal(t, []int{102, 100}, []int{r.Scanned, r.Messages}) }},
		"copies": {func(m []sink.Stored) []sink.Stored { return append(m, m[3], m[3], m[4]) }, [5]int{0, 3}, func(t *testing.T, r *Report) {
			require.Equal(t, []int64{101, 4}, []int64{r.Duplicate.Examples[0].Offset, r.Duplicate.Examples[0].FirstOffset})
		}},
		"moved": {func(m []sink.Stored) []sink.Stored { m[9].Topic = "elsewhere"; return m }, [5]int{0, 0, 1}, func(t *testing.T, r *Report) {
			require.Equal(t, []string{"elsewhere", "user.created"}, []string{r.Misrouted.Examples[0].Topic, r.Misrouted.Examples[0].Expected})
		}},
		"a copy elsewhere": {func(m []sink.Stored) []sink.Stored { e := m[9]; e.Topic = "elsewhere"; return append(m, e) }, [5]int{0, 0, 1}, nil},
		"altered":          {func(m []sink.Stored) []sink.Stored { m[9].Body = []byte("{}"); return m }, [5]int{0, 0, 0, 1}, nil},
		"moved and altered": {func(m []sink.Stored) []sink.Stored { m[9].Topic, m[9].Body = "elsewhere", nil; return m },
			[5]int{0, 0, 1, 1}, nil},
		"swapped": {func(m []sink.Stored) []sink.Stored { m[9], m[10] = m[10], m[9]; return m }, [5]int{0, 0, 0, 0, 1}, func(t *testing.T, r *Report) {
			e := r.OutOfOrder.Examples[0]
			require.Equal(t, []string{"event_000009", "event_000010"}, []string{e.EventID, e.Behind})
			require.EqualValues(t, 11, e.Offset)
		}},
		"one far too early": {func(m []sink.Stored) []sink.Stored {
			return slices.Insert(slices.Delete(slices.Clone(m), 90, 91), 0, m[90])
		},
			[5]int{0, 0, 0, 0, 1}, nil},
		"a batch once more, after a crash": {func(m []sink.Stored) []sink.Stored { return slices.Insert(m, 60, m[50:60]...) }, [5]int{0, 10}, nil},
		"replayed": {func(m []sink.Stored) []sink.Stored {
			return append(slices.Delete(slices.Clone(m), 7, 8), marked(m[7], router.HeaderReplay), marked(m[3], router.HeaderReplay))
		}, [5]int{}, func(t *testing.T, r *Report) { require.Equal(t, 2, r.Replayed) }},
		"repaired": {func(m []sink.Stored) []sink.Stored {
			return append(slices.Delete(slices.Clone(m), 7, 8), marked(m[7], router.HeaderRepair))
		}, [5]int{}, func(t *testing.T, r *Report) { require.Equal(t, 1, r.Repaired) }},
		"repaired without need": {func(m []sink.Stored) []sink.Stored { return append(m, marked(m[7], router.HeaderRepair)) }, [5]int{0, 1}, nil},
		"parked": {func(m []sink.Stored) []sink.Stored { m[7].Topic, m[7].Body = "dead", []byte("letter"); return m }, [5]int{},
			func(t *testing.T, r *Report) { require.Equal(t, 1, r.Parked) }},
		"empty": {func([]sink.Stored) []sink.Stored { return nil }, [5]int{100}, func(t *testing.T, r *Report) {
			require.Len(t, r.Missing.Examples, 3)
			require.False(t, r.Unknown())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := stream(t, l)
			b.stored[0] = c.change(b.stored[0])
			r := check(t, l, b)
			require.Equal(t, c.want, counts(&r.Report))
			require.Equal(t, 100, r.Report.Events)
			if c.also != nil {
				c.also(t, &r.Report)
			}
		})
	}
}

func TestDroppedTypesAreNotMissing(t *testing.T) {
	l := some(10)
	l[4].Event = "session.created"
	r := check(t, l, stream(t, slices.Delete(slices.Clone(l), 4, 5)))
	require.Zero(t, r.Report.Faults())
	require.Equal(t, []int{9, 1}, []int{r.Report.Events, r.Report.Dropped})
}

func TestASpanWithoutEventsAsksNothingOfTheBus(t *testing.T) {
	r := check(t, nil, nil)
	require.Zero(t, r.Report.Faults())
	require.False(t, r.Report.Unknown())
	n, err := r.Repair(t.Context(), nil)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestWhatTheBusIsAskedFor(t *testing.T) {
	l := some(10)
	l[0].CreatedAt = noon.Add(5 * time.Second)
	b := stream(t, l)
	check(t, l, b)
	require.Equal(t, []string{"dsync.user.created", "user.created", "user.updated"}, b.asked)
	require.Equal(t, noon.Add(time.Second-skew), b.since, "from the earliest event on, by any clock of the bus")
}

// partitions puts the messages of each topic into two partitions.
func partitions(t *testing.T, l list) *bus {
	t.Helper()
	r, b := newRouter(t), &bus{}
	index := map[string]int{}
	for i, e := range l {
		m := message(t, r, e)
		name := fmt.Sprintf("%s/%d", m.Topic, i%2)
		n, ok := index[name]
		if !ok {
			n = len(b.logs)
			index[name] = n
			b.logs, b.stored = append(b.logs, sink.Log{Name: name, Topic: m.Topic, Partition: int32(i % 2)}), append(b.stored, nil)
		}
		b.stored[n] = append(b.stored[n], m)
	}
	return b
}

func TestOrderIsThatOfEachPartition(t *testing.T) {
	l := some(600)
	b := partitions(t, l)
	r := check(t, l, b)
	require.Zero(t, r.Report.Faults())
	p := b.stored[3]
	p[10], p[11] = p[11], p[10]
	r = check(t, l, b)
	require.Equal(t, [5]int{0, 0, 0, 0, 1}, counts(&r.Report))
	require.Equal(t, b.logs[3].Name, r.Report.OutOfOrder.Examples[0].Log)
}

func TestRetention(t *testing.T) {
	l := some(600)
	t.Run("of a stream", func(t *testing.T) {
		b := stream(t, l)
		b.logs[0].Trimmed = true
		b.stored[0] = slices.Delete(b.stored[0][100:], 50, 51)
		r := check(t, l, b)
		require.Equal(t, [5]int{1}, counts(&r.Report))
		require.Equal(t, "event_000150", r.Report.Missing.Examples[0].EventID)
		require.Equal(t, 100, r.Report.Expired)
		require.Equal(t, noon.Add(100*time.Second+time.Minute), *r.Report.Trimmed[0].Oldest)
		repaired := 0
		_, err := r.Repair(t.Context(), func(_ context.Context, events []source.Event) (int, error) {
			repaired += len(events)
			return len(events), nil
		})
		require.NoError(t, err)
		require.Equal(t, 1, repaired, "what may have been there once is not published again")
	})
	t.Run("before the span is not an excuse", func(t *testing.T) {
		b := stream(t, l)
		b.logs[0].Trimmed = true
		b.stored[0] = slices.Delete(b.stored[0], 0, 1)
		b.stored[0] = slices.Insert(b.stored[0], 0, sink.Stored{Topic: "user.created", Time: noon.Add(-time.Hour)})
		r := check(t, l, b)
		require.Equal(t, [5]int{1}, counts(&r.Report), "an older message is still there")
	})
	t.Run("of one topic's partitions", func(t *testing.T) {
		b := partitions(t, l)
		for i := range b.logs {
			if b.logs[i].Topic == "user.created" {
				b.logs[i].Trimmed = true
				b.stored[i] = b.stored[i][50:]
			}
		}
		other := slices.IndexFunc(b.logs, func(l sink.Log) bool { return l.Topic == "user.updated" })
		b.stored[other] = b.stored[other][1:]
		r := check(t, l, b)
		require.Equal(t, [5]int{1}, counts(&r.Report), "another topic's retention excuses nothing")
		require.Equal(t, 100, r.Report.Expired)
		require.Len(t, r.Report.Trimmed, 2)
	})
	t.Run("of everything", func(t *testing.T) {
		b := stream(t, l)
		b.logs[0].Trimmed, b.stored[0] = true, nil
		r := check(t, l, b)
		require.True(t, r.Report.Unknown())
		require.Zero(t, r.Report.Faults())
	})
}

func TestRepair(t *testing.T) {
	l := some(5000)
	b := stream(t, l)
	var want []string
	kept := b.stored[0][:0:0]
	for i, m := range b.stored[0] {
		if i%2 == 0 {
			want = append(want, l[i].ID)
		} else {
			kept = append(kept, m)
		}
	}
	b.stored[0] = kept
	r := check(t, l, b)
	var got []string
	take := func(_ context.Context, events []source.Event) (int, error) {
		require.LessOrEqual(t, len(events), republish.BatchEvents)
		for i := range events {
			got = append(got, events[i].ID)
			require.Contains(t, string(events[i].Raw), events[i].ID)
		}
		return len(events), nil
	}
	n, err := r.Repair(t.Context(), take)
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	require.Equal(t, want, got)

	t.Run("stops where publishing does", func(t *testing.T) {
		down := errors.New("down")
		n, err := r.Repair(t.Context(), func(context.Context, []source.Event) (int, error) { return 7, down })
		require.ErrorIs(t, err, down)
		require.Equal(t, 7, n)
	})
	t.Run("says when the source has forgotten an event", func(t *testing.T) {
		r.check.Source = slices.Delete(slices.Clone(l), 4000, 4001)
		_, err := r.Repair(t.Context(), take)
		require.ErrorContains(t, err, l[4000].ID)
	})
}

func TestAnErrorLeavesNoFolderBehind(t *testing.T) {
	dir := t.TempDir()
	l := some(10)
	l[5].Raw = nil // no router takes it
	_, err := (&Check{Source: l, Router: newRouter(t), Bus: stream(t, nil), Dir: dir, Span: republish.Span{Until: noon.Add(time.Hour)}}).Run(t.Context())
	require.ErrorContains(t, err, l[5].ID)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
