package app

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/conf/livefile"
	"workos-relay/conf/tlsconf"
	"workos-relay/internal/buildinfo"
	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
)

// TraceFlush bounds how long a stopping relay waits for the collector to take the last spans. Tests
// raise it.
var TraceFlush = 3 * time.Second

// startTraces returns where spans go, or nil if neither the configuration nor the environment names
// a collector. hide removes secrets from a text. The variables of the environment are those of
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
func startTraces(ctx context.Context, cfg *config.Config, hide func(string) string, metrics *telemetry.Metrics, env func(string) (string, bool), log *zap.Logger) (*telemetry.Traces, error) {
	t := cfg.Telemetry.Traces
	if t.Endpoint == "" && !collectorInEnvironment(env, log) {
		return nil, nil
	}
	tls, err := t.TLS.Open(cfg.Files, "telemetry.traces.")
	if err != nil {
		return nil, Usage(err)
	}
	if tls == nil {
		if tls, err = collectorFiles(env).Open(cfg.Files, "OTEL_EXPORTER_OTLP_*: "); err != nil {
			why := "correct the file that OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE or _CLIENT_KEY names"
			if encrypted := (*livefile.KeyError)(nil); errors.As(err, &encrypted) {
				why = "these variables have no passphrase, so name the key in telemetry.traces.tls.key_file and its passphrase in key_passphrase_file"
				err = errors.New("the private key of OTEL_EXPORTER_OTLP_CLIENT_KEY is encrypted")
			}
			log.Warn("a certificate for the collector cannot be used, and relay goes on without it: "+why, zap.Error(err))
		}
	}
	if endpoint := cmp.Or(t.Endpoint, ofCollector(env, "ENDPOINT")); tls == nil && strings.HasPrefix(endpoint, "https://") {
		if tls, err = (tlsconf.TLS{Enabled: true}).Open(cfg.Files, ""); err != nil { // with the system's authorities
			return nil, Usage(err)
		}
	}
	headers := make(map[string]func() string, len(t.Headers))
	for i, h := range t.Headers {
		value, err := cfg.TraceHeader(i)
		if err != nil {
			return nil, Usage(err)
		}
		headers[h.Name] = func() string { return value.Get().Reveal() }
	}
	return telemetry.NewTraces(ctx, telemetry.TracesConfig{
		Endpoint: t.Endpoint, Headers: headers, TLS: tls, Timeout: collectorTimeout(env), SampleRatio: t.SampleRatio,
		Version: buildinfo.Version(), RelayID: cfg.ID, Hide: hide, Metrics: metrics, Logger: log,
	})
}

// ofCollector returns a standard variable: the one for traces if it is set, else the one for all
// signals.
func ofCollector(env func(string) (string, bool), name string) string {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"} {
		if v, _ := env(prefix + name); strings.TrimSpace(v) != "" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// collectorFiles returns the files that the standard variables name. relay follows them like those
// of its configuration.
func collectorFiles(env func(string) (string, bool)) tlsconf.TLS {
	t := tlsconf.TLS{CAFile: ofCollector(env, "CERTIFICATE"), CertFile: ofCollector(env, "CLIENT_CERTIFICATE"), KeyFile: ofCollector(env, "CLIENT_KEY")}
	if t.CertFile == "" || t.KeyFile == "" { // one alone is left out, as by the exporter itself
		t.CertFile, t.KeyFile = "", ""
	}
	return t
}

// collectorTimeout returns how long one request may take by the standard variables. 0 means that
// they do not say.
func collectorTimeout(env func(string) (string, bool)) time.Duration {
	ms, err := strconv.Atoi(ofCollector(env, "TIMEOUT"))
	if err != nil || ms < 0 {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// collectorInEnvironment reports whether the standard variables name a collector that relay can
// speak to.
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
	ctx, cancel := context.WithTimeout(ctx, TraceFlush)
	defer cancel()
	traces.Close(ctx)
}
