package deadletter

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

const topic = "relay.dead_letter"

// bus is a bus in memory whose topic of dead letters has some logs. The clock of the writer
// sets the time of a message, as in Kafka.
type bus struct {
	logs  [][]sink.Stored
	first int64 // offset of the first message of each log
}

func (b *bus) Logs(context.Context, []string, time.Time) (logs []sink.Log, err error) {
	for i, l := range b.logs {
		logs = append(logs, sink.Log{Name: fmt.Sprintf("%s/%d", topic, i), Topic: topic, Partition: int32(i), From: b.first, End: b.first + int64(len(l))})
	}
	return logs, nil
}

func (b *bus) Scan(_ context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	for _, m := range b.logs[log.Partition] {
		if m.Offset < log.From || m.Offset >= log.End {
			continue
		}
		if err := fn(&m); err != nil {
			return err
		}
	}
	return nil
}

func (b *bus) add(log int, at time.Time, m sink.Message) {
	m.Headers = slices.Clone(m.Headers)
	b.logs[log] = append(b.logs[log], sink.Stored{
		Topic: topic, Key: m.Key, Offset: b.first + int64(len(b.logs[log])), Time: at, Headers: m.Headers, Body: m.Body,
	})
}

// park parks the event with an id, which was created n seconds after begin.
func (b *bus) park(t *testing.T, r *router.Router, log int, at time.Time, e source.Event) {
	t.Helper()
	m, err := r.DeadLetter(&e, e.Event, "too large", 0, 0)
	require.NoError(t, err)
	b.add(log, at, m)
}

// says says that what read knows of an event was published again.
func (b *bus) says(r *router.Router, read *Index, id string, log int, at time.Time) {
	m := r.ReplayedMessage(read.Find(id).record(&router.Replayed{Run: "run", At: at, Topic: "user.created"}), nil, nil)
	b.add(log, at, m)
}

func read(t *testing.T, b *bus) *Index {
	t.Helper()
	x, err := Read(t.Context(), b, topic, nil)
	require.NoError(t, err)
	return x
}

func ids(letters []*Letter) []string {
	out := []string{}
	for _, l := range letters {
		out = append(out, l.EventID)
	}
	return out
}

var begin = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// event returns an event that was created n seconds after begin.
func event(t *testing.T, id string, n int, data string) source.Event {
	t.Helper()
	e, err := source.ParseEvent(fmt.Appendf(nil, `{"object":"event","id":%q,"event":"user.created","data":%s,"created_at":%q}`,
		id, data, begin.Add(time.Duration(n)*time.Second).Format("2006-01-02T15:04:05.000Z")))
	require.NoError(t, err)
	return e
}

func newRouter(t *testing.T, routes ...router.Route) *router.Router {
	t.Helper()
	return routerWith(t, "0123456789abcdef0123456789abcdef", routes...)
}

// TestTheNewestDeadLetterCounts: places in the log say which dead letter of an event is the newest,
// and whether it was published again. The clocks of those who wrote them do not.
func TestTheNewestDeadLetterCounts(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	e := event(t, "event_1", 0, "{}")
	for name, c := range map[string]struct {
		second time.Duration // after the first, by the clock of the producer
	}{
		"the clocks agree":         {time.Minute},
		"one clock is behind":      {-24 * time.Hour},
		"one clock is ahead":       {24 * time.Hour},
		"the same time":            {0},
		"a clock that was not set": {begin.Sub(time.Unix(0, 0)) * -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bus{logs: make([][]sink.Stored, 1), first: 7}
			b.park(t, r, 0, begin, e)
			before := read(t, b)
			b.park(t, r, 0, begin.Add(c.second), e)
			x := read(t, b)
			require.Equal(t, int64(8), x.Find("event_1").Offset)
			require.Nil(t, x.Find("event_1").Replayed)

			b.says(r, before, "event_1", 0, begin.Add(48*time.Hour))
			require.Equal(t, []string{"event_1"}, ids(read(t, b).Open()), "a dead letter that was parked meanwhile is not meant")

			b.says(r, x, "event_1", 0, begin.Add(-48*time.Hour))
			x = read(t, b)
			require.Empty(t, x.Open())
			require.Equal(t, "run", x.Find("event_1").Replayed.Run)

			b.park(t, r, 0, begin.Add(-72*time.Hour), e)
			x = read(t, b)
			require.Equal(t, []string{"event_1"}, ids(x.Open()), "it became a dead letter once more")
			require.Equal(t, int64(11), x.Find("event_1").Offset)
		})
	}
}

