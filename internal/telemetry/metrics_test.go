package telemetry

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink/kafka"
	"workos-relay/source"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

// scrape returns what Prometheus would see, by series; absent series are absent.
func scrape(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, rec.Code, rec.Body.String())
	out := map[string]string{}
	for line := range strings.Lines(rec.Body.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			at := strings.LastIndexByte(line, ' ')
			out[line[:at]] = line[at+1:]
		}
	}
	return out
}

func events(types ...string) []source.Event {
	out := make([]source.Event, len(types))
	for i, name := range types {
		out[i] = source.Event{ID: fmt.Sprintf("event_%d", i), Event: name}
	}
	return out
}

func TestFixedSeriesExistFromTheStart(t *testing.T) {
	m := NewMetrics("1.2.3")
	m.Lane("nats")
	m.JudgeBy(func(s pipeline.Status) (bool, string) { return s.State == pipeline.Running, "degraded" }, []string{"healthy", "degraded"})
	m.Watch("nats", func() pipeline.Status { return pipeline.Status{Lane: "nats", State: pipeline.Starting} })
	got := scrape(t, m)
	require.Equal(t, "1", got[`relay_build_info{go_version="`+runtime.Version()+`",version="1.2.3"}`])
	require.Contains(t, got, "go_goroutines")
	require.Contains(t, got, "process_start_time_seconds")

	later := map[string]bool{
		"relay_source_odd_payloads_total": true, "relay_webhook_unasked_total": true,
		"relay_lag_seconds": true, "relay_position_timestamp_seconds": true, "relay_source_refused_type": true,
		"relay_snapshot_running": true, "relay_snapshot_objects": true, "relay_snapshot_remaining_entities": true, "relay_snapshot_remaining_seconds": true, "relay_snapshot_last_success_timestamp_seconds": true,
		"relay_verify_last_success_timestamp_seconds": true, "relay_verify_duration_seconds": true, "relay_verify_checked": true, "relay_verify_faults": true,
	}
	for _, f := range declared {
		series := 0
		for s := range got {
			name, _, _ := strings.Cut(s, "{")
			if name == f.name || name == f.name+"_count" {
				series++
			}
		}
		require.Equal(t, later[f.name], series == 0, f.name)
	}
	for _, typ := range append(source.Catalogue(), source.Type{Name: "other"}) {
		require.Equal(t, "0", got[`relay_events_total{lane="nats",outcome="published",type="`+typ.Name+`"}`], typ.Name)
	}
}

func TestCommitted(t *testing.T) {
	m := NewMetrics("test")
	l := m.Lane("nats")
	require.Same(t, l, m.Lane("nats"))
	l.Committed(pipeline.Outcome{
		Events: events("", "user.created", "user.created", "future.type", "user.created", "user.deleted", "other.future.type"),
		Ends:   []int{1, 2, 2, 3, 4, 5, 6}, Messages: 6, Bytes: 1234, Dropped: 1,
		Parked: []pipeline.Parked{{EventID: "event_4", Type: "user.created"}, {EventID: "event_6", Type: "other.future.type"}},
		Took:   30 * time.Millisecond,
	}, checkpoint.Checkpoint{})
	l.Committed(pipeline.Outcome{
		Events: events("user.created", "user.deleted"), Ends: []int{1, 1}, Messages: 1, Bytes: 1, Dropped: 1, Took: 2 * time.Second,
	}, checkpoint.Checkpoint{})
	l.Retrying("publishing", errors.New("refused"))
	l.Retrying("taking up the position", errors.New("refused"))
	l.Retrying("something new", errors.New("refused"))

	got := scrape(t, m)
	for series, want := range map[string]string{
		`relay_events_total{lane="nats",outcome="published",type="user.created"}`: "2",
		`relay_events_total{lane="nats",outcome="dropped",type="user.created"}`:   "1",
		`relay_events_total{lane="nats",outcome="parked",type="user.created"}`:    "1",
		`relay_events_total{lane="nats",outcome="published",type="user.deleted"}`: "1",
		`relay_events_total{lane="nats",outcome="dropped",type="user.deleted"}`:   "1",
		`relay_events_total{lane="nats",outcome="published",type="other"}`:        "2",
		`relay_events_total{lane="nats",outcome="parked",type="other"}`:           "1",
		`relay_committed_events_total{lane="nats"}`:                               "9",
		`relay_dropped_events_total{lane="nats"}`:                                 "2",
		`relay_dead_letters_total{lane="nats"}`:                                   "2",
		`relay_published_messages_total{lane="nats"}`:                             "7",
		`relay_published_bytes_total{lane="nats"}`:                                "1235",
		`relay_append_duration_seconds_count{lane="nats"}`:                        "2",
		`relay_append_duration_seconds_bucket{lane="nats",le="0.05"}`:             "1",
		`relay_append_events_bucket{lane="nats",le="2"}`:                          "1",
		`relay_append_events_sum{lane="nats"}`:                                    "9",
		`relay_append_messages_sum{lane="nats"}`:                                  "7",
		`relay_append_bytes_bucket{lane="nats",le="1024"}`:                        "1",
		`relay_append_bytes_sum{lane="nats"}`:                                     "1235",
		`relay_append_failures_total{doing="publishing",lane="nats"}`:             "1",
		`relay_append_failures_total{doing="taking up the position",lane="nats"}`: "1",
		`relay_append_failures_total{doing="other",lane="nats"}`:                  "1",
	} {
		require.Equal(t, want, got[series], series)
	}
	require.NotContains(t, got, `relay_events_total{lane="nats",outcome="dropped",type="other"}`, "no series for what never happened")
}

