package telemetry

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// TracesConfig says where spans go, and how many.
type TracesConfig struct {
	Export

	SampleRatio float64 // of the traces, 0 to 1
}

// Traces sends what lanes do to a collector, as spans, in the background: a collector that is slow
// or away costs spans and nothing else. It is safe for concurrent use.
type Traces struct {
	provider *sdktrace.TracerProvider
	out      sdktrace.SpanExporter
	tracer   trace.Tracer
	hide     func(string) string
}

// queuedSpans bounds how many spans wait for the collector; what is more is dropped.
const queuedSpans = 4096

// scopeName is the name of the instrumentation scope of spans and metrics.
const scopeName = "workos-relay"

// NewTraces returns Traces that are closed by the caller. It connects to nothing yet.
func NewTraces(ctx context.Context, cfg TracesConfig) (*Traces, error) {
	address, err := cfg.prepare(signalTraces)
	if err != nil {
		return nil, err
	}
	options := []otlptracehttp.Option{otlptracehttp.WithHTTPClient(newCollectorClient(&cfg.Export))}
	if address != "" {
		options = append(options, otlptracehttp.WithEndpointURL(address))
	}
	if len(cfg.Headers) > 0 { // instead of those in the environment; the client adds cfg.Headers
		options = append(options, otlptracehttp.WithHeaders(map[string]string{}))
	}
	if cfg.TLS != nil {
		options = append(options, otlptracehttp.WithTLSClientConfig(cfg.TLS.Config())) // to be told if the endpoint is not https
	}
	out, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("setting up traces: %w", err)
	}
	watched := &watchedSpans{SpanExporter: out, watch: cfg.watchSpans()}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(watched, sdktrace.WithMaxQueueSize(queuedSpans), sdktrace.WithExportTimeout(cfg.attempt())),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.SampleRatio))),
		sdktrace.WithResource(cfg.Process.resource(ctx)),
	)
	tracer := provider.Tracer(scopeName, trace.WithInstrumentationVersion(cfg.Process.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return &Traces{provider: provider, out: out, tracer: tracer, hide: cfg.Hide}, nil
}

// Close hands over what still waits, as long as ctx lets it, and drops the rest, which is not an
// error. Nothing is traced afterwards.
func (t *Traces) Close(ctx context.Context) {
	if err := t.provider.Shutdown(ctx); err != nil {
		_ = t.out.Shutdown(ctx) // cuts off a request that hangs; the exporter tells what was lost
	}
}

// watchedSpans tells how the export of spans goes.
type watchedSpans struct {
	sdktrace.SpanExporter
	watch *exportWatch
}

func (e *Export) watchSpans() *exportWatch {
	return &exportWatch{
		hide: e.Hide, log: e.Logger, what: "spans",
		failed: "spans could not be handed to the collector and are lost; events are not held up by it, and this is not said again for a while",
		count: func(n int, err error) {
			if e.Metrics != nil {
				e.Metrics.exportedSpans(n, err)
			}
		},
	}
}

// ExportSpans implements sdktrace.SpanExporter. It returns no error, which the SDK would print.
func (e *watchedSpans) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	e.watch.note(len(spans), e.SpanExporter.ExportSpans(ctx, spans))
	return nil
}
