package source_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// scenario is an API and a way to read it, made from a seed.
type scenario struct {
	about     string
	options   []sourcetest.Option
	events    int
	readers   int
	memory    int64
	limit     int
	rate      int
	wait      time.Duration // of the consumer, at most, for each page
	faults    []sourcetest.Fault
	share     float64 // of requests that meet a fault
	live      int     // events that happen meanwhile
	retention bool
	cut       bool // the loop is left, and reading goes on from the last position, now and again
}

func newScenario(seed uint64) scenario {
	rng := rand.New(rand.NewPCG(seed, 7))
	var sc scenario
	say := func(format string, args ...any) { sc.about += " " + fmt.Sprintf(format, args...) }
	pick := func(n int) int { return rng.IntN(n) }

	// Stretches of every density, from silence to a burst within a second.
	var profile []sourcetest.Span
	for range 1 + pick(8) {
		length := []time.Duration{time.Second, time.Minute, time.Hour, 20 * time.Hour, 35 * 24 * time.Hour}[pick(5)]
		n := []int{0, 1, pick(50), pick(400), pick(1500), pick(3000)}[pick(6)]
		profile = append(profile, sourcetest.Span{Length: length, Events: n})
		sc.events += n
	}
	tail := []time.Duration{time.Minute, 10 * time.Minute, 3 * time.Hour, 40 * 24 * time.Hour}[pick(4)]
	profile = append(profile, sourcetest.Span{Length: tail, Events: 30})
	sc.events += 30
	same := []int{1, 1, 2, 7, 150, 450}[pick(6)]
	sc.options = append(sc.options, sourcetest.WithPopulation(sourcetest.Population{Profile: profile, Seed: seed, SameInstant: same}),
		sourcetest.WithLedger(0))
	say("%d events, %d spans, %d in an instant;", sc.events, len(profile), same)

	option := func(text string, o sourcetest.Option) { sc.options = append(sc.options, o); say("%s;", text) }
	switch pick(8) {
	case 0:
		option("ranges refused", sourcetest.WithRanges(sourcetest.RangesRefused))
	case 1:
		option("ranges ignored", sourcetest.WithRanges(sourcetest.RangesIgnored))
	case 2:
		option("no more than 7 days", sourcetest.WithMaxRange(7*24*time.Hour))
	}
	switch pick(4) {
	case 0:
		option("start exclusive", sourcetest.WithExclusiveRange(true, false))
	case 1:
		option("end exclusive", sourcetest.WithExclusiveRange(false, true))
	case 2:
		option("both exclusive", sourcetest.WithExclusiveRange(true, true))
	}
	if pick(2) == 0 {
		d := []time.Duration{3 * time.Second, time.Minute, 20 * time.Minute}[pick(3)]
		option("held back "+d.String(), sourcetest.WithHoldBack(d))
	}
	if pick(4) == 0 {
		sc.retention = true
		option("retention", sourcetest.WithRetention(60*24*time.Hour))
	}
	latency := []time.Duration{0, time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond}[pick(4)]
	sc.options = append(sc.options, sourcetest.WithLatency(latency, latency))
	if pick(4) == 0 {
		option("the API's limit", sourcetest.WithRateLimit(20+pick(200), 2*time.Second, sourcetest.RetryAfter(pick(3))))
	}
	if pick(3) > 0 {
		sc.share = []float64{0.01, 0.1, 0.4}[pick(3)]
		sc.faults = []sourcetest.Fault{
			sourcetest.Status(429), sourcetest.Status(500), sourcetest.Status(503), sourcetest.Reset(), sourcetest.Cut(0.9),
			sourcetest.Malformed(), sourcetest.TooManyRequests(2*time.Second, 0), sourcetest.Slow(3*time.Second, time.Second),
		}
		say("faults %v;", sc.share)
	}
	sc.readers = []int{2, 3, 5, 16, 64}[pick(5)]
	sc.memory = []int64{1, 100 << 10, 300 << 10, 1 << 20, 4 << 20}[pick(5)]
	sc.limit = []int{100, 40, 20, 10, 3}[pick(5)]
	if sc.limit < 10 && sc.events > 2000 {
		sc.limit = 20
	}
	if sc.share == 0.01 && sc.limit > 10 { // too many in a row would be final
		sc.faults = append(sc.faults, sourcetest.Oversize(2<<20))
	}
	if pick(2) == 0 {
		sc.rate = 5 + pick(200)
	}
	if pick(3) == 0 {
		sc.wait = []time.Duration{time.Millisecond, time.Second}[pick(2)]
	}
	if pick(4) == 0 {
		sc.live = pick(500)
	}
	sc.cut = pick(3) == 0
	say("latency %v; %d readers, %d bytes, limit %d, %d/s; consumer %v; %d live; cut %v", latency, sc.readers, sc.memory, sc.limit, sc.rate,
		sc.wait, sc.live, sc.cut)
	return sc
}

