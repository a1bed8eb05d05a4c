package verify

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/republish"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

// keyedEvents are n events of one type about a few organizations, which are the keys of their
// messages.
func keyedEvents(n, keys int) list {
	l := some(n)
	for i := range l {
		l[i].Event = "user.created"
		l[i].Raw = fmt.Appendf(nil, `{"id":%q,"event":"user.created","data":{"organization_id":"org_%d"}}`, l[i].ID, i%keys)
		l[i].Data = fmt.Appendf(nil, `{"organization_id":"org_%d"}`, i%keys)
	}
	return l
}

// topic puts the messages of l into one partition of a topic.
func topic(t *testing.T, l list) *bus {
	t.Helper()
	r := kafkaRouter(t)
	b := &bus{logs: []sink.Log{{Name: "user.created/0", Topic: "user.created"}}, stored: make([][]sink.Stored, 1)}
	for _, e := range l {
		m, err := r.Route(&e)
		require.NoError(t, err)
		require.NotEmpty(t, m[0].Key)
		b.stored[0] = append(b.stored[0], sink.Stored{Topic: m[0].Topic, Key: m[0].Key, Headers: m[0].Headers, Body: m[0].Body, Time: e.CreatedAt})
	}
	return b
}

func kafkaRouter(t *testing.T) *router.Router {
	t.Helper()
	r, err := router.New(router.Config{Binding: router.Kafka})
	require.NoError(t, err)
	return r
}