// TestTheMetricsOfASnapshot: they are those of the checkpoint, and say of a standby that it reads
// nothing. The last success outlasts the start of the next snapshot.
func TestTheMetricsOfASnapshot(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0).UTC()
	s := pipeline.Status{State: pipeline.Running, Holder: "me", Checkpoint: checkpoint.Checkpoint{Holder: "me", Snapshot: &checkpoint.Snapshot{
		Run: "run_1", Entities: []string{"organization", "user", "directory"}, Entity: "user", PreviousAt: at,
		Counts: []checkpoint.SnapshotCount{{Entity: "organization", Objects: 7, Removed: 2}, {Entity: "user", Objects: 593, Skipped: 1, Dropped: 4}},
	}}}
	s.Unread = []pipeline.UnreadEntity{{Entity: "role", Reason: "refused"}, {Entity: "group"}}
	m := NewMetrics("test")
	m.Watch("nats", func() pipeline.Status { return s })
	m.Watch("plain", func() pipeline.Status { return pipeline.Status{} })
	got := scrape(t, m)
	for series, want := range map[string]string{
		`relay_snapshot_running{lane="nats"}`:                                           "1",
		`relay_state_unread_entities{lane="nats"}`:                                      "2",
		`relay_state_unread_entities{lane="plain"}`:                                     "0",
		`relay_snapshot_remaining_entities{lane="nats"}`:                                "2",
		`relay_snapshot_last_success_timestamp_seconds{lane="nats"}`:                    "1.7e+09",
		`relay_snapshot_objects{entity="organization",lane="nats",outcome="published"}`: "7",
		`relay_snapshot_objects{entity="organization",lane="nats",outcome="removed"}`:   "2",
		`relay_snapshot_objects{entity="user",lane="nats",outcome="published"}`:         "593",
		`relay_snapshot_objects{entity="user",lane="nats",outcome="skipped"}`:           "1",
		`relay_snapshot_objects{entity="user",lane="nats",outcome="dropped"}`:           "4",
		`relay_snapshot_objects{entity="directory",lane="nats",outcome="published"}`:    "0",
	} {
		require.Equal(t, want, got[series], series)
	}
	require.NotContains(t, got, `relay_snapshot_running{lane="plain"}`)
	require.NotContains(t, got, `relay_snapshot_remaining_seconds{lane="nats"}`)
	s.At, s.Checkpoint.Snapshot.StartedAt = at.Add(time.Minute), at
	s.Checkpoint.Snapshot.Counts[1].Lists, s.Checkpoint.Snapshot.Counts[1].Parents = 24, 48
	s.Checkpoint.Snapshot.Before = []checkpoint.SnapshotCount{{Entity: "directory", Objects: 12}}
	require.Equal(t, "60", scrape(t, m)[`relay_snapshot_remaining_seconds{lane="nats"}`])
	s.Checkpoint.Holder = "other"
	require.Equal(t, "0", scrape(t, m)[`relay_snapshot_running{lane="nats"}`], "another process reads it")
	s.Checkpoint.Holder, s.Checkpoint.Snapshot.FinishedAt = "me", at.Add(time.Hour)
	got = scrape(t, m)
	require.Equal(t, "0", got[`relay_snapshot_running{lane="nats"}`])
	require.Equal(t, "0", got[`relay_snapshot_remaining_entities{lane="nats"}`])
	require.Equal(t, "1.7000036e+09", got[`relay_snapshot_last_success_timestamp_seconds{lane="nats"}`])
}

