package config

import (
	"net/url"
	"time"

	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
)

// Telemetry is what relay tells other systems about itself.
type Telemetry struct {
	Traces  Traces `yaml:"traces" doc:"Spans for OpenTelemetry: the requests, the publishing and the commit of each delivery. Messages then carry the header traceparent. Off without an endpoint, here or in OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT."`
	Metrics Pushed `yaml:"metrics" doc:"The metrics of /metrics, sent to an OpenTelemetry collector as well. Off without an endpoint, here or in OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT."`
}

// Traces is where spans go.
type Traces struct {
	Endpoint    string            `yaml:"endpoint" format:"url" example:"http://127.0.0.1:4318" doc:"Address of the collector, which takes OTLP over HTTP with protobuf. /v1/traces is added if it has no path."`
	Headers     []CollectorHeader `yaml:"headers" doc:"Headers of each request to the collector, such as a token." example:"[{name: authorization, value_file: /run/secrets/otlp_authorization}]"`
	SampleRatio float64           `yaml:"sample_ratio" default:"1" min:"0" max:"1" doc:"Share of the traces that are recorded. The messages of the other deliveries also carry a traceparent, which says that they are not sampled."`
	TLS         tlsconf.TLS       `yaml:"tls" doc:"TLS to the collector, if the system's authorities are not enough."`
}

// Pushed is where metrics go.
type Pushed struct {
	Endpoint string            `yaml:"endpoint" format:"url" example:"http://127.0.0.1:4318" doc:"Address of the collector, which takes OTLP over HTTP with protobuf. /v1/metrics is added if it has no path."`
	Headers  []CollectorHeader `yaml:"headers" doc:"Headers of each request to the collector, such as a token." example:"[{name: authorization, value_file: /run/secrets/otlp_authorization}]"`
	Interval time.Duration     `yaml:"interval" min:"1s" max:"1h" example:"30s" doc:"Time between exports. Without it: OTEL_METRIC_EXPORT_INTERVAL of the environment, or one minute."`
	TLS      tlsconf.TLS       `yaml:"tls" doc:"TLS to the collector, if the system's authorities are not enough."`
}

// CollectorHeader is a header of the requests to a collector.
type CollectorHeader struct {
	Name  string        `yaml:"name" required:"true" doc:"Name of the header."`
	Value secret.String `yaml:"value" required:"true" doc:"Value of the header."`
}

// Collector is how a kind of telemetry gets to a collector.
type Collector struct {
	Endpoint string // empty for that of the environment
	Headers  []CollectorHeader
	TLS      tlsconf.TLS
}

// Collector returns where the telemetry of a section goes: "traces" or "metrics".
func (t *Telemetry) Collector(section string) Collector {
	if section == "metrics" {
		return Collector{t.Metrics.Endpoint, t.Metrics.Headers, t.Metrics.TLS}
	}
	return Collector{t.Traces.Endpoint, t.Traces.Headers, t.Traces.TLS}
}

// Validate checks what the tags cannot say.
func (t Traces) Validate() error { return validCollector(t.Endpoint) }

// Validate checks what the tags cannot say.
func (p Pushed) Validate() error { return validCollector(p.Endpoint) }

func validCollector(endpoint string) error {
	address, err := url.Parse(endpoint)
	if err == nil && (address.User != nil || address.RawQuery != "") {
		return &keyFault{"endpoint", "holds credentials or a query; give the collector's token in headers"}
	}
	return nil
}
