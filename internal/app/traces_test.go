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
		env  []string
		want bool
	}{
		"none":                 {nil, false},
		"named":                {[]string{endpoint}, true},
		"named for traces":     {[]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces"}, true},
		"switched off":         {[]string{endpoint, "OTEL_SDK_DISABLED=true"}, false},
		"no traces":            {[]string{endpoint, "OTEL_TRACES_EXPORTER=none"}, false},
		"over gRPC":            {[]string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, false},
		"gRPC, but not traces": {[]string{endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"}, true},
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
			require.Equal(t, c.want, collectorInEnvironment(env, zap.NewNop()))
		})
	}
}
