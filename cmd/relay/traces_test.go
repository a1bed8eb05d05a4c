package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/source/sourcetest"
)

// spanCollector is an OTLP receiver over HTTP.
type spanCollector struct {
	*httptest.Server
	mu       sync.Mutex
	spans    []*otlp.Span
	bodies   [][]byte
	tokens   map[string]bool
	resource map[string]string
}

func newSpanCollector(t *testing.T) *spanCollector {
	t.Helper()
	c := &spanCollector{tokens: map[string]bool{}, resource: map[string]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(body, &request) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bodies = append(c.bodies, body)
		c.tokens[r.Header.Get("x-token")] = true
		for _, resource := range request.GetResourceSpans() {
			for _, a := range resource.GetResource().GetAttributes() {
				c.resource[a.GetKey()] = a.GetValue().GetStringValue()
			}
			for _, scope := range resource.GetScopeSpans() {
				c.spans = append(c.spans, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func text(s *otlp.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

func number(s *otlp.Span, key string) int {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			return int(a.GetValue().GetIntValue())
		}
	}
	return -1
}

// traced is one message: its event and the header that it came with.
type traced struct{ id, parent string }

const payloadMark = "nobody_but_the_consumer_reads_this"

func traceAPI(t *testing.T, events int) *sourcetest.Server {
	t.Helper()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events - 1, Seed: 1}))
	require.NoError(t, api.Append(fmt.Appendf(nil,
		`{"object":"event","id":"event_9%025d","event":"user.updated","data":{"email":%q},"created_at":"2030-01-01T00:00:00Z"}`, 1, payloadMark)))
	return api
}

func tracesSection(endpoint string, ratio float64) string {
	return fmt.Sprintf("telemetry: {traces: {endpoint: %q, sample_ratio: %v, headers: [{name: x-token, value: secret_of_the_collector}]}}\n", endpoint, ratio)
}

// flushAll lets the end of relay wait for the collector as long as it takes.
func flushAll(t *testing.T) {
	t.Helper()
	before := app.TraceFlush
	app.TraceFlush = patient
	t.Cleanup(func() { app.TraceFlush = before })
}

func TestTraces(t *testing.T) {
	flushAll(t)
	const events = 5000 // so many that several readers read them
	for name, c := range map[string]struct {
		system, delivery string
		stages           []string // of a delivery, in their order
	}{
		"nats, at least once":  {"nats", "at_least_once", []string{"publish", "commit"}},
		"nats, exactly once":   {"nats", "exactly_once", []string{"publish_and_commit"}},
		"kafka, at least once": {"kafka", "at_least_once", []string{"publish", "commit"}},
		"kafka, exactly once":  {"kafka", "exactly_once", []string{"publish_and_commit"}},
	} {
		t.Run(name, func(t *testing.T) {
			api, to := traceAPI(t, events), newSpanCollector(t)
			began := time.Now()
			carry := func(text string) {
				text, addr := withAdmin(t, text)
				r := start(t, "run", "--config", writeConfig(t, text))
				require.Eventually(t, func() bool { return get200(addr) && statusOf(t, addr)[c.system].Events == events }, patient, often, &r.stderr)
				require.Equal(t, exitDone, r.stop(t), &r.stderr)
			}
			var got []traced
			if c.system == "kafka" {
				bus := newKafka(t)
				config := strings.Replace(bus.config(c.delivery, api.URL(), t.TempDir(), "{partitions: 1, replication_factor: 1}"), "type: kafka,", "type: kafka, request_timeout: "+patient.String()+",", 1)
				carry(config + "takeover_after: 1h\n" + tracesSection(to.URL, 1)) // nothing is given up, which a span would tell
				for _, records := range bus.read(t) {
					for _, m := range records {
						got = append(got, traced{recordHeader(m, "event-id"), recordHeader(m, "traceparent")})
					}
				}
			} else {
				url, js := newNATS(t)
				config := natsConfigFor(c.delivery, api.URL(), url, t.TempDir(), tracesSection(to.URL, 1))
				carry(strings.Replace(config, "rate_limit: 5000", "rate_limit: 5000, backfill: {readers: 2, memory: 4MiB}", 1))
				var readers backfills
				readers.look(api, began)
				require.Positive(t, int(readers))
				for _, m := range stored(t, js, "WORKOS") {
					if id := m.Header.Get("event-id"); id != "" { // the position has none
						got = append(got, traced{id, m.Header.Get("traceparent")})
					}
				}
			}
			require.Len(t, got, events)
			requireTree(t, to, got, c.system, c.stages)
		})
	}
}

// requireTree requires of the spans that they are whole, true, and lead from each message to the
// requests that brought it.
func requireTree(t *testing.T, to *spanCollector, got []traced, system string, stages []string) {
	t.Helper()
	to.mu.Lock()
	defer to.mu.Unlock()
	require.Equal(t, map[string]bool{"secret_of_the_collector": true}, to.tokens)
	require.Equal(t, "relay", to.resource["service.name"])
	for _, body := range to.bodies {
		require.False(t, bytes.Contains(body, []byte(payloadMark)) || bytes.Contains(body, []byte(testKey)), "a span tells a payload or a secret")
	}
	roots, children, byID := map[string]*otlp.Span{}, map[string][]*otlp.Span{}, map[string]*otlp.Span{}
	spans := slices.DeleteFunc(slices.Clone(to.spans), func(s *otlp.Span) bool { // requests that failed on a slow machine, and their repetitions
		return len(s.GetParentSpanId()) == 0 && s.GetName() == "GET /events" && (text(s, "error.type") != "" || number(s, "http.request.resend_count") > 0)
	})
	for _, s := range spans {
		trace := hex.EncodeToString(s.GetTraceId())
		byID[trace+"-"+hex.EncodeToString(s.GetSpanId())] = s
		if len(s.GetParentSpanId()) == 0 {
			require.NotContains(t, roots, trace)
			roots[trace] = s
		}
	}
	for _, s := range spans {
		require.NotEqual(t, otlp.Status_STATUS_CODE_ERROR, s.GetStatus().GetCode(), s.GetStatus().GetMessage())
		trace := hex.EncodeToString(s.GetTraceId())
		if parent := s.GetParentSpanId(); len(parent) > 0 {
			require.Equal(t, roots[trace].GetSpanId(), parent)
			children[trace] = append(children[trace], s)
		}
	}
	carried := map[string]int{} // messages by the span that they name
	for _, m := range got {
		parts := regexp.MustCompile(`^00-([0-9a-f]{32}-[0-9a-f]{16})-01$`).FindStringSubmatch(m.parent)
		require.NotNil(t, parts, "event %s has traceparent %q", m.id, m.parent)
		require.Contains(t, byID, parts[1])
		require.Equal(t, stages[0], text(byID[parts[1]], "relay.stage"))
		carried[parts[1]]++
	}
	events := 0
	for trace, root := range roots {
		require.Equal(t, "relay deliver", root.GetName())
		events += number(root, "relay.events")
		var fetched int
		var order []string
		var last *otlp.Span
		slices.SortFunc(children[trace], func(a, b *otlp.Span) int { return int(a.GetStartTimeUnixNano()) - int(b.GetStartTimeUnixNano()) })
		for _, s := range children[trace] {
			require.GreaterOrEqual(t, s.GetStartTimeUnixNano(), root.GetStartTimeUnixNano())
			require.LessOrEqual(t, s.GetEndTimeUnixNano(), root.GetEndTimeUnixNano())
			switch stage := text(s, "relay.stage"); stage {
			case "":
				require.Equal(t, "GET /events", s.GetName())
				require.NotEmpty(t, text(s, "relay.request_id"))
				fetched += number(s, "relay.events")
			case stages[0]:
				require.Equal(t, otlp.Span_SPAN_KIND_PRODUCER, s.GetKind())
				require.Equal(t, system, text(s, "messaging.system"))
				if n := carried[trace+"-"+hex.EncodeToString(s.GetSpanId())]; n != 1 {
					require.Equal(t, n, number(s, "messaging.batch.message_count"))
				} else {
					require.NotEmpty(t, text(s, "messaging.message.id"))
				}
				fallthrough
			default:
				order = append(order, stage)
				if last != nil {
					require.GreaterOrEqual(t, s.GetStartTimeUnixNano(), last.GetEndTimeUnixNano(), "what is done after another begins when that has ended")
				}
				last = s
			}
		}
		require.Equal(t, stages, order)
		require.Equal(t, number(root, "relay.events"), fetched)
		require.NotEmpty(t, text(last, "relay.position"))
	}
	require.Equal(t, len(got), events)
	require.Len(t, carried, len(roots), "%v", slices.Collect(maps.Keys(carried)))
}

func TestTracesThatAreNotSampledSaySo(t *testing.T) {
	t.Parallel()
	api, to := traceAPI(t, 50), newSpanCollector(t)
	url, js := newNATS(t)
	r := start(t, "run", "--config", writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), tracesSection(to.URL, 0))))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") >= 50 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	for _, m := range stored(t, js, "WORKOS") {
		require.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`, m.Header.Get("traceparent"))
	}
	require.Empty(t, to.spans)
}

func TestACollectorThatIsAwayHoldsNothingUp(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-never }))
	t.Cleanup(hangs.Close)
	t.Cleanup(func() { close(never) })
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(refuses.Close)
	for name, c := range map[string]struct{ endpoint, says string }{
		"nobody listens": {"http://" + freeAddress(t), "spans could not be handed to the collector"},
		"it refuses":     {refuses.URL, "spans could not be handed to the collector"},
		"it hangs":       {hangs.URL, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := traceAPI(t, 500)
			url, js := newNATS(t)
			r := start(t, "run", "--config", writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), tracesSection(c.endpoint, 1))))
			require.Eventually(t, func() bool { return messages(js, "WORKOS") >= 500 }, patient, often, &r.stderr)
			require.Equal(t, exitDone, r.stop(t), &r.stderr)
			require.Eventually(t, func() bool { return strings.Contains(r.stderr.String(), c.says) }, patient, often, &r.stderr) // what is cut off tells so later
			require.LessOrEqual(t, strings.Count(r.stderr.String(), "spans could not"), 1)
			require.NotContains(t, r.stderr.String(), "secret_of_the_collector")
		})
	}
}

// TestACollectorRepeatsASecretOfAReload: what came into force after the start is hidden as well.
func TestACollectorRepeatsASecretOfAReload(t *testing.T) {
	flushAll(t)
	const later = "the-second-token-of-all"
	var refuses atomic.Bool
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if refuses.Load() {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "not you, "+later)
		}
	}))
	t.Cleanup(echo.Close)
	api := traceAPI(t, 50)
	url, js := newNATS(t)
	text, addr := withAdmin(t, natsConfig(api.URL(), url, t.TempDir(), tracesSection(echo.URL, 1)))
	text = strings.Replace(text, "admin: {", "admin: {token: the-first-token-of-all, ", 1)
	path := writeConfig(t, text)
	r := start(t, "run", "--config", path)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") >= 50 }, patient, often, &r.stderr)
	client, err := admin.NewClient(addr, admin.Security{Token: "the-first-token-of-all"})
	require.NoError(t, err)
	rewrite(t, path, strings.Replace(text, "the-first-token-of-all", later, 1))
	done, err := client.Reload(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"admin.token: changed"}, done.Changes)

	refuses.Store(true)
	live(t, api, 5)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") >= 55 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Contains(t, r.stderr.String(), "not you, [secret]")
	require.NotContains(t, r.stderr.String(), later)
}
