package journal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/journal"
	"workos-relay/pipeline"
	"workos-relay/source"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// clock is a time that a test sets.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func events(from, n int, eventType string) []source.Event {
	out := make([]source.Event, n)
	for i := range out {
		out[i] = source.Event{
			ID: fmt.Sprintf("event_%04d", from+i), Event: eventType, CreatedAt: began.Add(time.Duration(from+i) * time.Second),
			Data: json.RawMessage(fmt.Sprintf(`{"object":"user","id":"user_%d","organization_id":"org_1"}`, from+i)),
		}
	}
	return out
}

// heard notes what an observer is told.
type heard struct {
	pipeline.NopObserver
	committed, retrying int
}

func (h *heard) Committed(pipeline.Outcome, checkpoint.Checkpoint) { h.committed++ }
func (h *heard) Retrying(string, error)                            { h.retrying++ }

func TestEventsAreTheNewestAndOnlyTheirEnvelopes(t *testing.T) {
	c := clock{began}
	j := journal.New(journal.Config{Now: c.Now})
	next := &heard{}
	nats, kafka := j.Lane("nats").Observe(next), j.Lane("kafka").Observe(nil)

	for i := range 20 {
		c.now = began.Add(time.Duration(i) * time.Minute)
		batch := events(i*100, 100, "user.created")
		nats.Committed(pipeline.Outcome{Events: batch}, checkpoint.Checkpoint{})
		clear(batch) // valid only during the call
	}
	c.now = c.now.Add(time.Minute)
	kafka.Committed(pipeline.Outcome{Events: events(0, 1, "dsync.user.created")}, checkpoint.Checkpoint{})

	require.Equal(t, 20, next.committed)
	got := j.Events(1000)
	require.Len(t, got, 51, "fifty of a lane")
	require.Equal(t, journal.Envelope{
		Lane: "kafka", ID: "event_0000", Type: "dsync.user.created", CreatedAt: began, Organization: "org_1", Committed: c.now,
	}, got[0])
	require.Equal(t, "event_1999", got[1].ID)
	require.Equal(t, "event_1998", got[2].ID, "within a batch the last is the newest")
	require.Equal(t, "event_1899", got[11].ID, "ten of a batch")
	require.Len(t, j.Events(25), 25)
	require.Equal(t, []journal.TypeCount{{Type: "user.created", Count: 2000}, {Type: "dsync.user.created", Count: 1}}, j.Types())
}

func TestPayloadsAreBounded(t *testing.T) {
	j := journal.New(journal.Config{Payload: 64})
	e := events(1, 1, "user.created")
	e[0].Data = json.RawMessage(`{"name":"` + strings.Repeat("é", 1000) + `"}`)
	j.Lane("nats").Observe(nil).Committed(pipeline.Outcome{Events: e}, checkpoint.Checkpoint{})
	got := j.Events(1)[0]
	require.Equal(t, 2011, got.DataSize)
	require.LessOrEqual(t, len(got.Data), 64+len("…"))
	require.Contains(t, got.Data, `{"name":"éé`)
	require.NotContains(t, got.Data, "\uFFFD", "cut between characters")
}

// Names that never repeat must not fill the memory, and each event is counted all the same.
func TestTypesAreBounded(t *testing.T) {
	j := journal.New(journal.Config{})
	o := j.Lane("nats").Observe(nil)
	const n = 3000
	for i := range n {
		o.Committed(pipeline.Outcome{Events: events(i, 1, fmt.Sprintf("hostile.%d", i))}, checkpoint.Checkpoint{})
	}
	o.Committed(pipeline.Outcome{Events: events(0, 1, strings.Repeat("x", 1<<20))}, checkpoint.Checkpoint{})
	types := j.Types()
	require.LessOrEqual(t, len(types), 501)
	require.Empty(t, types[0].Type)
	total := uint64(0)
	for _, c := range types {
		total += c.Count
	}
	require.EqualValues(t, n+1, total)
	require.Less(t, len(j.Events(1)[0].Type), 300)
}

