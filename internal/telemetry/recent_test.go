package telemetry

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// Quantiles are those of the values themselves, but for 5 %.
func TestQuantilesOfDelivery(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 1))
	for name, draw := range map[string]func() time.Duration{
		"even":      func() time.Duration { return time.Duration(chance.Int64N(int64(time.Second))) },
		"long tail": func() time.Duration { return time.Duration(chance.ExpFloat64() * float64(300*time.Millisecond)) },
		"one value": func() time.Duration { return 123 * time.Millisecond },
		"nothing":   func() time.Duration { return 0 },
		"very long": func() time.Duration { return time.Duration(1+chance.IntN(200)) * 24 * time.Hour },
	} {
		for _, n := range []int{1, 2, 3, 99, 100, 101, 5000} {
			r := newRecentDeliveries()
			all := make([]time.Duration, n)
			for i := range all {
				all[i] = draw()
			}
			r.add(all)
			slices.Sort(all)
			got := r.quantiles()
			require.EqualValues(t, n, got.Events)
			require.InDelta(t, 300, got.WindowSeconds, 0)
			for _, q := range []struct {
				got  float64
				rank int
			}{{got.P50Seconds, (n + 1) / 2}, {got.P99Seconds, (99*n + 99) / 100}} {
				want := min(all[q.rank-1].Seconds(), (120 * 24 * time.Hour).Seconds())
				if want > (98 * 24 * time.Hour).Seconds() { // beyond the last bucket
					require.Greater(t, q.got, (94 * 24 * time.Hour).Seconds(), "%s, %d", name, n)
					continue
				}
				require.InDelta(t, want, q.got, 0.05*want+0.001, "%s, %d", name, n)
			}
		}
	}
}

// Delivery times are of the last 5 minutes, of the events that the metric has too, and go on if the
// lane is replaced.
func TestRecentDeliveries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics("test")
		old := time.Now()
		time.Sleep(time.Minute)
		took := func(d time.Duration) pipeline.Outcome {
			return pipeline.Outcome{Events: []source.Event{{CreatedAt: time.Now().Add(-d)}}, Ends: []int{1}}
		}
		commit := func(o pipeline.Outcome) { m.Lane("nats").Committed(o, checkpoint.Checkpoint{}) }
		delivery := func() *admin.Delivery { return m.Lane("nats").Activity().Delivery }
		commit(pipeline.Outcome{Events: []source.Event{{CreatedAt: old}}, Ends: []int{1}})
		dropped := took(time.Second)
		dropped.Ends, dropped.Dropped = []int{0}, 1
		commit(dropped)
		require.Nil(t, delivery(), "neither older ones nor dropped ones")

		commit(took(10 * time.Second))
		require.Equal(t, &admin.Delivery{WindowSeconds: 300, Events: 1, P50Seconds: 10, P99Seconds: 10}, delivery())
		time.Sleep(4*time.Minute + 49*time.Second)
		require.EqualValues(t, 1, delivery().Events)
		commit(took(2 * time.Second))
		got := delivery()
		require.EqualValues(t, 2, got.Events)
		require.InDelta(t, 2, got.P50Seconds, 0.1)
		require.InDelta(t, 10, got.P99Seconds, 0.5)
		time.Sleep(11 * time.Second)
		require.Equal(t, &admin.Delivery{WindowSeconds: 300, Events: 1, P50Seconds: 2, P99Seconds: 2}, delivery())
		time.Sleep(5 * time.Minute)
		require.Nil(t, delivery())
		commit(took(time.Second)) // into a slice that was in use before
		require.EqualValues(t, 1, delivery().Events)
		require.Nil(t, m.Lane("other").Activity().Delivery)
	})
}