// TestDeadLettersOfOneEventInTwoLogs: a topic of Kafka got more partitions. An event counts as
// published again only if that was said of the letters in both.
func TestDeadLettersOfOneEventInTwoLogs(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	e := event(t, "event_1", 0, "{}")
	b := &bus{logs: make([][]sink.Stored, 2)}
	b.park(t, r, 1, begin, e)
	x := read(t, b)
	b.says(r, x, "event_1", 0, begin) // in another log than the letter
	require.Empty(t, read(t, b).Open())

	b.park(t, r, 0, begin.Add(-time.Hour), e)
	x = read(t, b)
	require.Equal(t, []string{"event_1"}, ids(x.Open()))
	require.Equal(t, topic+"/0", x.Find("event_1").Log)
	b.says(r, x, "event_1", 1, begin.Add(-time.Hour))
	x = read(t, b)
	require.Empty(t, x.Open())
	require.Equal(t, topic+"/1", x.Find("event_1").Log)
}

// TestTheIndexOfARandomTopic compares the index with what was done, in any order of steps, with any
// clocks and any number of logs.
func TestTheIndexOfARandomTopic(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 1))
		b := &bus{logs: make([][]sink.Stored, 1+random.IntN(3)), first: random.Int64N(3)}
		open, known := map[string]bool{}, map[string]bool{}
		anyTime := func() time.Time { return begin.Add(time.Duration(random.IntN(5)-2) * time.Hour) }
		for range random.IntN(40) {
			n := random.IntN(4)
			id, log := fmt.Sprint("event_", n), random.IntN(len(b.logs))
			switch {
			case random.IntN(8) == 0:
				b.add(log, anyTime(), sink.Message{Body: []byte("not of relay")})
			case known[id] && random.IntN(3) == 0:
				x := read(t, b)
				late := random.IntN(3) == 0
				if late {
					b.park(t, r, random.IntN(len(b.logs)), anyTime(), event(t, id, n, "{}"))
				}
				b.says(r, x, id, log, anyTime())
				open[id] = late
			default:
				b.park(t, r, log, anyTime(), event(t, id, n, "{}"))
				open[id], known[id] = true, true
			}
		}
		x := read(t, b)
		var want, all []string
		for n := range 4 {
			id := fmt.Sprint("event_", n)
			if open[id] {
				want = append(want, id)
			}
			if known[id] {
				all = append(all, id)
			}
		}
		require.ElementsMatch(t, want, ids(x.Open()), "seed %d", seed)
		require.Equal(t, append([]string{}, all...), ids(x.Letters), "seed %d: in the order of the source", seed)
		contents, err := x.Load(t.Context(), x.Letters)
		require.NoError(t, err)
		for _, l := range x.Letters {
			require.Contains(t, string(contents[l].Event), l.EventID)
		}
	}
}

// TestOrderOfTheIndex: dead letters come by when their events were created; those of the same time
// in the order of their log, also if the clocks disagree.
func TestOrderOfTheIndex(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	b := &bus{logs: make([][]sink.Stored, 2)}
	b.park(t, r, 0, begin.Add(3*time.Hour), event(t, "event_b", 1, "{}"))
	b.park(t, r, 0, begin.Add(2*time.Hour), event(t, "event_a", 1, "{}"))
	b.park(t, r, 1, begin, event(t, "event_c", 2, "{}"))
	b.park(t, r, 1, begin, event(t, "event_d", 0, "{}"))
	require.Equal(t, []string{"event_d", "event_b", "event_a", "event_c"}, ids(read(t, b).Letters))
}

// TestWhatIsNotOfRelay: the index counts what it cannot read, and believes none of it.
func TestWhatIsNotOfRelay(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	b := &bus{logs: make([][]sink.Stored, 1)}
	b.park(t, r, 0, begin, event(t, "event_1", 0, "{}"))
	body, err := json.Marshal(router.Replayed{EventID: "event_1", At: begin, Letter: begin.Add(time.Hour)})
	require.NoError(t, err)
	said := []sink.Header{{Key: router.HeaderLetter, Value: router.LetterReplayed}}
	for _, m := range []sink.Message{
		{Body: nil},
		{Body: []byte(`{"event_id":7}`)},
		{Body: []byte("["), Headers: said},
		{Body: body, Headers: []sink.Header{{Key: router.HeaderLetter, Value: "lost"}}},
	} {
		b.add(0, begin, m)
	}
	b.add(0, begin, sink.Message{Body: body, Headers: said}) // names no dead letter
	x := read(t, b)
	require.Equal(t, 4, x.Foreign)
	require.Equal(t, []string{"event_1"}, ids(x.Open()))
	require.Nil(t, x.Find("event_2"))
}

// TestALetterThatIsGone: retention removes a dead letter between Read and Load.
func TestALetterThatIsGone(t *testing.T) {
	t.Parallel()
	b := &bus{logs: make([][]sink.Stored, 1)}
	b.park(t, newRouter(t), 0, begin, event(t, "event_1", 0, "{}"))
	x := read(t, b)
	b.logs[0] = nil
	_, err := x.Load(t.Context(), x.Letters)
	require.ErrorContains(t, err, "event_1 is gone from "+topic+"/0")
}
