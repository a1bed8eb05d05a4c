package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// recorded returns a lane whose spans are kept.
func recorded(t *testing.T) (*LaneMetrics, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	l := NewMetrics("test").Lane("nats")
	hide := func(s string) string { return strings.ReplaceAll(s, "sk_secret", "[secret]") }
	bus := sink.Conventions{System: "nats", Operation: "publish", Server: "[::1]:4222", Destination: "WORKOS"}
	l.Trace(&Traces{provider: provider, tracer: provider.Tracer("test"), hide: hide}, bus)
	return l, spans
}

func TestAFailedAttemptIsToldAndMadeAgainInTheSameTrace(t *testing.T) {
	l, spans := recorded(t)
	sent := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	request := &source.RequestInfo{URL: parsed(t, "https://api.workos.com/events?limit=100"), Template: "/events", Sent: sent, Took: time.Second, Status: 200, RequestID: "req_1"}
	ctx, delivered := l.BeginDelivery(t.Context(), []source.Page{{Events: events("user.created", "user.deleted"), Size: 10, RequestID: "req_1", Sent: sent, Took: time.Second, Request: request}})
	batch := func() []sink.Message {
		return []sink.Message{{Position: checkpoint.Position{EventID: "event_0"}}, {Position: checkpoint.Position{EventID: "event_1"}}}
	}
	first, second := batch(), batch()
	_, end := l.BeginStage(ctx, pipeline.StagePublish, first, checkpoint.Position{EventID: "event_1"})
	end(&sink.PublishError{Durable: 1, Err: errors.New("refused with sk_secret " + strings.Repeat("x", 1000))})
	_, end = l.BeginStage(ctx, pipeline.StagePublish, second, checkpoint.Position{EventID: "event_1"})
	end(nil)
	delivered(nil)

	got := spans.Ended()
	require.Len(t, got, 4)
	fetch, failed, again, root := got[0], got[1], got[2], got[3]
	require.Equal(t, []string{"GET /events", "publish WORKOS", "publish WORKOS", "relay deliver"}, []string{fetch.Name(), failed.Name(), again.Name(), root.Name()})
	require.Equal(t, []time.Time{sent, sent.Add(time.Second), sent}, []time.Time{fetch.StartTime(), fetch.EndTime(), root.StartTime()})
	require.Equal(t, codes.Error, failed.Status().Code)
	require.Contains(t, failed.Status().Description, "[secret]")
	require.NotContains(t, failed.Status().Description, "sk_secret")
	require.LessOrEqual(t, len(failed.Status().Description), longestError)
	require.Contains(t, failed.Attributes(), attribute.Int("relay.durable", 1))
	require.Contains(t, failed.Attributes(), attribute.String("error.type", "_OTHER"))
	require.Contains(t, failed.Attributes(), attribute.String("server.address", "::1"))
	require.Equal(t, codes.Unset, again.Status().Code)
	require.Equal(t, failed.SpanContext().TraceID(), again.SpanContext().TraceID())
	for i, span := range []sdktrace.ReadOnlySpan{failed, again} {
		want := "00-" + span.SpanContext().TraceID().String() + "-" + span.SpanContext().SpanID().String() + "-01"
		for _, m := range [][]sink.Message{first, second}[i] {
			require.Equal(t, []sink.Header{{Key: "traceparent", Value: want}}, m.Headers, "each attempt's messages name its own span")
		}
	}
}

func TestNoSpanOutsideOfADelivery(t *testing.T) {
	l, spans := recorded(t)
	_, end := l.BeginStage(t.Context(), pipeline.StageCommit, nil, checkpoint.Position{})
	end(nil)
	require.Empty(t, spans.Ended())
}

// TestMessagesOfASnapshotAreTraced: they belong to no delivery, and are the beginning of a trace.
func TestMessagesOfASnapshotAreTraced(t *testing.T) {
	l, spans := recorded(t)
	batch := []sink.Message{{Topic: "state.user", Entity: "user", Snapshot: true}}
	_, end := l.BeginStage(t.Context(), pipeline.StagePublish, batch, checkpoint.Position{})
	end(nil)
	require.Len(t, spans.Ended(), 1)
	require.False(t, spans.Ended()[0].Parent().IsValid())
	require.Equal(t, "traceparent", batch[0].Headers[0].Key)
}

func parsed(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}

// attributesOf returns the attributes of a span by name.
func attributesOf(span sdktrace.ReadOnlySpan) map[string]any {
	out := map[string]any{}
	for _, a := range span.Attributes() {
		out[string(a.Key)] = a.Value.AsInterface()
	}
	return out
}