// TestDelivery observes what was published and parked, from created_at on; not what was dropped,
// nor what is older than the process.
func TestDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics("test")
		l := m.Lane("nats")
		old := time.Now()
		time.Sleep(time.Minute)
		at := func(age time.Duration) source.Event { return source.Event{CreatedAt: time.Now().Add(-age)} }
		l.Committed(pipeline.Outcome{
			Events: []source.Event{{CreatedAt: old}, {CreatedAt: old.Add(-time.Hour)}, at(200 * time.Millisecond), at(20 * time.Second), at(3 * time.Second), at(-time.Second)},
			Ends:   []int{1, 2, 3, 4, 4, 5}, Dropped: 1,
		}, checkpoint.Checkpoint{})
		got := scrape(t, m)
		for series, want := range map[string]string{
			`relay_event_delivery_seconds_count{lane="nats"}`:            "3",
			`relay_event_delivery_seconds_bucket{lane="nats",le="0.05"}`: "1",
			`relay_event_delivery_seconds_bucket{lane="nats",le="0.25"}`: "2",
			`relay_event_delivery_seconds_bucket{lane="nats",le="5"}`:    "2",
			`relay_event_delivery_seconds_bucket{lane="nats",le="30"}`:   "3",
			`relay_event_delivery_seconds_sum{lane="nats"}`:              "20.2",
		} {
			require.Equal(t, want, got[series], series)
		}
	})
}

// TestDeliveryByAWrongClock: the clock of the machine is off. The Date headers of the API say by
// how much, in whole seconds, and no time is negative.
func TestDeliveryByAWrongClock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ahead   time.Duration // of the local clock
		least   time.Duration // of an event that took a second
		most    time.Duration
		answers int
	}{
		"right":           {0, time.Second, time.Second, 5},
		"ahead":           {time.Hour, time.Second, 1300 * time.Millisecond, 50},
		"behind":          {-time.Hour, 700 * time.Millisecond, time.Second, 50},
		"one answer":      {time.Hour, time.Second, 2200 * time.Millisecond, 1},
		"a little behind": {-300 * time.Millisecond, 700 * time.Millisecond, time.Second, 50},
		"nothing known":   {-time.Hour, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := NewMetrics("test")
				l := m.Lane("nats")
				answered := func(status int, ahead time.Duration) {
					l.SourceHooks().OnResponse(source.ResponseInfo{Status: status, Duration: 100 * time.Millisecond, Now: time.Now().Add(-50*time.Millisecond - ahead).Truncate(time.Second)})
				}
				for n := range c.answers {
					if n == 0 {
						answered(200, -c.ahead) // before the clock was set
					}
					time.Sleep(5*time.Second + 70*time.Millisecond)
					answered(200, c.ahead)
					answered(502, 24*time.Hour)
				}
				time.Sleep(time.Minute)
				events := []source.Event{{CreatedAt: time.Now().Add(-c.ahead - time.Second)}}
				if c.answers > 0 {
					events = append(events, source.Event{CreatedAt: m.started.Add(-c.ahead - 2*time.Second)}) // older than the process
				}
				l.Committed(pipeline.Outcome{Events: events}, checkpoint.Checkpoint{})
				got := scrape(t, m)
				require.Equal(t, "1", got[`relay_event_delivery_seconds_count{lane="nats"}`])
				sum, err := strconv.ParseFloat(got[`relay_event_delivery_seconds_sum{lane="nats"}`], 64)
				require.NoError(t, err)
				require.GreaterOrEqual(t, sum, c.least.Seconds()-1e-6)
				require.LessOrEqual(t, sum, c.most.Seconds()+1e-6)
			})
		})
	}
}

func TestReloaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics("test")
		const taken, at = "relay_config_last_reload_successful", "relay_config_last_reload_success_timestamp_seconds"
		started := scrape(t, m)
		require.Equal(t, "1", started[taken])
		time.Sleep(time.Minute)
		m.Reloaded(errors.New("refused"))
		require.Equal(t, "0", scrape(t, m)[taken])
		require.Equal(t, started[at], scrape(t, m)[at])
		m.Reloaded(nil)
		require.Equal(t, "1", scrape(t, m)[taken])
		require.NotEqual(t, started[at], scrape(t, m)[at])
	})
}

func TestStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics("test")
		l := m.Lane("nats")
		for _, c := range []struct {
			stage pipeline.Stage
			err   error
		}{{pipeline.StagePublish, nil}, {pipeline.StagePublish, errors.New("refused")}, {pipeline.StageCommit, nil}, {"something new", nil}} {
			_, end := l.BeginStage(t.Context(), c.stage, nil, checkpoint.Position{})
			time.Sleep(2 * time.Second) // of the bubble's clock
			end(c.err)
		}
		got := scrape(t, m)
		require.Equal(t, "1", got[`relay_stage_duration_seconds_count{lane="nats",stage="publish"}`], "only what succeeds")
		require.Equal(t, "2", got[`relay_stage_duration_seconds_sum{lane="nats",stage="publish"}`])
		require.Equal(t, "1", got[`relay_stage_duration_seconds_count{lane="nats",stage="commit"}`])
		require.Equal(t, "0", got[`relay_stage_duration_seconds_count{lane="nats",stage="publish_and_commit"}`])
	})
}

func TestSourceHooks(t *testing.T) {
	m := NewMetrics("test")
	h := m.Lane("nats").SourceHooks()
	for _, status := range []int{200, 200, 429, 418, 511, 301, 204, 999} {
		h.OnResponse(source.ResponseInfo{Status: status, Duration: 20 * time.Millisecond, Bytes: 100, Events: 2})
	}
	h.OnRetry(source.RetryInfo{Reason: source.RetryTransport, Wait: 1500 * time.Millisecond})
	h.OnRetry(source.RetryInfo{Reason: "something new", Wait: time.Second})
	h.OnRateLimited(source.RateLimitedInfo{Wait: time.Second})
	h.OnLimiterWait(source.LimiterWaitInfo{Wait: 250 * time.Millisecond})
	h.OnInversion(source.InversionInfo{Count: 3})
	h.OnUnexpectedType(source.UnexpectedTypeInfo{Type: "user.created"})
	h.OnOddPayload(source.OddPayloadInfo{Type: "user.created"})
	m.WebhookUnasked("future.type.created")

	got := scrape(t, m)
	for series, want := range map[string]string{
		`relay_source_requests_total{lane="nats",status="200"}`:         "2",
		`relay_source_requests_total{lane="nats",status="429"}`:         "1",
		`relay_source_requests_total{lane="nats",status="2xx"}`:         "1",
		`relay_source_requests_total{lane="nats",status="3xx"}`:         "1",
		`relay_source_requests_total{lane="nats",status="4xx"}`:         "1",
		`relay_source_requests_total{lane="nats",status="5xx"}`:         "1",
		`relay_source_requests_total{lane="nats",status="other"}`:       "1",
		`relay_source_request_duration_seconds_count{lane="nats"}`:      "8",
		`relay_source_response_bytes_total{lane="nats"}`:                "800",
		`relay_source_events_total{lane="nats"}`:                        "16",
		`relay_source_retries_total{lane="nats",reason="transport"}`:    "1",
		`relay_source_retries_total{lane="nats",reason="other"}`:        "1",
		`relay_source_retries_total{lane="nats",reason="unauthorized"}`: "0",
		`relay_source_retry_wait_seconds_total{lane="nats"}`:            "2.5",
		`relay_source_rate_limited_total{lane="nats"}`:                  "1",
		`relay_source_limiter_wait_seconds_total{lane="nats"}`:          "0.25",
		`relay_source_inversions_total{lane="nats"}`:                    "3",
		`relay_source_unexpected_events_total{lane="nats"}`:             "1",
	} {
		require.Equal(t, want, got[series], series)
	}
}