func TestErrors(t *testing.T) {
	c := clock{began}
	hide := func(s string) string { return strings.ReplaceAll(s, "hunter22", "[secret]") }
	j := journal.New(journal.Config{Now: c.Now, Hide: hide})
	l := j.Lane("nats")
	next := &heard{}
	retried := 0
	o, hooks := l.Observe(next), l.Hooks(&source.Hooks{OnRetry: func(source.RetryInfo) { retried++ }})
	tick := func() { c.now = c.now.Add(time.Second) }

	o.Retrying(pipeline.Publishing, errors.New("no\nconnection \x1b[31mto nats://u:hunter22@h"))
	for i := range 3 {
		tick()
		hooks.OnRetry(source.RetryInfo{Err: fmt.Errorf("polling: %w", &source.APIError{Status: 503, Message: "down", RequestID: fmt.Sprintf("req_%d", i)})})
	}
	tick()
	hooks.OnRetry(source.RetryInfo{Err: &source.ResponseError{Reason: "cut off", RequestID: "req_9"}})
	hooks.OnTypeRefused(source.TypeRefusedInfo{Type: "x.y", Until: began})
	tick()
	o.Committed(pipeline.Outcome{Parked: []pipeline.Parked{{EventID: "event_1", Type: "user.created", Reason: "too large"}}}, checkpoint.Checkpoint{})
	tick()
	stopped := pipeline.Status{Lane: "nats", State: pipeline.Stopped, Reason: "stopped at event event_2"}
	j.Sample([]pipeline.Status{stopped})
	j.Sample([]pipeline.Status{stopped})

	require.Equal(t, 1, next.retrying)
	require.Equal(t, 1, next.committed)
	require.Equal(t, 4, retried)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	require.Equal(t, []journal.Error{
		{Lane: "nats", Doing: journal.Stopping, Text: "stopped at event event_2", Code: "R1209", At: at(6), Last: at(6), Count: 1},
		{Lane: "nats", Doing: journal.Parking, Text: "event event_1 (user.created) went to the dead letter topic: too large", Code: "R1301", At: at(5), Last: at(5), Count: 1},
		{Lane: "nats", Doing: journal.Reading, Text: "the Events API refuses the event type x.y, which is left out until 2026-01-02 03:04 UTC", Code: "R1109", At: at(4), Last: at(4), Count: 1},
		{Lane: "nats", Doing: journal.Reading, Text: "the answer of the Events API cannot be used: cut off", Code: "R1106", RequestID: "req_9", At: at(4), Last: at(4), Count: 1},
		{Lane: "nats", Doing: journal.Reading, Text: "polling: the Events API answered 503 Service Unavailable: down", Code: "R1101", RequestID: "req_2", At: at(1), Last: at(3), Count: 3},
		{Lane: "nats", Doing: pipeline.Publishing, Text: "no connection \\u001b[31mto nats://u:[secret]@h", Code: "R1304", At: at(0), Last: at(0), Count: 1},
	}, j.Errors(100))
	require.Len(t, j.Errors(2), 2)
}

// TestErrorOfAList: what fails for a list is not said of the Events API.
func TestErrorOfAList(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer srv.Close()
	j := journal.New(journal.Config{})
	l := j.Lane("nats")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	g := &source.Getter{Client: &source.Client{Endpoint: srv.URL, APIKey: "sk_test"}, Hooks: l.Hooks(&source.Hooks{OnRetry: func(source.RetryInfo) { cancel() }})}
	_, err := g.Get(ctx, source.GetRequest{Path: "/organizations"})
	require.ErrorIs(t, err, context.Canceled)
	have := j.Errors(1)
	require.Len(t, have, 1)
	require.Equal(t, journal.Listing, have[0].Doing)
	require.Contains(t, have[0].Text, "502 Bad Gateway to GET /organizations")
}

