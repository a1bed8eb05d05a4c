//go:build unix

package field

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	metricscollector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracecollector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"workos-relay/source/sourcetest"
)

// otlpCollector takes OTLP over HTTP with protobuf and keeps what it was sent.
type otlpCollector struct {
	*httptest.Server

	mu        sync.Mutex
	bodies    [][]byte
	schemas   map[string]bool // of resources and scopes
	resources []map[string]any
	spans     []*tracepb.Span
	metrics   []*metricspb.Metric // of the last export
}

func newOTLPCollector(t testing.TB) *otlpCollector {
	t.Helper()
	c := &otlpCollector{schemas: map[string]bool{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !c.take(r.URL.Path, body) {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *otlpCollector) take(path string, body []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies = append(c.bodies, body)
	switch path {
	case "/v1/traces":
		var request tracecollector.ExportTraceServiceRequest
		if proto.Unmarshal(body, &request) != nil {
			return false
		}
		for _, r := range request.GetResourceSpans() {
			c.schemas[r.GetSchemaUrl()] = true
			c.resources = append(c.resources, attributes(r.GetResource().GetAttributes()))
			for _, s := range r.GetScopeSpans() {
				c.schemas[s.GetSchemaUrl()] = true
				c.spans = append(c.spans, s.GetSpans()...)
			}
		}
	case "/v1/metrics":
		var request metricscollector.ExportMetricsServiceRequest
		if proto.Unmarshal(body, &request) != nil {
			return false
		}
		c.metrics = nil
		for _, r := range request.GetResourceMetrics() {
			c.schemas[r.GetSchemaUrl()] = true
			c.resources = append(c.resources, attributes(r.GetResource().GetAttributes()))
			for _, s := range r.GetScopeMetrics() {
				c.metrics = append(c.metrics, s.GetMetrics()...)
			}
		}
	default:
		return false
	}
	return true
}

// metric returns a metric of the last export, or nil.
func (c *otlpCollector) metric(name string) *metricspb.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.metrics {
		if m.GetName() == name {
			return m
		}
	}
	return nil
}

// names returns the names of the metrics of the last export.
func (c *otlpCollector) names() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]bool{}
	for _, m := range c.metrics {
		out[m.GetName()] = true
	}
	return out
}

// has reports whether a span came for which is holds.
func (c *otlpCollector) has(is func(name string, a map[string]any) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.spans, func(s *tracepb.Span) bool { return is(s.GetName(), attributes(s.GetAttributes())) })
}

// attributes are those of a span, a resource or a data point, by name.
func attributes(list []*commonpb.KeyValue) map[string]any {
	out := map[string]any{}
	for _, a := range list {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[a.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			out[a.GetKey()] = int(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			out[a.GetKey()] = v.BoolValue
		default:
			out[a.GetKey()] = v
		}
	}
	return out
}

// conventionNames returns every attribute name of the version of OpenTelemetry's semantic
// conventions that a schema URL names, from the source of its Go package.
func conventionNames(t testing.TB, schema string) map[string]bool {
	t.Helper()
	version, ok := strings.CutPrefix(schema, "https://opentelemetry.io/schemas/")
	require.True(t, ok, schema)
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "go.opentelemetry.io/otel").Output()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "semconv", "v"+version, "attribute_group.go"))
	require.NoError(t, err)
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`attribute\.Key\("([^"]+)"\)`).FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = true
	}
	require.True(t, names["messaging.destination.name"] && names["http.request.method"], "the names are found")
	return names
}