func TestRefusedTypes(t *testing.T) {
	m := NewMetrics("test")
	h := m.Lane("nats").SourceHooks()
	known, unknown := `relay_source_refused_type{lane="nats",type="vault.kek.created"}`, `relay_source_refused_type{lane="nats",type="other"}`
	require.NotContains(t, scrape(t, m), known)
	for range 2 { // a stream that starts again meets the same refusals
		for _, name := range []string{"vault.kek.created", "future.one", "future.two"} {
			h.OnTypeRefused(source.TypeRefusedInfo{Type: name})
		}
	}
	require.Equal(t, "1", scrape(t, m)[known])
	require.Equal(t, "2", scrape(t, m)[unknown])
	h.OnTypeRestored(source.TypeRestoredInfo{Type: "vault.kek.created"})
	h.OnTypeRestored(source.TypeRestoredInfo{Type: "future.one"})
	h.OnTypeRestored(source.TypeRestoredInfo{Type: "never.refused"})
	require.Equal(t, "0", scrape(t, m)[known])
	require.Equal(t, "1", scrape(t, m)[unknown])
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics("test")
		now := time.Now()
		m.JudgeBy(func(s pipeline.Status) (bool, string) {
			if s.Lane == "kafka" {
				return true, "healthy"
			}
			return false, "degraded"
		}, []string{"healthy", "degraded"})
		m.Watch("nats", func() pipeline.Status { return pipeline.Status{State: pipeline.Stopped} })
		m.Watch("nats", func() pipeline.Status {
			return pipeline.Status{
				Lane: "nats", State: pipeline.Retrying, LastPoll: now, SourceNow: now.Add(time.Hour), Events: 42,
				At: now.Add(9 * time.Second), Prefetched: 4321,
				Unacked: now, UnackedAt: now.Add(time.Hour - 90*time.Second), TipAt: time.Unix(1700000000, 500e6),
				Checkpoint: checkpoint.Checkpoint{Position: checkpoint.Position{EventID: "event_1", CreatedAt: time.Unix(1690000000, 0)}},
			}
		})
		m.Watch("kafka", func() pipeline.Status { return pipeline.Status{Lane: "kafka", State: pipeline.Running, AtTip: true} })
		time.Sleep(75 * time.Second) // of the bubble's clock
		got := scrape(t, m)
		for series, want := range map[string]string{
			`relay_lane_state{lane="nats",state="starting"}`:   "0",
			`relay_lane_state{lane="nats",state="running"}`:    "0",
			`relay_lane_state{lane="nats",state="retrying"}`:   "1",
			`relay_lane_state{lane="nats",state="stopped"}`:    "0",
			`relay_lane_state{lane="kafka",state="running"}`:   "1",
			`relay_lane_ready{lane="nats"}`:                    "0",
			`relay_lane_ready{lane="kafka"}`:                   "1",
			`relay_lane_health{health="degraded",lane="nats"}`: "1",
			`relay_lane_health{health="healthy",lane="nats"}`:  "0",
			`relay_lane_health{health="healthy",lane="kafka"}`: "1",
			`relay_prefetch_bytes{lane="nats"}`:                "4321",
			`relay_lag_seconds{lane="nats"}`:                   "99",
			`relay_unacknowledged_seconds{lane="nats"}`:        "75",
			`relay_unacknowledged_seconds{lane="kafka"}`:       "0",
			`relay_last_poll_timestamp_seconds{lane="nats"}`:   "9.466848e+08",
			`relay_last_poll_timestamp_seconds{lane="kafka"}`:  "0",
			`relay_at_tip{lane="nats"}`:                        "0",
			`relay_at_tip{lane="kafka"}`:                       "1",
			`relay_tip_timestamp_seconds{lane="nats"}`:         "1.7000000005e+09",
			`relay_position_timestamp_seconds{lane="nats"}`:    "1.69e+09",
		} {
			require.Equal(t, want, got[series], series)
		}
		require.NotContains(t, got, `relay_lag_seconds{lane="kafka"}`, "nothing is known yet")
		require.NotContains(t, got, `relay_position_timestamp_seconds{lane="kafka"}`)
	})
}

func TestConcurrentUse(t *testing.T) {
	m := NewMetrics("test")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			name := fmt.Sprint(i % 2)
			for range 50 {
				m.Lane(name).Committed(pipeline.Outcome{Events: events("user.created", "user.deleted")}, checkpoint.Checkpoint{})
				m.Watch(name, func() pipeline.Status { return pipeline.Status{} })
			}
			_, err := m.registry.Gather()
			require.NoError(t, err)
		})
	}
	wg.Wait()
	got := scrape(t, m)
	require.Equal(t, "100", got[`relay_events_total{lane="0",outcome="published",type="user.created"}`])
	require.Equal(t, "100", got[`relay_events_total{lane="1",outcome="published",type="user.deleted"}`])
}

