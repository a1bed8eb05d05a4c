//go:build unix

package soak

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// How often things are done; a short run has each of them several times all the same.
const (
	sampleEvery = time.Second
	turnEvery   = 10 * time.Second // one disturbance in each
	shortest    = time.Minute
)

// disturbance is done in turn. It ends by itself, well within turnEvery.
type disturbance struct {
	name string
	do   func(t *testing.T, w *world, turn int)
}

func disturbances(reload bool) []disturbance {
	all := []disturbance{
		{"bus restarts", func(t *testing.T, w *world, _ int) {
			w.stopNATS()
			pause(t.Context(), 2*time.Second)
			w.startNATS(t)
		}},
		{"API outages", func(_ *testing.T, w *world, _ int) { w.api.FailFor(3*time.Second, sourcetest.Status(503)) }},
		{"429 for all", func(_ *testing.T, w *world, _ int) {
			w.api.FailFor(2*time.Second, sourcetest.TooManyRequests(time.Second, sourcetest.RetryAfterSeconds))
		}},
		{"bursts of events", func(t *testing.T, w *world, turn int) {
			require.NoError(t, w.api.Live(t.Context(), sourcetest.LiveConfig{Rate: 1e6, Seed: uint64(turn), Max: 3000}))
		}},
		{"quiet", func(*testing.T, *world, int) {}},
	}
	if reload {
		all = slices.Insert(all, 1, disturbance{"reloads", func(t *testing.T, w *world, turn int) {
			w.configure(t, turn)
			require.NoError(t, w.relay.Process.Signal(syscall.SIGHUP))
		}})
	}
	return all
}

func TestSoak(t *testing.T) {
	duration, err := time.ParseDuration(os.Getenv("RELAY_SOAK"))
	if err != nil {
		t.Skip("takes as long as RELAY_SOAK says, such as 30m; `make soak` runs it")
	}
	require.GreaterOrEqual(t, duration, shortest, "in less there is nothing to be seen")
	w := newWorld(t)
	stop := w.live(t, rate(t))
	w.api.FailRandomly(0.05, 1, sourcetest.Status(500), sourcetest.Status(502), sourcetest.TooManyRequests(time.Second, sourcetest.RetryAfterSeconds),
		sourcetest.Reset(), sourcetest.Cut(0.5), sourcetest.Malformed(), sourcetest.Slow(200*time.Millisecond, 300*time.Millisecond))

	samples, did := w.soak(t, duration, disturbances(os.Getenv("RELAY_SOAK_RELOAD") != "off"))
	stop()
	w.api.ClearFaults()
	w.requireAllCarried(t)
	requireReloads(t, samples)

	var verdicts []verdict
	for _, q := range quantities {
		verdicts = append(verdicts, judge(q, samples))
	}
	t.Logf("%v, %d lanes, %d events of the source, %d samples; %s\n\n%s", duration, w.lanes, w.api.Len(), len(samples), did, table(verdicts))
	for _, v := range verdicts {
		require.True(t, v.flat, "%s grows: %.1f %s in the middle third, %.1f in the last", v.name, v.thirds[1], v.unit, v.thirds[2])
	}
	w.stopRelay(t)
}

// live makes events until stop is called.
func (w *world) live(t *testing.T, rate float64) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	made := make(chan error, 1)
	go func() { made <- w.api.Live(ctx, sourcetest.LiveConfig{Rate: rate, Seed: 1}) }()
	return func() {
		cancel()
		require.NoError(t, <-made)
	}
}

// soak disturbs and samples until the time is over, and says what it did.
func (w *world) soak(t *testing.T, duration time.Duration, turns []disturbance) (samples []sample, did string) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithDeadline(t.Context(), began.Add(duration))
	defer cancel()
	sampled := make(chan []sample, 1)
	go func() { sampled <- w.sample(ctx, t, began) }()

	counts := make([]int, len(turns))
	for turn := 0; time.Since(began) < duration-turnEvery; turn++ {
		pause(ctx, time.Until(began.Add(time.Duration(turn+1)*turnEvery)))
		select {
		case err := <-w.ended:
			w.ended <- err
			require.Fail(t, "relay ended by itself", "%v", err)
		default:
		}
		i := turn % len(turns)
		turns[i].do(t, w, turn)
		counts[i]++
	}
	samples = <-sampled
	require.Greater(t, len(samples), int(duration/sampleEvery)/4, "relay hardly answers")
	for i, d := range turns {
		did += fmt.Sprintf("%s %d, ", d.name, counts[i])
	}
	return samples, did + "and 5 % of the requests fail"
}

// sample scrapes again and again until ctx ends. A scrape that fails is left out.
func (w *world) sample(ctx context.Context, t *testing.T, began time.Time) (samples []sample) {
	for pause(ctx, sampleEvery); ctx.Err() == nil; pause(ctx, sampleEvery) {
		values, err := w.scrape(ctx)
		if err != nil {
			continue
		}
		samples = append(samples, sample{at: time.Since(began), values: values})
		if n := len(samples); n%60 == 0 {
			tell(t, samples[n-1])
		}
	}
	return samples
}

// tell shows how things are.
func tell(t *testing.T, s sample) {
	t.Helper()
	line := fmt.Sprintf("%8s  %7.0f events", s.at.Round(time.Second), s.values["relay_committed_events_total"])
	for _, q := range quantities {
		line += fmt.Sprintf("  %s %.1f %s", q.name, s.values[q.metric]*q.scale, q.unit)
	}
	t.Log(line)
}

// requireAllCarried requires that each lane carries everything there is, once nothing is broken any
// more.
func (w *world) requireAllCarried(t *testing.T) {
	t.Helper()
	want := float64(w.lanes * w.api.Len())
	require.Eventually(t, func() bool {
		values, err := w.scrape(t.Context())
		return err == nil && values["relay_committed_events_total"] == want && values["relay_at_tip"] == float64(w.lanes)
	}, patient, 100*time.Millisecond, "not all of %v events are carried", want)
}

// requireReloads requires that no reload was refused, and that there was one if there was to be.
func requireReloads(t *testing.T, samples []sample) {
	t.Helper()
	const taken, at = "relay_config_last_reload_successful", "relay_config_last_reload_success_timestamp_seconds"
	for _, s := range samples {
		require.Positive(t, s.values[taken], "a reload was refused")
	}
	require.Equal(t, os.Getenv("RELAY_SOAK_RELOAD") != "off", samples[len(samples)-1].values[at] > samples[0].values[at])
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func rate(t *testing.T) float64 {
	t.Helper()
	text := os.Getenv("RELAY_SOAK_RATE")
	if text == "" {
		return 150
	}
	r, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err, "RELAY_SOAK_RATE")
	return r
}