// TestTelemetryFollowsTheConventions captures the spans and the metrics of a relay with a lane to
// NATS and two to Kafka, one of which keeps state, while requests to WorkOS and the publishing
// fail. The spans are held against OpenTelemetry's semantic conventions, and the metrics against
// /metrics.
func TestTelemetryFollowsTheConventions(t *testing.T) {
	t.Parallel()
	const requestsOfLists = "GET /user_management/users"
	api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 1, Organizations: 2, Users: 3}))
	to, stream, bus := newOTLPCollector(t), newNATS(t, nil), newKfake(t)
	brokers := strings.Join(bus.Brokers, ", ")
	text := fmt.Sprintf("id: %s\ninstance: web-1\n", bus.ID) + sourceConfig(api.URL()) + "sinks:\n" +
		fmt.Sprintf("- {name: nats, type: nats, url: %q}\n", stream.URL) +
		fmt.Sprintf("- {name: kafka, type: kafka, brokers: [%s], topic_prefix: %sa., state: {entities: [user], snapshot: first_start}}\n", brokers, bus.Prefix) +
		fmt.Sprintf("- {name: plain, type: kafka, brokers: [%s], topic_prefix: %sb., delivery: at_least_once}\n", brokers, bus.Prefix) +
		fmt.Sprintf("telemetry: {traces: {endpoint: %q}, metrics: {endpoint: %q, interval: 1s}}\n", to.URL, to.URL)
	var denied atomic.Bool
	refuseProduce(bus, &denied, kerr.TopicAuthorizationFailed)
	r := newRelay(t, "relay", text, "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_EXPORTER_OTLP_TIMEOUT=300000")
	r.Start(t)
	sent := 0
	carry := func(n int) {
		t.Helper()
		appendEvents(t, api, "user.created", n, 0)
		appendEvents(t, api, "user.deleted", n, 0)
		sent += 2 * n
	}
	carried := func() bool {
		return r.Lane("nats").Events >= uint64(sent) && r.Lane("kafka").Events >= uint64(sent) && r.Lane("plain").Events >= uint64(sent)
	}
	carry(20)
	r.Await(t, carried, "every lane carries")
	for _, fault := range []sourcetest.Fault{sourcetest.Status(500), sourcetest.TooManyRequests(time.Second, sourcetest.RetryAfterSeconds)} {
		api.Fail(1, fault)
	}
	denied.Store(true)
	carry(1)
	for _, want := range []string{"500", "429", "TOPIC_AUTHORIZATION_FAILED"} {
		r.Await(t, func() bool {
			return to.has(func(_ string, a map[string]any) bool { return a["error.type"] == want })
		}, "a span has error.type %s", want)
	}
	denied.Store(false)
	carry(1)
	r.Await(t, carried, "every lane carries again")
	r.Await(t, func() bool {
		return to.has(func(name string, _ map[string]any) bool { return name == requestsOfLists })
	}, "a request for a list has a span")
	r.Await(t, func() bool {
		return to.has(func(name string, a map[string]any) bool { return name == "commit" && a["relay.lane"] == "plain" })
	}, "commits have spans")
	r.Await(t, func() bool { return maps.Equal(to.names(), servedMetrics(r.Metrics())) }, "the same metrics are at the collector and at /metrics")
	r.Await(t, func() bool { return committedTotal(to) >= 3*sent }, "the metrics at the collector count every event")
	require.Equal(t, exitDone, r.Stop(t))

	requireHistogram(t, to.metric("relay_event_delivery_seconds"))
	to.mu.Lock()
	defer to.mu.Unlock()
	for _, body := range to.bodies {
		require.NotContains(t, string(body), apiKey)
	}
	require.Len(t, to.schemas, 1, "all of them name the same schema")
	known := conventionNames(t, slices.Collect(maps.Keys(to.schemas))[0])
	instances := map[any]bool{}
	for _, resource := range to.resources {
		require.Equal(t, "relay", resource["service.name"])
		require.NotEmpty(t, resource["service.version"])
		require.Contains(t, resource["service.instance.id"], "web-1/")
		require.NotEmpty(t, resource["telemetry.sdk.name"])
		instances[resource["service.instance.id"]] = true
		requireKnown(t, known, resource)
	}
	require.Len(t, instances, 1, "spans and metrics have the same instance")
	for _, s := range to.spans {
		requireSpan(t, known, s)
	}
	require.Subset(t, slices.Collect(maps.Keys(spanNames(to.spans))), []string{
		"GET /events", requestsOfLists, "publish WORKOS", "send", "commit", "relay deliver",
	})
}

// refuseProduce makes the brokers answer produce requests for topics of the prefix b with an error
// while denied is set.
func refuseProduce(bus *kafka, denied *atomic.Bool, answer *kerr.Error) {
	bus.Fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		bus.Fake.KeepControl()
		if !denied.Load() {
			return nil, nil, false
		}
		p := req.(*kmsg.ProduceRequest)
		if p.TransactionID != nil { // of the lane with exactly_once
			return nil, nil, false
		}
		res := p.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range p.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic, rt.TopicID = topic.Topic, topic.TopicID
			for _, part := range topic.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = part.Partition, answer.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			res.Topics = append(res.Topics, rt)
		}
		return res, nil, true
	})
}

// servedMetrics returns the names of the metrics that a text for Prometheus has.
func servedMetrics(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			out[name] = true
		}
	}
	return out
}