func TestConventions(t *testing.T) {
	m := NewMetrics("test")
	m.Lane("nats").SourceHooks().OnTypeRefused(source.TypeRefusedInfo{Type: "user.created"})
	now := time.Now()
	m.JudgeBy(func(pipeline.Status) (bool, string) { return true, "healthy" }, []string{"healthy"})
	m.Watch("nats", func() pipeline.Status {
		return pipeline.Status{SourceNow: now, Checkpoint: checkpoint.Checkpoint{Position: checkpoint.Position{CreatedAt: now}}}
	})
	problems, err := testutil.GatherAndLint(ownFamilies(t, m))
	require.NoError(t, err)
	require.Empty(t, problems)
}

// ownFamilies leaves out go_* and process_*, whose names are not ours.
func ownFamilies(t *testing.T, m *Metrics) prometheus.Gatherer {
	t.Helper()
	r := prometheus.NewRegistry()
	for _, c := range m.counters {
		require.NoError(t, r.Register(c))
	}
	for _, g := range m.gauges {
		require.NoError(t, r.Register(g))
	}
	for _, h := range m.histograms {
		require.NoError(t, r.Register(h))
	}
	require.NoError(t, r.Register(m.watched))
	return r
}

func TestReferenceIsInStep(t *testing.T) {
	const path = "../../docs/metrics.md"
	if *update {
		require.NoError(t, os.WriteFile(path, Reference(), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err, "run: go test ./internal/telemetry -update")
	require.True(t, bytes.Equal(Reference(), have), "%s is stale; run: go test ./internal/telemetry -update", path)
}

func TestReferenceIsWhole(t *testing.T) {
	explained := map[string]bool{}
	for _, l := range labelHelp {
		explained[l.name] = true
	}
	for _, f := range declared {
		require.Contains(t, string(Reference()), "| `"+f.name+"` |")
		require.True(t, strings.HasSuffix(f.help, "."), f.name)
		require.Equal(t, f.kind == histogram, len(f.buckets) > 0, f.name)
		for _, l := range f.labels {
			require.True(t, explained[l], "label %s of %s", l, f.name)
		}
	}
	for line := range strings.Lines(string(Reference())) {
		if strings.HasPrefix(line, "|") {
			require.Contains(t, []int{3, 5}, strings.Count(line, "|"), line)
		}
	}
}

func TestCommittedAllocatesNothing(t *testing.T) {
	l := NewMetrics("test").Lane("nats")
	o := pipeline.Outcome{Events: events("user.created", "future.type", "user.deleted"), Messages: 3, Bytes: 300, Took: time.Millisecond}
	require.Zero(t, testing.AllocsPerRun(100, func() { l.Committed(o, checkpoint.Checkpoint{}) }))
}

// A batch of 1,000 events of mixed types: ns/event is what counting adds to the path of an event.
func BenchmarkCommitted(b *testing.B) {
	for _, run := range []struct {
		name  string
		every int // events in a row of one type
	}{{"mixed", 1}, {"bursts", 50}} {
		b.Run(run.name, func(b *testing.B) {
			catalogue := source.Catalogue()
			names := make([]string, 1000)
			for i := range names {
				names[i] = strings.Clone(catalogue[i/run.every*7%len(catalogue)].Name) // as decoded: never the catalogue's own bytes
			}
			o := pipeline.Outcome{Events: events(names...), Messages: len(names), Bytes: 2 << 20, Took: 20 * time.Millisecond}
			l := NewMetrics("test").Lane("nats")
			b.ReportAllocs()
			for b.Loop() {
				l.Committed(o, checkpoint.Checkpoint{})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(names)), "ns/event")
		})
	}
}

// TestBucketsReachTheLargestBatch: what lies beyond the last bucket cannot be told apart.
func TestBucketsReachTheLargestBatch(t *testing.T) {
	for _, f := range []*family{appendEvents, appendMessages} {
		require.GreaterOrEqual(t, f.buckets[len(f.buckets)-1], float64(kafka.BatchMessages), f.name)
	}
}
