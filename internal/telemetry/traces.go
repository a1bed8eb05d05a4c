package telemetry

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"workos-relay/conf/tlsconf"
)

// TracesConfig says where spans go, by OTLP over HTTP with protobuf.
type TracesConfig struct {
	// Endpoint is the address of the collector, such as http://127.0.0.1:4318; /v1/traces is added
	// if it has no path. Empty: what the standard variables OTEL_EXPORTER_OTLP_* of the
	// environment say.
	Endpoint    string
	Headers     map[string]func() string // of each request, called for each; may hold secrets
	TLS         *tlsconf.Live            // nil for the system's authorities
	Timeout     time.Duration            // of one request; zero for 10 s
	SampleRatio float64                  // of the traces, 0 to 1
	Version     string                   // of relay
	RelayID     string
	Hide        func(string) string // takes secrets out of an error's text; nil leaves it
	Metrics     *Metrics            // counts what is exported; may be nil
	Logger      *zap.Logger         // nil logs nothing
}

// Traces sends what lanes do to a collector, as spans, in the background: a collector that is slow
// or away costs spans and nothing else. It is safe for concurrent use.
type Traces struct {
	provider *sdktrace.TracerProvider
	out      sdktrace.SpanExporter
	tracer   trace.Tracer
	hide     func(string) string
}

// flushTimeout bounds one attempt to hand spans over; queuedSpans bounds what waits for it, and
// what is more is dropped.
const (
	flushTimeout = 10 * time.Second
	queuedSpans  = 4096
)

// NewTraces returns Traces that are closed by the caller. It connects to nothing yet.
func NewTraces(ctx context.Context, cfg TracesConfig) (*Traces, error) {
	otel.SetLogger(logr.Discard()) // it would print variables as they are, to standard error
	if err := checkEnvironment(); err != nil && cfg.Endpoint == "" {
		return nil, err
	}
	var options []otlptracehttp.Option
	if cfg.Endpoint != "" {
		address, err := url.Parse(cfg.Endpoint)
		if err != nil {
			return nil, fmt.Errorf("telemetry.traces.endpoint: %w", err)
		}
		if strings.Trim(address.Path, "/") == "" {
			address.Path = "/v1/traces"
		}
		options = append(options, otlptracehttp.WithEndpointURL(address.String()))
	}
	if len(cfg.Headers) > 0 || cfg.TLS != nil {
		options = append(options, otlptracehttp.WithHTTPClient(newCollectorClient(cfg)))
		if len(cfg.Headers) > 0 { // instead of those in the environment; the client adds cfg.Headers
			options = append(options, otlptracehttp.WithHeaders(map[string]string{}))
		}
	}
	if cfg.TLS != nil {
		options = append(options, otlptracehttp.WithTLSClientConfig(cfg.TLS.Config())) // to be told if the endpoint is not https
	}
	out, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("setting up traces: %w", err)
	}
	if cfg.Hide == nil {
		cfg.Hide = func(s string) string { return s }
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	watched := &watchedExporter{SpanExporter: out, hide: cfg.Hide, metrics: cfg.Metrics, log: cfg.Logger}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(watched, sdktrace.WithMaxQueueSize(queuedSpans), sdktrace.WithExportTimeout(flushTimeout)),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.SampleRatio))),
		sdktrace.WithResource(described(ctx, cfg)),
	)
	return &Traces{provider: provider, out: out, tracer: provider.Tracer("workos-relay", trace.WithInstrumentationVersion(cfg.Version)), hide: cfg.Hide}, nil
}

// described is what the spans say of the process. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go
// before.
func described(ctx context.Context, cfg TracesConfig) *resource.Resource {
	own := resource.NewSchemaless(
		attribute.String("service.name", "relay"), attribute.String("service.version", cfg.Version), attribute.String("relay.id", cfg.RelayID))
	given, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil && given == nil { // a part that cannot be read is left out
		return own
	}
	both, err := resource.Merge(own, given)
	if err != nil {
		return own
	}
	return both
}

// Close hands over what still waits, as long as ctx lets it, and drops the rest, which is not an
// error. Nothing is traced afterwards.
func (t *Traces) Close(ctx context.Context) {
	if err := t.provider.Shutdown(ctx); err != nil {
		_ = t.out.Shutdown(ctx) // cuts off a request that hangs; the exporter tells what was lost
	}
}

// watchedExporter tells how the export goes, for the SDK's own way is a global handler that prints.
type watchedExporter struct {
	sdktrace.SpanExporter
	hide    func(string) string
	metrics *Metrics
	log     *zap.Logger

	mu   sync.Mutex
	told time.Time // when a failure was logged last; zero while all is well
}

// quietFor is how long a collector that stays away is not spoken of again.
const quietFor = 10 * time.Minute

// ExportSpans implements sdktrace.SpanExporter.
func (e *watchedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if e.metrics != nil {
		e.metrics.exportedSpans(len(spans), err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err != nil && (e.told.IsZero() || time.Since(e.told) > quietFor):
		e.told = time.Now()
		e.log.Warn("spans could not be handed to the collector and are lost; events are not held up by it, and this is not said again for a while",
			zap.Int("spans", len(spans)), zap.String("error", e.hide(err.Error())))
	case err == nil && !e.told.IsZero():
		e.told = time.Time{}
		e.log.Info("the collector takes spans again")
	}
	return nil
}

// checkEnvironment returns what is wrong with the collector's address in the environment, without
// repeating it.
func checkEnvironment() error {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		address, err := url.Parse(os.Getenv(name))
		switch {
		case err != nil: // not wrapped: it repeats the address
			return fmt.Errorf("%s in the environment is not a URL; write http://host:4318", name)
		case address.User != nil || address.RawQuery != "" || address.Opaque != "":
			return fmt.Errorf("%s in the environment holds credentials or a query; give the collector's token in OTEL_EXPORTER_OTLP_HEADERS", name)
		}
	}
	return nil
}