// committedTotal returns how many events all lanes have committed, by the last export.
func committedTotal(to *otlpCollector) int {
	total := 0.0
	for _, p := range to.metric("relay_committed_events_total").GetSum().GetDataPoints() {
		total += p.GetAsDouble()
	}
	return int(total)
}

// requireHistogram requires a histogram with explicit buckets, as the dashboard reads them.
func requireHistogram(t testing.TB, m *metricspb.Metric) {
	t.Helper()
	require.NotNil(t, m)
	require.Len(t, m.GetHistogram().GetDataPoints(), 3, "one for each lane")
	for _, p := range m.GetHistogram().GetDataPoints() {
		require.Contains(t, attributes(p.GetAttributes()), "lane")
		require.Len(t, p.GetBucketCounts(), len(p.GetExplicitBounds())+1)
		var sum uint64
		for _, n := range p.GetBucketCounts() {
			sum += n
		}
		require.Equal(t, p.GetCount(), sum)
	}
}

func spanNames(spans []*tracepb.Span) map[string]bool {
	out := map[string]bool{}
	for _, s := range spans {
		out[s.GetName()] = true
	}
	return out
}

// requireKnown requires that every name is one of the conventions, or begins with "relay.".
func requireKnown(t testing.TB, known map[string]bool, attributes map[string]any) {
	t.Helper()
	for name := range attributes {
		require.True(t, known[name] || strings.HasPrefix(name, "relay."), "the conventions do not know %s", name)
	}
}

// requireSpan holds a span against the conventions.
func requireSpan(t testing.TB, known map[string]bool, s *tracepb.Span) {
	t.Helper()
	a := attributes(s.GetAttributes())
	requireKnown(t, known, a)
	failed := s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR
	require.Equal(t, failed, a["error.type"] != nil, "%s: error.type is for what has failed: %v", s.GetName(), a)
	require.NotEmpty(t, a["relay.lane"])
	has := func(names ...string) {
		t.Helper()
		for _, name := range names {
			require.NotEmpty(t, a[name], "%s has %s: %v", s.GetName(), name, a)
		}
	}
	switch s.GetKind() {
	case tracepb.Span_SPAN_KIND_CLIENT:
		has("http.request.method", "server.address", "server.port", "url.full", "url.template")
		require.Equal(t, fmt.Sprint(a["http.request.method"], " ", a["url.template"]), s.GetName())
		full, err := url.Parse(a["url.full"].(string))
		require.NoError(t, err)
		require.True(t, full.IsAbs() && full.User == nil)
		require.Equal(t, fmt.Sprint(a["server.address"], ":", a["server.port"]), full.Host)
		if status, answered := a["http.response.status_code"].(int); answered && status != http.StatusOK {
			require.Equal(t, fmt.Sprint(status), a["error.type"])
			require.Empty(t, s.GetStatus().GetMessage(), "the status code says it")
		} else if !answered {
			require.True(t, failed)
		}
		if n, ok := a["http.request.resend_count"]; ok {
			require.Positive(t, n)
		}
	case tracepb.Span_SPAN_KIND_PRODUCER:
		has("messaging.system", "messaging.operation.name", "messaging.operation.type", "server.address", "server.port", "relay.topics")
		require.Equal(t, "send", a["messaging.operation.type"])
		name := a["messaging.operation.name"].(string)
		if destination, ok := a["messaging.destination.name"]; ok {
			name += " " + destination.(string)
		} else {
			require.Greater(t, a["relay.topic_count"], 1, "only a batch for several topics has no destination")
		}
		require.Equal(t, name, s.GetName())
		if n, ok := a["messaging.batch.message_count"]; ok {
			require.Greater(t, n, 1)
			require.NotContains(t, a, "messaging.message.id")
		} else {
			require.Contains(t, a, "messaging.message.body.size")
		}
		require.Equal(t, map[any]any{"nats": "nats", "kafka": "kafka", "plain": "kafka"}[a["relay.lane"]], a["messaging.system"])
	case tracepb.Span_SPAN_KIND_INTERNAL:
		require.Contains(t, []string{"relay deliver", "commit"}, s.GetName())
		for name := range a {
			require.False(t, strings.HasPrefix(name, "messaging.") || strings.HasPrefix(name, "http."), "%s has %s", s.GetName(), name)
		}
	default:
		require.Fail(t, "a span of another kind", s.GetKind())
	}
}