// plainSequence is what one cursor gives, up to the tip.
func plainSequence(t *testing.T, srv *sourcetest.Server) []source.Event {
	t.Helper()
	events, err := readToTip(t.Context(), streamOf(t, srv), checkpoint.Position{})
	require.NoError(t, err)
	return events
}

// A backlog read by many readers is byte for byte what one cursor gives, for all options and faults
// of the API, densities of events and bounds. Reading continues from positions at which it stopped.
//
// P16: against a reader by cursor, byte for byte.
func TestBackfillIsTheCursorsSequence(t *testing.T) {
	t.Parallel()
	scenarios, few := 150, raceEnabled || testing.Short()
	switch {
	case few:
		scenarios = 24
	case overWire(t):
		scenarios = 40 // it is about what the wire adds: the other run tries more
	}
	var joined, split int
	for seed := range uint64(scenarios) {
		sc := newScenario(seed)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				info := sc.run(t, seed)
				joined += info.Joined
				split += info.Split
			})
		})
	}
	if !few {
		require.Greater(t, joined, scenarios, "hardly anything was read in segments")
		require.Positive(t, split)
	}
}

// An API that sends more events at once than were asked for, as many as it likes, gives the same
// sequence.
func TestBackfillFromAnAPIThatIgnoresTheLimit(t *testing.T) {
	seeds := uint64(12)
	if raceEnabled {
		seeds = 4
	}
	for seed := range seeds {
		sc := newScenario(seed)
		sc.options = append(sc.options, sourcetest.WithExcess(250))
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { sc.run(t, seed) })
		})
	}
}

func (sc scenario) run(t *testing.T, seed uint64) (total source.BackfillInfo) {
	srv := sourcetest.New(sc.options...)
	rng := rand.New(rand.NewPCG(seed, 8))
	if sc.share > 0 {
		srv.FailRandomly(sc.share, seed, sc.faults...)
	}
	s := streamOf(t, srv)
	s.Readers, s.Memory, s.Limit = sc.readers, sc.memory, sc.limit
	s.Client.MaxResponse = 1 << 20
	if sc.rate > 0 {
		s.Client.Limiter = rate.NewLimiter(rate.Limit(sc.rate), 1)
	}
	var largest int64
	active := false
	s.Hooks = &source.Hooks{
		OnResponse: func(i source.ResponseInfo) { largest = max(largest, int64(i.Bytes+200*i.Events)) },
		OnBackfill: func(i source.BackfillInfo) {
			require.LessOrEqual(t, i.Buffered, sc.memory+largest, sc.about)
			require.LessOrEqual(t, i.Readers, sc.readers)
			active = i.Active
			total.Joined += i.Joined
			total.Split += i.Split
			total.Missed += i.Missed
			total.Dropped += i.Dropped
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.PollInterval = 20 * time.Second
	visible := time.Now().Add(40 * time.Minute) // everything, however long it is held back
	live := make(chan error, 1)
	if sc.live > 0 {
		go func() { live <- srv.Live(ctx, sourcetest.LiveConfig{Rate: 20, Seed: seed, Max: sc.live}) }()
	} else {
		live <- nil
	}

	var events []source.Event
	var position checkpoint.Position
	done := false
	for !done {
		left := 1 << 30
		if sc.cut {
			left = 1 + rng.IntN(60)
		}
		for page, err := range s.Pages(ctx, position) {
			require.NoError(t, err, sc.about)
			events = append(events, page.Events...)
			if n := len(page.Events); n > 0 {
				position = page.Events[n-1].Position()
			}
			if sc.wait > 0 {
				time.Sleep(time.Duration(rng.Int64N(int64(sc.wait))))
			}
			done = page.Tip && len(page.Events) == 0 && !time.Now().Before(visible)
			if left--; done || left == 0 {
				break
			}
		}
		require.False(t, active, "the hook was not told that the backfill is over")
	}
	cancel()
	require.NoError(t, <-live)
	srv.ClearFaults()
	want := plainSequence(t, srv)
	if !sc.retention { // else events have expired since they were read
		require.Len(t, events, len(want), sc.about)
	}
	require.GreaterOrEqual(t, len(events), len(want), sc.about)
	events = events[len(events)-len(want):]
	for i := range want {
		require.Equal(t, string(want[i].Raw), string(events[i].Raw), "event %d;%s", i, sc.about)
	}
	return total
}
