package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// The headers that a message carries if traces are on: see https://www.w3.org/TR/trace-context/.
const (
	headerTraceParent = "traceparent"
	headerTraceState  = "tracestate"
)

// The names of spans that the conventions have no name for. A delivery is the root, and lasts from
// the first of its requests until all that it brought is committed.
const (
	spanDeliver = "relay deliver"
	spanCommit  = "commit"
)

// laneTracer makes the spans of one lane: a trace for each delivery, and one for each request that
// brought no events of a delivery. Spans tell counts, topics, event ids and request ids, never what
// an event holds. It is safe for concurrent use.
type laneTracer struct {
	traces *Traces
	lane   attribute.KeyValue
	bus    sink.Conventions
	server []attribute.KeyValue // of the bus
}

func newLaneTracer(traces *Traces, lane string, bus sink.Conventions) *laneTracer {
	return &laneTracer{traces: traces, lane: attrLane.String(lane), bus: bus, server: busAttributes(&bus)}
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
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithAttributes(t.lane, attrEvents.Int(events), attrPages.Int(len(pages)))}
	if !began.IsZero() {
		options = append(options, trace.WithTimestamp(began))
	}
	ctx, span := t.traces.tracer.Start(ctx, spanDeliver, options...)
	for i := range pages {
		if p := &pages[i]; span.IsRecording() && p.Request != nil {
			t.fetched(ctx, p)
		}
	}
	return ctx, func(err error) { t.end(span, err) }
}

// fetched records the request of a page.
func (t *laneTracer) fetched(ctx context.Context, p *source.Page) {
	attributes := []attribute.KeyValue{attrEvents.Int(len(p.Events)), attrTip.Bool(p.Tip)}
	if n := len(p.Events); n > 0 {
		attributes = append(attributes, attrFirst.String(p.Events[0].ID), attrLast.String(p.Events[n-1].ID))
	}
	t.record(ctx, p.Request, attributes)
}

// requested records a request that brings no events of a delivery, as a trace of one span: one that
// failed, its repetition, or one for a list. A poll that finds nothing new has no span: relay makes
// one in every second, and metrics count them.
func (t *laneTracer) requested(i *source.RequestInfo) {
	if i.Err == nil && (i.Events > 0 || i.Template == source.EventsPath && i.Resend == 0) {
		return
	}
	t.record(context.Background(), i, nil, trace.WithNewRoot())
}

// record records a request with the times at which it was.
func (t *laneTracer) record(ctx context.Context, i *source.RequestInfo, more []attribute.KeyValue, options ...trace.SpanStartOption) {
	options = append(options, trace.WithTimestamp(i.Sent), trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(t.lane), trace.WithAttributes(requestAttributes(i)...), trace.WithAttributes(more...))
	_, span := t.traces.tracer.Start(ctx, "GET "+i.Template, options...)
	if i.Err != nil {
		text := "" // the status code says it
		if i.Status < 400 {
			text = printable.Clip(t.traces.hide(i.Err.Error()), longestError)
		}
		span.SetStatus(codes.Error, text)
	}
	span.End(trace.WithTimestamp(i.Sent.Add(i.Took)))
}

// begin begins the span of a stage; see pipeline.Observer.BeginStage. The messages carry on the
// trace of the span that publishes them.
func (t *laneTracer) begin(ctx context.Context, s pipeline.Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error)) {
	if !trace.SpanContextFromContext(ctx).IsValid() && len(batch) == 0 {
		return ctx, func(error) {} // outside of a delivery or a snapshot: a standby is kept off
	}
	name, kind := spanCommit, trace.SpanKindInternal
	attributes := []attribute.KeyValue{t.lane, attrStage.String(string(s))}
	if s != pipeline.StagePublish {
		attributes = append(attributes, attrPosition.String(next.EventID))
	}
	if n := len(batch); n > 0 {
		destination, sending := sendAttributes(&t.bus, batch)
		if name, kind = t.bus.Operation, trace.SpanKindProducer; destination != "" {
			name += " " + destination
		}
		attributes = append(append(append(attributes, t.server...), sending...),
			attrFirst.String(batch[0].Position.EventID), attrLast.String(batch[n-1].Position.EventID))
	}
	ctx, span := t.traces.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	mark(ctx, batch)
	return ctx, func(err error) {
		if err != nil && s == pipeline.StagePublish {
			span.SetAttributes(attrDurable.Int(sink.Durable(err, len(batch))))
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

// end ends a span. Its error is one of the bus, the checkpoint or the lane.
func (t *laneTracer) end(span trace.Span, err error) {
	if err != nil {
		span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err, t.bus.ErrorType)))
		span.SetStatus(codes.Error, printable.Clip(t.traces.hide(err.Error()), longestError))
	}
	span.End(trace.WithTimestamp(time.Now()))
}
