package app

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/conf/livefile"
	"workos-relay/conf/tlsconf"
	"workos-relay/internal/buildinfo"
	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
	"workos-relay/sink"
)

// TraceFlush bounds how long a stopping relay waits for the collector to take the last spans and
// metrics. Tests raise it.
var TraceFlush = 3 * time.Second

// exports is what relay sends to a collector. Each part is nil if it is off.
type exports struct {
	traces  *telemetry.Traces
	metrics *telemetry.Push
}

// exporter starts exports. env returns variables of the environment: those of
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ apply.
type exporter struct {
	cfg     *config.Config
	hide    func(string) string // removes secrets from a text
	metrics *telemetry.Metrics
	env     func(string) (string, bool)
	log     *zap.Logger
}

// start starts what the configuration or the environment names a collector for.
func (e *exporter) start(ctx context.Context) (exports, error) {
	var out exports
	export, err := e.export(otlpTraces)
	if err != nil {
		return out, err
	}
	if export != nil {
		out.traces, err = telemetry.NewTraces(ctx, telemetry.TracesConfig{Export: *export, SampleRatio: e.cfg.Telemetry.Traces.SampleRatio})
		if err != nil {
			return out, err
		}
	}
	if export, err = e.export(otlpMetrics); err == nil && export != nil {
		out.metrics, err = e.metrics.NewPush(ctx, telemetry.PushConfig{Export: *export, Interval: e.cfg.Telemetry.Metrics.Interval})
	}
	if err != nil {
		out.close(ctx)
		return exports{}, err
	}
	return out, nil
}

// rehearse returns the errors with which start would fail. It sends nothing.
func (e *exporter) rehearse(ctx context.Context) error {
	var errs []error
	for _, s := range []otlpSignal{otlpTraces, otlpMetrics} {
		export, err := e.export(s)
		switch {
		case err != nil:
			errs = append(errs, err)
		case export != nil && s == otlpTraces:
			traces, err := telemetry.NewTraces(ctx, telemetry.TracesConfig{Export: *export})
			if err == nil {
				traces.Close(ctx)
			}
			errs = append(errs, err)
		case export != nil:
			errs = append(errs, telemetry.CheckPush(ctx, *export))
		}
	}
	return errors.Join(errs...)
}

// close hands over what is left, and waits no longer than TraceFlush for the collector.
func (e exports) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, TraceFlush)
	defer cancel()
	var wg sync.WaitGroup
	if e.traces != nil {
		wg.Go(func() { e.traces.Close(ctx) })
	}
	if e.metrics != nil {
		wg.Go(func() { e.metrics.Close(ctx) })
	}
	wg.Wait()
}

// otlpSignal is a kind of data that a collector takes, by its name in the configuration and in
// variables of the environment.
type otlpSignal struct{ key, variable string }

var (
	otlpTraces  = otlpSignal{"traces", "TRACES"}
	otlpMetrics = otlpSignal{"metrics", "METRICS"}
)

// export returns where the data of a signal goes, or nil if neither the configuration nor the
// environment names a collector.
func (e *exporter) export(s otlpSignal) (*telemetry.Export, error) {
	c := e.cfg.Telemetry.Collector(s.key)
	if c.Endpoint == "" && !e.named(s) {
		return nil, nil
	}
	tls, err := c.TLS.Open(e.cfg.Files, "telemetry."+s.key+".")
	if err != nil {
		return nil, Usage(err)
	}
	if tls == nil {
		if tls, err = e.files(s).Open(e.cfg.Files, "OTEL_EXPORTER_OTLP_*: "); err != nil {
			why := "correct the file that OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE or _CLIENT_KEY names"
			if encrypted := (*livefile.KeyError)(nil); errors.As(err, &encrypted) {
				why = "these variables have no passphrase, so name the key in telemetry." + s.key + ".tls.key_file and its passphrase in key_passphrase_file"
				err = errors.New("the private key of OTEL_EXPORTER_OTLP_CLIENT_KEY is encrypted")
			}
			e.log.Warn("a certificate for the collector cannot be used, and relay goes on without it: "+why, zap.Error(err))
		}
	}
	if endpoint := cmp.Or(c.Endpoint, e.variable(s, "ENDPOINT")); tls == nil && strings.HasPrefix(endpoint, "https://") {
		if tls, err = (tlsconf.TLS{Enabled: true}).Open(e.cfg.Files, ""); err != nil { // with the system's authorities
			return nil, Usage(err)
		}
	}
	headers := make(map[string]func() string, len(c.Headers))
	for i, h := range c.Headers {
		value, err := e.cfg.CollectorHeader(s.key, i)
		if err != nil {
			return nil, Usage(err)
		}
		headers[h.Name] = func() string { return value.Get().Reveal() }
	}
	return &telemetry.Export{
		Endpoint: c.Endpoint, Headers: headers, TLS: tls, Timeout: e.timeout(s),
		Process: telemetry.Process{Version: buildinfo.Version(), RelayID: e.cfg.ID, Instance: instanceID(e.cfg)},
		Hide:    e.hide, Metrics: e.metrics, Logger: e.log,
	}, nil
}