func TestErrorsAreBounded(t *testing.T) {
	j := journal.New(journal.Config{})
	o := j.Lane("nats").Observe(nil)
	for i := range 100 {
		o.Retrying(pipeline.Publishing, fmt.Errorf("%d %s", i, strings.Repeat("x", 100_000)))
	}
	got := j.Errors(1000)
	require.Len(t, got, 50)
	require.True(t, strings.HasPrefix(got[0].Text, "99 "))
	require.Less(t, len(got[0].Text), 1100)
}

func TestHistory(t *testing.T) {
	c := clock{began}
	j := journal.New(journal.Config{Now: c.Now})
	s := pipeline.Status{Lane: "nats", State: pipeline.Running, Events: 7}
	for i := range 2 * 3600 {
		c.now = began.Add(time.Duration(i) * time.Second)
		s.Events += 5
		s.SourceNow, s.UnackedAt = c.now, c.now.Add(-time.Duration(i%10)*time.Second)
		j.Sample([]pipeline.Status{s})
	}
	points := j.Lane("nats").History(journal.Hour)
	require.InDelta(t, 360, len(points), 1)
	for i, p := range points {
		require.InDelta(t, 5, p.Rate, 1e-9)
		require.True(t, p.Known)
		require.Equal(t, 9*time.Second, p.Lag, "the longest of the step")
		if i > 0 {
			require.Equal(t, journal.Hour.Step, p.At.Sub(points[i-1].At))
		}
	}
	c.now = c.now.Add(journal.Hour.Span / 2)
	require.InDelta(t, 180, len(j.Lane("nats").History(journal.Hour)), 1, "what is older than an hour is not shown")
}

// Each range has its own points, however long relay runs: no more than its span has steps.
func TestRangesAreBounded(t *testing.T) {
	c := clock{began}
	j := journal.New(journal.Config{Now: c.Now})
	s := pipeline.Status{Lane: "nats", State: pipeline.Running}
	for i := range 20_000 {
		c.now = began.Add(time.Duration(i) * time.Second)
		s.Events += 3
		s.SourceNow, s.UnackedAt = c.now, c.now.Add(-2*time.Second)
		if i == 18_000 { // a second of it: the point that has it tells the longest lag and the mean rate
			s.UnackedAt, s.Events = c.now.Add(-time.Minute), s.Events+600
		}
		j.Sample([]pipeline.Status{s})
	}
	for _, r := range journal.Ranges() {
		points := j.Lane("nats").History(r)
		require.LessOrEqual(t, len(points), int(r.Span/r.Step))
		require.GreaterOrEqual(t, len(points), int(min(r.Span, 20_000*time.Second)/r.Step)-1)
		spikes := 0
		for i, p := range points {
			if p.Lag > 2*time.Second {
				spikes++
				require.Equal(t, time.Minute, p.Lag)
				require.InDelta(t, 3+600/r.Step.Seconds(), p.Rate, 1e-9)
			} else {
				require.InDelta(t, 3, p.Rate, 1e-9)
			}
			if i > 0 {
				require.Equal(t, r.Step, p.At.Sub(points[i-1].At))
			}
		}
		require.Equal(t, r.Span > 2000*time.Second, spikes == 1, "%v: %d", r, spikes)
	}
	require.Nil(t, j.Lane("nats").History(journal.Range{}))
}

// The lag of a lane that has stopped is not known, as its status says.
func TestTheLagOfAStoppedLaneIsNotKnown(t *testing.T) {
	c := clock{began}
	j := journal.New(journal.Config{Now: c.Now})
	for i := range 11 {
		c.now = began.Add(time.Duration(i) * time.Second)
		j.Sample([]pipeline.Status{{Lane: "nats", State: pipeline.Stopped, SourceNow: c.now, UnackedAt: began}})
	}
	require.False(t, j.Lane("nats").History(journal.Hour)[0].Known)
}

