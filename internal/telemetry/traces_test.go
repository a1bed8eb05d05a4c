package telemetry

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
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
	l.Trace(&Traces{provider: provider, tracer: provider.Tracer("test"), hide: hide}, "nats")
	return l, spans
}

func TestAFailedAttemptIsToldAndMadeAgainInTheSameTrace(t *testing.T) {
	l, spans := recorded(t)
	sent := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ctx, delivered := l.BeginDelivery(t.Context(), []source.Page{{Events: events("user.created", "user.deleted"), Size: 10, RequestID: "req_1", Sent: sent, Took: time.Second}})
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
	require.Equal(t, []string{"fetch", "publish", "publish", "relay deliver"}, []string{fetch.Name(), failed.Name(), again.Name(), root.Name()})
	require.Equal(t, []time.Time{sent, sent.Add(time.Second), sent}, []time.Time{fetch.StartTime(), fetch.EndTime(), root.StartTime()})
	require.Equal(t, codes.Error, failed.Status().Code)
	require.Contains(t, failed.Status().Description, "[secret]")
	require.NotContains(t, failed.Status().Description, "sk_secret")
	require.LessOrEqual(t, len(failed.Status().Description), longestError)
	require.Contains(t, failed.Attributes(), attribute.Int("relay.durable", 1))
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
	batch := []sink.Message{{}}
	_, end := l.BeginStage(t.Context(), pipeline.StageCommit, batch, checkpoint.Position{})
	end(nil)
	require.Empty(t, spans.Ended())
	require.Empty(t, batch[0].Headers)
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
	out := &watchedExporter{SpanExporter: inner, hide: func(string) string { return "hidden" }, metrics: metrics, log: zap.New(core)}
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