// TestSpansOfABatch: the conventions name a destination only if all messages have it, the count
// only of several messages, and the id only of one.
func TestSpansOfABatch(t *testing.T) {
	kafka := sink.Conventions{System: "kafka", Operation: "send", Server: "b1:9092"}
	nats := sink.Conventions{System: "nats", Operation: "publish", Server: "n1:4222", Destination: "WORKOS"}
	message := func(topic, id string) sink.Message {
		return sink.Message{Topic: topic, Body: []byte("body"), Position: checkpoint.Position{EventID: id}}
	}
	many := make([]sink.Message, 0, 100)
	for i := range 100 {
		many = append(many, message(fmt.Sprint("t", i%50), "e"))
	}
	for name, c := range map[string]struct {
		bus    sink.Conventions
		batch  []sink.Message
		span   string
		has    map[string]any
		hasNot []string
	}{
		"kafka, one": {
			kafka, []sink.Message{message("a", "event_1")}, "send a",
			map[string]any{"messaging.system": "kafka", "messaging.destination.name": "a", "messaging.message.id": "event_1", "messaging.message.body.size": int64(4),
				"messaging.operation.name": "send", "messaging.operation.type": "send", "server.address": "b1", "server.port": int64(9092)},
			[]string{"messaging.batch.message_count", "messaging.kafka.message.tombstone"},
		},
		"kafka, one topic": {
			kafka, []sink.Message{message("a", "event_1"), message("a", "event_2")}, "send a",
			map[string]any{"messaging.destination.name": "a", "messaging.batch.message_count": int64(2)}, []string{"messaging.message.id"},
		},
		"kafka, several topics": {
			kafka, many, "send", map[string]any{"messaging.batch.message_count": int64(100), "relay.topic_count": int64(50)}, []string{"messaging.destination.name"},
		},
		"kafka, a tombstone": {
			kafka, []sink.Message{{Topic: "state.user", Entity: "user"}}, "send state.user",
			map[string]any{"messaging.kafka.message.tombstone": true}, []string{"messaging.message.id"},
		},
		"nats, several subjects": {
			nats, []sink.Message{message("a", "event_1"), message("b", "event_2")}, "publish WORKOS",
			map[string]any{"messaging.system": "nats", "messaging.destination.name": "WORKOS", "relay.topics": []string{"a", "b"}, "relay.topic_count": int64(2)}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, spans := recorded(t)
			l.Trace(l.trace.traces, c.bus)
			_, end := l.BeginStage(t.Context(), pipeline.StagePublish, c.batch, checkpoint.Position{})
			end(nil)
			span := spans.Ended()[0]
			require.Equal(t, c.span, span.Name())
			require.Equal(t, trace.SpanKindProducer, span.SpanKind())
			got := attributesOf(span)
			for key, value := range c.has {
				require.Equal(t, value, got[key], key)
			}
			for _, key := range c.hasNot {
				require.NotContains(t, got, key)
			}
			require.LessOrEqual(t, len(got["relay.topics"].([]string)), maxTopics)
		})
	}
}