func TestDeadLettersOfALane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewMetrics("test").Lane("nats")
		require.Equal(t, &admin.DeadLetters{}, l.Activity().DeadLetters)
		parked := []pipeline.Parked{{EventID: "event_1", Type: "user.created", Reason: "too large"}, {EventID: "event_2\n", Type: "user.created", Reason: "too\x1b large"}}
		l.Committed(pipeline.Outcome{Events: []source.Event{{}, {}}, Ends: []int{1, 2}, Parked: parked}, checkpoint.Checkpoint{})
		at := time.Now().UTC()
		want := &admin.DeadLetters{Events: 2, Newest: &admin.DeadLetter{EventID: "event_2 ", Type: "user.created", Reason: `too\u001b large`, At: at}}
		got := l.Activity().DeadLetters
		want.Newest.EventID = got.Newest.EventID
		require.Equal(t, want, got)
		require.NotContains(t, got.Newest.EventID, "\n")
		time.Sleep(time.Minute)
		l.Committed(pipeline.Outcome{Events: []source.Event{{}}, Ends: []int{1}}, checkpoint.Checkpoint{})
		require.Equal(t, want, l.Activity().DeadLetters)
	})
}

// Requests are the mean over the last 10 s.
func TestRequestsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics("test")
		perSecond := func() float64 { return m.Requests().PerSecond }
		require.Zero(t, perSecond())
		m.RequestSent()
		require.InDelta(t, 1, perSecond(), 0)
		time.Sleep(2 * time.Second)
		require.InDelta(t, 0.5, perSecond(), 0)
		for range 20 {
			for range 5 {
				m.RequestSent()
			}
			time.Sleep(time.Second)
		}
		require.InDelta(t, 5, perSecond(), 0)
		time.Sleep(4 * time.Second)
		require.InDelta(t, 3, perSecond(), 0)
		time.Sleep(6 * time.Second)
		require.Zero(t, perSecond())
		m.RequestSent()
		time.Sleep(time.Second)
		require.InDelta(t, 0.1, perSecond(), 1e-9)
		time.Sleep(time.Hour)
		require.Zero(t, perSecond())
	})
}

// A wait because of an answer 429 ends with its time, or with a later answer to a request from
// after it. What several lanes were answered is one number.
func TestRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics("test")
		until := func() *time.Time { return m.Lane("nats").Activity().RateLimitedUntil }
		h := m.Lane("nats").SourceHooks()
		limited := func(wait time.Duration) {
			h.OnResponse(source.ResponseInfo{Status: 429, Duration: time.Second})
			h.OnRateLimited(source.RateLimitedInfo{Wait: wait})
		}
		require.Nil(t, until())
		require.Equal(t, admin.Requests{}, m.Requests())

		began := time.Now().UTC()
		limited(time.Minute)
		require.Equal(t, began.Add(time.Minute), *until())
		h.OnResponse(source.ResponseInfo{Status: 429})
		time.Sleep(time.Second)
		h.OnResponse(source.ResponseInfo{Status: 200, Duration: 2 * time.Second}) // was under way
		require.NotNil(t, until())
		time.Sleep(59 * time.Second)
		require.Nil(t, until())

		limited(time.Minute)
		time.Sleep(2 * time.Second)
		h.OnResponse(source.ResponseInfo{Status: 200, Duration: time.Second}) // of the lane that replaces it
		require.Nil(t, until())

		last := time.Now().UTC()
		m.Lane("kafka").SourceHooks().OnRateLimited(source.RateLimitedInfo{Wait: time.Minute})
		require.Nil(t, until(), "another lane waits")
		require.Equal(t, admin.Requests{RateLimited: 3, RateLimitedAt: &last}, m.Requests())

		time.Sleep(time.Second)
		last = time.Now().UTC()
		m.RequestHooks().OnRateLimited(source.RateLimitedInfo{Wait: time.Minute})
		require.Nil(t, until(), "no lane waits for a verification")
		require.Equal(t, admin.Requests{RateLimited: 4, RateLimitedAt: &last}, m.Requests())
	})
}