func checkAs(t *testing.T, l list, b *bus, c Check) *Result {
	t.Helper()
	c.Source, c.Bus, c.Dir, c.Examples = l, b, t.TempDir(), 3
	if c.Router == nil {
		c.Router = newRouter(t)
	}
	if c.Span.Until.IsZero() {
		c.Span = republish.Span{Since: checkpoint.Position{CreatedAt: noon}, Until: noon.AddDate(1, 0, 0)}
	}
	r, err := c.Run(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// compact leaves the newest message of each key.
func compact(b *bus) {
	seen := map[string]bool{}
	var kept []sink.Stored
	for _, m := range slices.Backward(b.stored[0]) {
		if !seen[string(m.Key)] {
			kept = append(kept, m)
		}
		seen[string(m.Key)] = true
	}
	slices.Reverse(kept)
	b.stored[0] = kept
}

func TestWhatCompactionExplains(t *testing.T) {
	const events, keys = partEvents + 5002, 10
	l := keyedEvents(events, keys)
	b := topic(t, l)
	compact(b)
	require.Len(t, b.stored[0], keys)
	r := checkAs(t, l, b, Check{Router: kafkaRouter(t)})
	require.Equal(t, [5]int{events - keys}, counts(&r.Report), "the topic is not compacted")

	b.logs[0].Compacted = true
	r = checkAs(t, l, b, Check{Router: kafkaRouter(t)})
	require.Equal(t, [5]int{}, counts(&r.Report))
	require.Equal(t, events-keys, r.Report.Compacted)
	require.Zero(t, r.Report.Total)
	n, err := r.Repair(t.Context(), func(context.Context, []source.Event) (int, error) { return 0, fmt.Errorf("published") })
	require.NoError(t, err)
	require.Zero(t, n, "what compaction has removed is not published again")

	t.Run("the newest of each key must be there", func(t *testing.T) {
		b.stored[0] = b.stored[0][1:]
		r := checkAs(t, l, b, Check{Router: kafkaRouter(t)})
		require.Equal(t, [5]int{events / keys}, counts(&r.Report), "nothing of the key is left")
		require.Equal(t, events/keys, r.Report.Total)
	})
	t.Run("one that is older explains nothing", func(t *testing.T) {
		b := topic(t, l[:100])
		b.logs[0].Compacted = true
		b.stored[0] = b.stored[0][:90]
		r := checkAs(t, l[:100], b, Check{Router: kafkaRouter(t)})
		require.Equal(t, [5]int{10}, counts(&r.Report))
	})
	t.Run("one after the span explains it", func(t *testing.T) {
		b := topic(t, l[:200])
		b.logs[0].Compacted = true
		compact(b)
		r := checkAs(t, l[:100], b, Check{Router: kafkaRouter(t)})
		require.Equal(t, [5]int{}, counts(&r.Report))
		require.Equal(t, 100, r.Report.Compacted)
		require.False(t, r.Report.Unknown())
	})
}

func TestATopicWithAnUnknownPolicyIsNamed(t *testing.T) {
	l := keyedEvents(20, 2)
	b := topic(t, l)
	b.logs[0].Unknown = "not allowed"
	b.logs = append(b.logs, b.logs[0])
	b.stored = append(b.stored, nil)
	r := checkAs(t, l, b, Check{Router: kafkaRouter(t)})
	require.Equal(t, []UnknownPolicy{{"user.created", "not allowed"}}, r.Report.UnknownPolicies)
}

func TestWhatALimitForEachSubjectExplains(t *testing.T) {
	l := some(90) // of three types in turn
	limit := func(b *bus, n int) {
		kept := map[string]int{}
		var out []sink.Stored
		for _, m := range slices.Backward(b.stored[0]) {
			if kept[m.Topic]++; kept[m.Topic] <= n {
				out = append(out, m)
			}
		}
		slices.Reverse(out)
		b.stored[0], b.logs[0].MaxPerTopic = out, int64(n)
	}
	b := stream(t, l)
	limit(b, 4)
	r := checkAs(t, l, b, Check{})
	require.Equal(t, [5]int{}, counts(&r.Report))
	require.Equal(t, 90-3*4, r.Report.Displaced)

	b.stored[0] = slices.Delete(b.stored[0], 5, 6)
	r = checkAs(t, l, b, Check{})
	require.Equal(t, 30-3, r.Report.Missing.Count, "a subject that holds fewer has lost something")
	require.Equal(t, 2*(30-4), r.Report.Displaced)

	b = stream(t, l)
	b.stored[0] = slices.Delete(b.stored[0], 60, 61)
	limit(b, 20)
	r = checkAs(t, l, b, Check{})
	require.Equal(t, [5]int{1}, counts(&r.Report), "the one that lies between those that are there")
}

func TestWhatAModeAllows(t *testing.T) {
	l := some(100)
	again := func(b *bus) { b.stored[0] = slices.Insert(b.stored[0], 60, b.stored[0][50:60]...) }
	b := stream(t, l)
	again(b)
	for _, c := range []struct {
		check  Check
		faults int
	}{
		{Check{Mode: checkpoint.AtLeastOnce}, 0},
		{Check{Mode: checkpoint.AtLeastOnce, Strict: true}, 10},
		{Check{Mode: checkpoint.ExactlyOnce}, 10},
		{Check{}, 10},
	} {
		r := checkAs(t, l, b, c.check)
		require.Equal(t, [5]int{0, 10}, counts(&r.Report), "copies are always reported")
		require.Equal(t, []int{c.faults, c.faults, 10 - c.faults}, []int{r.Report.Faults(), r.Report.Total, r.Report.AllowedCopies})
		require.Equal(t, []any{c.check.Mode, c.check.Strict}, []any{r.Report.Mode, r.Report.Strict})
	}

	t.Run("events that come too early and again", func(t *testing.T) {
		b := stream(t, l)
		m := b.stored[0]
		// 50 and 51 did not arrive; what was sent behind them did, and all of it comes again.
		b.stored[0] = slices.Concat(m[:50], m[52:60], m[50:])
		r := checkAs(t, l, b, Check{Mode: checkpoint.AtLeastOnce, MayComeEarly: true})
		require.Equal(t, [5]int{0, 8, 0, 0, 1}, counts(&r.Report))
		require.Equal(t, []int{0, 8, 1}, []int{r.Report.Total, r.Report.AllowedCopies, r.Report.AllowedEarly})
		r = checkAs(t, l, b, Check{Mode: checkpoint.AtLeastOnce, MayComeEarly: true, Strict: true})
		require.Equal(t, 9, r.Report.Total)
		r = checkAs(t, l, b, Check{Mode: checkpoint.AtLeastOnce})
		require.Equal(t, 1, r.Report.Total, "a bus that leaves no holes")
		r = checkAs(t, l, b, Check{Mode: checkpoint.ExactlyOnce, MayComeEarly: true})
		require.Equal(t, 9, r.Report.Total)
	})
	t.Run("one that does not come again", func(t *testing.T) {
		b := stream(t, l)
		m := b.stored[0]
		b.stored[0] = slices.Concat(m[:50], m[52:60], m[50:55], m[56:])
		r := checkAs(t, l, b, Check{Mode: checkpoint.AtLeastOnce, MayComeEarly: true})
		require.Equal(t, 1, r.Report.OutOfOrder.Count)
		require.Equal(t, []int{1, 0}, []int{r.Report.Total, r.Report.AllowedEarly})
	})
}

func TestLateEventsHaveNoPlace(t *testing.T) {
	l := some(100)
	b := stream(t, l)
	m := b.stored[0]
	b.stored[0] = append(slices.Concat(m[:40], m[42:]), marked(m[40], headerLate), marked(m[41], headerLate))
	for _, mode := range []checkpoint.Mode{checkpoint.AtLeastOnce, checkpoint.ExactlyOnce} {
		r := checkAs(t, l, b, Check{Mode: mode, MayComeEarly: true})
		require.Equal(t, [5]int{}, counts(&r.Report))
		require.Equal(t, 2, r.Report.Late)
	}
}

func TestNextOfABitset(t *testing.T) {
	b := newBits(200)
	for _, i := range []uint64{0, 63, 64, 130, 199} {
		b.set(i)
	}
	var got []uint64
	for i := b.next(0); i != noEvent; i = b.next(i + 1) {
		got = append(got, i)
	}
	require.Equal(t, []uint64{0, 63, 64, 130, 199}, got)
	require.Equal(t, uint64(noEvent), newBits(0).next(0))
}
