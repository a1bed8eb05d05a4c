package main

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
)

// traceFlush bounds how long the end of relay waits for a collector to take the last spans. Tests that need all of them wait longer.
var traceFlush = 3 * time.Second

// startTraces returns where spans go, and nil where the configuration and the environment name no collector. hide takes secrets out of
// a text. Variables of the environment are those of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
func startTraces(ctx context.Context, cfg *config.Config, hide func(string) string, metrics *telemetry.Metrics, env func(string) (string, bool), log *zap.Logger) (*telemetry.Traces, error) {
	t := cfg.Telemetry.Traces
	if t.Endpoint == "" && !collectorInEnvironment(env, log) {
		return nil, nil
	}
	tls, err := t.TLS.Build()
	if err != nil {
		return nil, &usageError{err}
	}
	headers := make(map[string]string, len(t.Headers))
	for _, h := range t.Headers {
		headers[h.Name] = h.Value.Reveal()
	}
	return telemetry.NewTraces(ctx, telemetry.TracesConfig{
		Endpoint: t.Endpoint, Headers: headers, TLS: tls, SampleRatio: t.SampleRatio,
		Version: version(), RelayID: cfg.ID, Hide: hide, Metrics: metrics, Logger: log,
	})
}

// collectorInEnvironment reports whether the standard variables name a collector that relay can speak to.
func collectorInEnvironment(env func(string) (string, bool), log *zap.Logger) bool {
	value := func(names ...string) string {
		for _, name := range names {
			if v, _ := env(name); v != "" {
				return v
			}
		}
		return ""
	}
	switch {
	case value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "",
		strings.EqualFold(value("OTEL_SDK_DISABLED"), "true"), value("OTEL_TRACES_EXPORTER") == "none":
		return false
	case value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc":
		log.Warn("traces are off: the environment asks for OTLP over gRPC, and relay speaks http/protobuf; set telemetry.traces.endpoint, or OTEL_EXPORTER_OTLP_PROTOCOL and the port, mostly 4318")
		return false
	}
	return true
}

func closeTraces(ctx context.Context, traces *telemetry.Traces) {
	if traces == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, traceFlush)
	defer cancel()
	traces.Close(ctx)
}
