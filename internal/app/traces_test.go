package app

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestCollectorInEnvironment(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for name, c := range map[string]struct {
		env           []string
		want, metrics bool
	}{
		"none":                 {nil, false, false},
		"named":                {[]string{endpoint}, true, true},
		"named for traces":     {[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces"}, true, false},
		"named for metrics":    {[]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://127.0.0.1:4318/v1/metrics"}, false, true},
		"switched off":         {[]string{endpoint, "OTEL_SDK_DISABLED=true"}, false, false},
		"no traces":            {[]string{endpoint, "OTEL_TRACES_EXPORTER=none"}, false, true},
		"no metrics":           {[]string{endpoint, "OTEL_METRICS_EXPORTER=none"}, true, false},
		"traces to console":    {[]string{endpoint, "OTEL_TRACES_EXPORTER=console"}, false, true},
		"traces to Zipkin":     {[]string{endpoint, "OTEL_TRACES_EXPORTER=zipkin"}, false, true},
		"metrics to a scrape":  {[]string{endpoint, "OTEL_METRICS_EXPORTER=prometheus"}, true, false},
		"metrics to console":   {[]string{endpoint, "OTEL_METRICS_EXPORTER=console"}, true, false},
		"no otlp among two":    {[]string{endpoint, "OTEL_METRICS_EXPORTER=console,prometheus"}, true, false},
		"otlp among others":    {[]string{endpoint, "OTEL_METRICS_EXPORTER=prometheus, OTLP", "OTEL_TRACES_EXPORTER=otlp,console"}, true, true},
		"chosen, but empty":    {[]string{endpoint, "OTEL_METRICS_EXPORTER= ", "OTEL_TRACES_EXPORTER="}, true, true},
		"over gRPC":            {[]string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, false, false},
		"gRPC, but not traces": {[]string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			env := func(name string) (string, bool) {
				for _, v := range c.env {
					if value, found := strings.CutPrefix(v, name+"="); found {
						return value, true
					}
				}
				return "", false
			}
			e := &exporter{env: env, log: zap.NewNop()}
			require.Equal(t, c.want, e.named(otlpTraces))
			require.Equal(t, c.metrics, e.named(otlpMetrics))
		})
	}
}