// A lane that was replaced counts from zero again.
func TestHistoryOfALaneThatBeganAnew(t *testing.T) {
	c := clock{began}
	j := journal.New(journal.Config{Now: c.Now})
	for i, n := range []uint64{1000, 1010, 30} {
		c.now = began.Add(time.Duration(i) * journal.Hour.Step)
		j.Sample([]pipeline.Status{{Lane: "nats", Events: n}})
	}
	points := j.Lane("nats").History(journal.Hour)
	require.Len(t, points, 2)
	require.InDelta(t, 1, points[0].Rate, 1e-9)
	require.InDelta(t, 3, points[1].Rate, 1e-9)
	require.False(t, points[1].Known, "the API has not told its time")
}

func TestALaneThatIsGoneIsForgotten(t *testing.T) {
	j := journal.New(journal.Config{})
	o := j.Lane("new").Observe(nil)
	j.Lane("nats").Observe(nil).Retrying(pipeline.Publishing, errors.New("broken"))
	j.Sample([]pipeline.Status{{Lane: "nats"}})
	require.Len(t, j.Errors(10), 1)
	o.Retrying(pipeline.Publishing, errors.New("not sampled yet, so not gone"))
	j.Sample(nil)
	require.Len(t, j.Errors(10), 1)
	require.Equal(t, "new", j.Errors(10)[0].Lane)
}

func TestRunSamplesEachSecondUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := journal.New(journal.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		asked, ended := 0, make(chan struct{})
		go func() {
			defer close(ended)
			j.Run(ctx, func() []pipeline.Status { asked++; return []pipeline.Status{{Lane: "nats"}} })
		}()
		time.Sleep(61*time.Second + 500*time.Millisecond)
		cancel()
		<-ended
		require.Equal(t, 62, asked)
		require.Len(t, j.Lane("nats").History(journal.Hour), 6)
	})
}

func TestConcurrentUse(t *testing.T) {
	j := journal.New(journal.Config{Payload: 100})
	var wg sync.WaitGroup
	for i := range 4 {
		l := j.Lane(fmt.Sprint("lane", i%2))
		o, hooks := l.Observe(nil), l.Hooks(nil)
		wg.Go(func() {
			for n := range 50 {
				o.Committed(pipeline.Outcome{Events: events(n, 20, fmt.Sprint("type", n%7))}, checkpoint.Checkpoint{})
				o.Retrying(pipeline.Publishing, errors.New("broken"))
				hooks.OnRetry(source.RetryInfo{Err: errors.New("broken")})
				j.Sample([]pipeline.Status{{Lane: "lane0"}, {Lane: "lane1"}})
				j.Errors(10)
				j.Events(10)
				j.Types()
				l.History(journal.Hour)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 4000, func() (n uint64) {
		for _, c := range j.Types() {
			n += c.Count
		}
		return n
	}())
}

// BenchmarkCommitted is what the journal adds to an Append of 1,000 events.
func BenchmarkCommitted(b *testing.B) {
	o := journal.New(journal.Config{}).Lane("nats").Observe(nil)
	batch := append(events(0, 500, "user.created"), events(500, 500, "user.updated")...)
	b.ReportAllocs()
	for b.Loop() {
		o.Committed(pipeline.Outcome{Events: batch}, checkpoint.Checkpoint{})
	}
}

// TestALargeEventIsNotRedactedAgain: of a large event only the envelope is shown, since a second,
// redacted copy of it costs memory.
func TestALargeEventIsNotRedactedAgain(t *testing.T) {
	j := journal.New(journal.Config{Now: func() time.Time { return began }, Payload: 100})
	lane := j.Lane("nats")
	seen := 0
	lane.Redact("rules", func(e *source.Event) *source.Event { seen++; return e })
	batch := events(0, 2, "user.created")
	batch[0].Raw = batch[0].Data
	batch[1].Raw = json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)
	lane.Observe(nil).Committed(pipeline.Outcome{Events: batch}, checkpoint.Checkpoint{})
	require.Equal(t, 1, seen)
	shown := j.Events(10)
	require.Len(t, shown, 2)
	large := shown[slices.IndexFunc(shown, func(e journal.Envelope) bool { return e.ID == batch[1].ID })]
	require.Equal(t, "user.created", large.Type)
	require.Empty(t, large.Organization)
	require.Empty(t, large.Data)
}