// instanceID names this process to a collector: the instance, the process id and the time of the
// start, which no other process has together.
func instanceID(cfg *config.Config) string {
	instance := cfg.Instance
	if instance == "" {
		instance, _ = os.Hostname()
	}
	name, _, _ := strings.Cut(checkpoint.HolderName(instance, os.Getpid(), started, ""), "@")
	return name + "@" + started.UTC().Format(time.RFC3339Nano)
}

// variable returns a standard variable: the one for the signal if it is set, else the one for all
// signals.
func (e *exporter) variable(s otlpSignal, name string) string {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_" + s.variable + "_", "OTEL_EXPORTER_OTLP_"} {
		if v, _ := e.env(prefix + name); strings.TrimSpace(v) != "" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// files returns the files that the standard variables name. relay follows them like those of its
// configuration.
func (e *exporter) files(s otlpSignal) tlsconf.TLS {
	t := tlsconf.TLS{CAFile: e.variable(s, "CERTIFICATE"), CertFile: e.variable(s, "CLIENT_CERTIFICATE"), KeyFile: e.variable(s, "CLIENT_KEY")}
	if t.CertFile == "" || t.KeyFile == "" { // one alone is left out, as by the exporter itself
		t.CertFile, t.KeyFile = "", ""
	}
	return t
}

// timeout returns how long one request may take by the standard variables. 0 means that they do not
// say.
func (e *exporter) timeout(s otlpSignal) time.Duration {
	ms, err := strconv.Atoi(e.variable(s, "TIMEOUT"))
	if err != nil || ms < 0 {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// named reports whether the standard variables name a collector that relay can speak to.
func (e *exporter) named(s otlpSignal) bool {
	disabled, _ := e.env("OTEL_SDK_DISABLED")
	switch {
	case e.variable(s, "ENDPOINT") == "", strings.EqualFold(disabled, "true"), !e.chosen(s):
		return false
	case e.variable(s, "PROTOCOL") == "grpc":
		if s == otlpTraces {
			e.log.Warn("traces are off: the environment asks for OTLP over gRPC, and relay speaks http/protobuf; set telemetry.traces.endpoint, or OTEL_EXPORTER_OTLP_PROTOCOL and the port, mostly 4318")
		} else {
			e.log.Warn("the export of metrics is off: the environment asks for OTLP over gRPC, and relay speaks http/protobuf; set telemetry.metrics.endpoint, or OTEL_EXPORTER_OTLP_PROTOCOL and the port, mostly 4318")
		}
		return false
	}
	return true
}

// chosen reports whether the standard variable for the exporters of the signal names OTLP, the only
// one that relay has, or is not set.
func (e *exporter) chosen(s otlpSignal) bool {
	exporters, _ := e.env("OTEL_" + s.variable + "_EXPORTER")
	if strings.TrimSpace(exporters) == "" {
		return true
	}
	for name := range strings.SplitSeq(exporters, ",") {
		if strings.EqualFold(strings.TrimSpace(name), "otlp") {
			return true
		}
	}
	return false
}

// conventions returns how traces name the bus of the lane.
func (l *Lane) conventions() sink.Conventions {
	if t, ok := l.Sink.Settings.(sink.Traced); ok {
		return t.Conventions()
	}
	return sink.Conventions{System: l.Sink.Type, Operation: "publish"}
}
