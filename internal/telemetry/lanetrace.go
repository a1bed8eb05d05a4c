package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// The headers that a message carries where traces are on, as https://www.w3.org/TR/trace-context/
// wants them.
const (
	headerTraceParent = "traceparent"
	headerTraceState  = "tracestate"
)

// The names of the spans. A delivery is the root, and lasts from the first of its requests until
// all that it brought is committed.
const (
	spanDeliver = "relay deliver"
	spanFetch   = "fetch"
)

// laneTracer makes the spans of one lane: a trace for each delivery. Spans tell counts, event ids
// and request ids, never what an event holds.
type laneTracer struct {
	traces *Traces
	lane   attribute.KeyValue
	system attribute.KeyValue
}

// deliver begins the trace of a delivery; see pipeline.Observer.BeginDelivery. The requests are
// over by then: their spans are recorded with the times at which they were.
func (t *laneTracer) deliver(ctx context.Context, pages []source.Page) (context.Context, func(error)) {
	events := 0
	var began time.Time
	for i := range pages {
		events += len(pages[i].Events)
		if sent := pages[i].Sent; !sent.IsZero() && (began.IsZero() || sent.Before(began)) { // a part of a page has none
			began = sent
		}
	}
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithAttributes(t.lane, t.system, attribute.Int("relay.events", events), attribute.Int("relay.pages", len(pages)))}
	if !began.IsZero() {
		options = append(options, trace.WithTimestamp(began))
	}
	ctx, span := t.traces.tracer.Start(ctx, spanDeliver, options...)
	for i := range pages {
		if p := &pages[i]; span.IsRecording() && !p.Sent.IsZero() {
			t.fetched(ctx, p)
		}
	}
	return ctx, func(err error) { t.end(span, err) }
}

func (t *laneTracer) fetched(ctx context.Context, p *source.Page) {
	attributes := []attribute.KeyValue{
		t.lane, attribute.Int("relay.events", len(p.Events)), attribute.Int("http.response.body.size", p.Size), attribute.Bool("relay.tip", p.Tip),
	}
	if p.RequestID != "" {
		attributes = append(attributes, attribute.String("relay.request_id", p.RequestID))
	}
	if n := len(p.Events); n > 0 {
		attributes = append(attributes, attribute.String("relay.event.first", p.Events[0].ID), attribute.String("relay.event.last", p.Events[n-1].ID))
	}
	_, span := t.traces.tracer.Start(ctx, spanFetch, trace.WithTimestamp(p.Sent), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	span.End(trace.WithTimestamp(p.Sent.Add(p.Took)))
}

// begin begins the span of a stage; see pipeline.Observer.BeginStage. The messages carry on the
// trace of the span that publishes them.
func (t *laneTracer) begin(ctx context.Context, s pipeline.Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error)) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, func(error) {} // outside of a delivery: a standby is kept off
	}
	kind := trace.SpanKindInternal
	attributes := []attribute.KeyValue{t.lane, t.system}
	if s != pipeline.StagePublish {
		attributes = append(attributes, attribute.String("relay.position", next.EventID))
	}
	if n := len(batch); n > 0 {
		kind = trace.SpanKindProducer
		attributes = append(attributes, attribute.Int("messaging.batch.message_count", n),
			attribute.String("relay.event.first", batch[0].Position.EventID), attribute.String("relay.event.last", batch[n-1].Position.EventID))
	}
	ctx, span := t.traces.tracer.Start(ctx, string(s), trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	mark(ctx, batch)
	return ctx, func(err error) {
		if err != nil && s == pipeline.StagePublish {
			span.SetAttributes(attribute.Int("relay.durable", sink.Durable(err, len(batch))))
		}
		t.end(span, err)
	}
}

// mark gives each message the headers by which its consumer goes on with the trace of ctx.
func mark(ctx context.Context, batch []sink.Message) {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	for _, key := range []string{headerTraceParent, headerTraceState} {
		if value := carrier[key]; value != "" {
			for i := range batch {
				batch[i].Headers = append(batch[i].Headers, sink.Header{Key: key, Value: value})
			}
		}
	}
}

// longestError bounds what a span says of a failure; the log says all of it.
const longestError = 500

func (t *laneTracer) end(span trace.Span, err error) {
	if err != nil {
		text := t.traces.hide(err.Error())
		span.SetStatus(codes.Error, printable.Clip(text, longestError))
	}
	span.End(trace.WithTimestamp(time.Now()))
}
