package telemetry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"
)

// metricsReceiver keeps the metrics of the last export, by name.
type metricsReceiver struct {
	*httptest.Server

	mu   sync.Mutex
	last map[string]*otlp.Metric
}

func newMetricsReceiver(t *testing.T) *metricsReceiver {
	t.Helper()
	r := &metricsReceiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var sent collector.ExportMetricsServiceRequest
		if err != nil || req.URL.Path != "/v1/metrics" || proto.Unmarshal(body, &sent) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.last = map[string]*otlp.Metric{}
		for _, m := range sent.GetResourceMetrics()[0].GetScopeMetrics()[0].GetMetrics() {
			r.last[m.GetName()] = m
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// TestTheEndSendsMetricsOnceMore: what was counted after the last export is not lost.
func TestTheEndSendsMetricsOnceMore(t *testing.T) {
	for name, exponential := range map[string]bool{"explicit": false, "base2_exponential_bucket_histogram": true} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", name)
			to, m := newMetricsReceiver(t), NewMetrics("1.2.3")
			t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "300000")
			push, err := m.NewPush(t.Context(), PushConfig{Export: Export{Endpoint: to.URL, Timeout: 5 * time.Minute, Metrics: m}, Interval: time.Hour})
			require.NoError(t, err)
			l := m.Lane("nats")
			l.events.Add(7)
			l.delivery.Observe(2)
			push.Close(t.Context())
			to.mu.Lock()
			defer to.mu.Unlock()
			require.InDelta(t, 7, to.last["relay_committed_events_total"].GetSum().GetDataPoints()[0].GetAsDouble(), 0)
			require.True(t, to.last["relay_committed_events_total"].GetSum().GetIsMonotonic())
			delivery := to.last["relay_event_delivery_seconds"]
			if exponential {
				require.EqualValues(t, 1, delivery.GetExponentialHistogram().GetDataPoints()[0].GetCount())
				return
			}
			point := delivery.GetHistogram().GetDataPoints()[0]
			require.Equal(t, eventDelivery.buckets, point.GetExplicitBounds())
			require.InDelta(t, 2, point.GetSum(), 0)
			require.Equal(t, "1", scrape(t, m)[`relay_metric_exports_total{result="exported"}`])
		})
	}
}

// TestACollectorThatHangsDoesNotHoldUpTheEnd: Close returns when its context ends.
func TestACollectorThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	never := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-never
	}))
	t.Cleanup(hangs.Close)
	t.Cleanup(func() { close(never) })
	core, logs := observer.New(zap.InfoLevel)
	m := NewMetrics("1.2.3")
	push, err := m.NewPush(t.Context(), PushConfig{Export: Export{Endpoint: hangs.URL, Timeout: 5 * time.Minute, Metrics: m, Logger: zap.New(core)}, Interval: time.Hour})
	require.NoError(t, err)
	push.Close(ctx) // the test would not end otherwise
	require.Equal(t, 1, logs.Len())
	require.Contains(t, logs.All()[0].Message, "metrics could not be handed to the collector")
	require.Equal(t, "1", scrape(t, m)[`relay_metric_exports_total{result="failed"}`])
}
