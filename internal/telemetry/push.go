package telemetry

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// PushConfig says where metrics go, and how often.
type PushConfig struct {
	Export

	Interval time.Duration // zero for OTEL_METRIC_EXPORT_INTERVAL, or a minute
}

// Push sends the metrics of a process to a collector, under the names and labels that /metrics has,
// in the background. What a collector does not take is not queued: the next export has it too,
// since all metrics count from the start of the process.
type Push struct {
	provider *sdkmetric.MeterProvider
	out      sdkmetric.Exporter
}

// NewPush returns a Push of m that is closed by the caller. It sends after the first interval.
func (m *Metrics) NewPush(ctx context.Context, cfg PushConfig) (*Push, error) {
	out, err := cfg.metricExporter(ctx)
	if err != nil {
		return nil, err
	}
	reading := []sdkmetric.PeriodicReaderOption{
		sdkmetric.WithTimeout(cfg.attempt()),
		sdkmetric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(gathered{m.registry, exponentialHistograms()}))),
	}
	if cfg.Interval > 0 {
		reading = append(reading, sdkmetric.WithInterval(cfg.Interval))
	}
	watched := &watchedMetrics{Exporter: out, watch: cfg.watchMetrics()}
	provider := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(sdkmetric.NewPeriodicReader(watched, reading...)),
		sdkmetric.WithResource(cfg.Process.resource(ctx)),
	)
	return &Push{provider: provider, out: out}, nil
}

// CheckPush returns the error with which NewPush would fail. It sends nothing.
func CheckPush(ctx context.Context, cfg Export) error {
	out, err := cfg.metricExporter(ctx)
	if err != nil {
		return err
	}
	return out.Shutdown(ctx) //nolint:wrapcheck // nothing was sent
}

// metricExporter returns what sends metrics. It completes the configuration.
func (e *Export) metricExporter(ctx context.Context) (sdkmetric.Exporter, error) {
	address, err := e.prepare(signalMetrics)
	if err != nil {
		return nil, err
	}
	options := []otlpmetrichttp.Option{otlpmetrichttp.WithHTTPClient(newCollectorClient(e))}
	if address != "" {
		options = append(options, otlpmetrichttp.WithEndpointURL(address))
	}
	if len(e.Headers) > 0 { // instead of those in the environment; the client adds e.Headers
		options = append(options, otlpmetrichttp.WithHeaders(map[string]string{}))
	}
	if e.TLS != nil {
		options = append(options, otlpmetrichttp.WithTLSClientConfig(e.TLS.Config())) // to be told if the endpoint is not https
	}
	out, err := otlpmetrichttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("setting up the export of metrics: %w", err)
	}
	return out, nil
}

// Close sends the metrics once more, as long as ctx lets it.
func (p *Push) Close(ctx context.Context) {
	if err := p.provider.Shutdown(ctx); err != nil {
		_ = p.out.Shutdown(ctx) // cuts off a request that hangs
	}
}

// gathered is what is pushed of a registry: what can be gathered, since, as on /metrics, a
// collector that fails takes nothing from the others.
type gathered struct {
	prometheus.Gatherer
	exponential bool // histograms that are native ones too are pushed as exponential ones
}

// Gather implements prometheus.Gatherer.
func (g gathered) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.Gatherer.Gather()
	if len(families) == 0 {
		return nil, err //nolint:wrapcheck // it is the registry's own
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil && !g.exponential {
				h.Schema, h.ZeroThreshold, h.ZeroCount, h.PositiveSpan, h.PositiveDelta, h.NegativeSpan, h.NegativeDelta = nil, nil, nil, nil, nil, nil, nil
			}
		}
	}
	return families, nil
}

// exponentialHistograms reports whether the environment asks for exponential histograms, which
// become native ones in Prometheus. The default of the standard is explicit buckets: those are the
// ones that the dashboard and the alert rules read.
func exponentialHistograms() bool {
	return strings.EqualFold(os.Getenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"), "base2_exponential_bucket_histogram")
}

// watchedMetrics tells how the export of metrics goes.
type watchedMetrics struct {
	sdkmetric.Exporter
	watch *exportWatch
}

func (e *Export) watchMetrics() *exportWatch {
	return &exportWatch{
		hide: e.Hide, log: e.Logger, what: "metrics",
		failed: "metrics could not be handed to the collector; the next export has them too, events are not held up by it, and this is not said again for a while",
		count: func(_ int, err error) {
			if e.Metrics != nil {
				e.Metrics.pushed(err)
			}
		},
	}
}

// Export implements sdkmetric.Exporter. It returns no error, which the SDK would print.
func (e *watchedMetrics) Export(ctx context.Context, data *metricdata.ResourceMetrics) error {
	n := 0
	for i := range data.ScopeMetrics {
		n += len(data.ScopeMetrics[i].Metrics)
	}
	e.watch.note(n, e.Exporter.Export(ctx, data))
	return nil
}