// TestSpansOfRequests: each request that failed, was repeated or was for a list has a span at once;
// a poll that found nothing has none, and one that found events belongs to their delivery.
func TestSpansOfRequests(t *testing.T) {
	const host = "https://relay:sk_secret@api.workos.com:8443"
	for name, c := range map[string]struct {
		info source.RequestInfo
		span string // empty for none
		has  map[string]any
		says string // the description of the status
	}{
		"nothing new": {source.RequestInfo{Template: "/events", Status: 200}, "", nil, ""},
		"events":      {source.RequestInfo{Template: "/events", Status: 200, Events: 3, Resend: 1}, "", nil, ""},
		"repeated":    {source.RequestInfo{Template: "/events", Status: 200, Resend: 2}, "GET /events", map[string]any{"http.request.resend_count": int64(2), "http.response.status_code": int64(200)}, ""},
		"a list": {
			source.RequestInfo{Template: "/organizations/{organization}/groups", Status: 200}, "GET /organizations/{organization}/groups",
			map[string]any{"url.template": "/organizations/{organization}/groups"}, "",
		},
		"rate limited": {
			source.RequestInfo{Template: "/events", Status: 429, Types: 120, RequestID: "req_1", Err: &source.APIError{Status: 429}}, "GET /events",
			map[string]any{
				"error.type": "429", "http.response.status_code": int64(429), "http.request.method": "GET", "server.address": "api.workos.com", "server.port": int64(8443),
				"url.full": "https://REDACTED:REDACTED@api.workos.com:8443/events?after=e&events=REDACTED", "relay.event_types": int64(120), "relay.request_id": "req_1",
			}, "",
		},
		"no connection": {
			source.RequestInfo{Template: "/events", Err: &source.TransportError{Host: "api.workos.com", Err: &net.OpError{Op: "dial", Err: errors.New("refused sk_secret")}}}, "GET /events",
			map[string]any{"error.type": "connection_failed"}, "[secret]",
		},
		"no name":     {source.RequestInfo{Template: "/events", Err: &source.TransportError{Err: &net.DNSError{}}}, "GET /events", map[string]any{"error.type": "name_not_resolved"}, "gave no answer"},
		"out of time": {source.RequestInfo{Template: "/events", Err: &source.TransportError{Err: context.DeadlineExceeded}}, "GET /events", map[string]any{"error.type": "timeout"}, "deadline"},
		"a proxy":     {source.RequestInfo{Template: "/events", Err: &source.TransportError{Err: &source.ProxyError{Reason: "asks"}}}, "GET /events", map[string]any{"error.type": "proxy_failed"}, "asks"},
		"cut off":     {source.RequestInfo{Template: "/events", Status: 200, Err: &source.ResponseError{Reason: "it is cut off"}}, "GET /events", map[string]any{"error.type": "response_unusable"}, "cut off"},
		"too large":   {source.RequestInfo{Template: "/events", Status: 200, Err: &source.ResponseError{Err: source.ErrTooLarge}}, "GET /events", map[string]any{"error.type": "response_too_large"}, "cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			l, spans := recorded(t)
			c.info.URL, c.info.Sent, c.info.Took = parsed(t, host+"/events?events=user.created&events=user.deleted&after=e"), time.Unix(1, 0), time.Second
			l.SourceHooks().OnRequest(&c.info)
			if c.span == "" {
				require.Empty(t, spans.Ended())
				return
			}
			require.Len(t, spans.Ended(), 1)
			span := spans.Ended()[0]
			require.Equal(t, c.span, span.Name())
			require.Equal(t, trace.SpanKindClient, span.SpanKind())
			require.Equal(t, time.Second, span.EndTime().Sub(span.StartTime()))
			got := attributesOf(span)
			for key, value := range c.has {
				require.Equal(t, value, got[key], key)
			}
			require.Equal(t, c.info.Err != nil, span.Status().Code == codes.Error)
			require.Contains(t, span.Status().Description, c.says)
			require.NotContains(t, fmt.Sprint(got, span.Status()), "sk_secret")
			if c.info.Err == nil {
				require.NotContains(t, got, "error.type")
			}
		})
	}
}

func TestErrorTypesOfTheBus(t *testing.T) {
	ofBus := func(err error) string {
		if err.Error() == "not enough" {
			return "NOT_ENOUGH_REPLICAS"
		}
		return ""
	}
	for want, err := range map[string]error{
		"NOT_ENOUGH_REPLICAS":      errors.New("not enough"),
		"message_rejected":         &sink.PublishError{Err: &sink.RejectedError{Topic: "a"}},
		"operator_action_required": &sink.PublishError{Err: &sink.FatalError{Err: errors.New("gone")}},
		"timeout":                  &sink.PublishError{Err: &sink.TimeoutError{Err: errors.New("late")}},
		"fenced":                   fmt.Errorf("committing: %w", checkpoint.ErrConflict),
		"canceled":                 context.Canceled,
		"connection_failed":        fmt.Errorf("lost: %w", io.ErrUnexpectedEOF),
		"_OTHER":                   errors.New("something else"),
	} {
		require.Equal(t, want, errorType(err, ofBus))
	}
	require.Equal(t, "_OTHER", errorType(errors.New("not enough"), nil))
}

// failing is an exporter that fails for as long as it is told to.
type failing struct {
	sdktrace.SpanExporter
	err error
}

func (f *failing) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return f.err }

func TestACollectorThatIsAwayIsSpokenOfOnce(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	inner, metrics := &failing{SpanExporter: tracetest.NewNoopExporter()}, NewMetrics("test")
	export := &Export{Hide: func(string) string { return "hidden" }, Metrics: metrics, Logger: zap.New(core)}
	out := &watchedSpans{SpanExporter: inner, watch: export.watchSpans()}
	inner.err = errors.New("away")
	spans := make([]sdktrace.ReadOnlySpan, 3)
	for range 5 {
		require.NoError(t, out.ExportSpans(t.Context(), spans), "or the SDK would print it")
	}
	require.Equal(t, 1, logs.Len())
	require.Equal(t, "hidden", logs.All()[0].ContextMap()["error"])
	inner.err = nil
	require.NoError(t, out.ExportSpans(t.Context(), spans))
	require.Equal(t, 2, logs.Len())
	got := scrape(t, metrics)
	require.Equal(t, "15", got[`relay_trace_spans_total{result="failed"}`])
	require.Equal(t, "3", got[`relay_trace_spans_total{result="exported"}`])
}
