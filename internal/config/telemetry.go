package config

import (
	"net/url"

	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
)

// Telemetry is what relay tells other systems about itself.
type Telemetry struct {
	Traces Traces `yaml:"traces" doc:"Spans for OpenTelemetry: the request, the publishing and the commit of each delivery. Messages then carry the header traceparent. Off without an endpoint, here or in OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT."`
}

// Traces is where spans go.
type Traces struct {
	Endpoint    string        `yaml:"endpoint" format:"url" example:"http://127.0.0.1:4318" doc:"Address of the collector, which takes OTLP over HTTP with protobuf. /v1/traces is added if it has no path."`
	Headers     []TraceHeader `yaml:"headers" doc:"Headers of each request to the collector, such as a token." example:"[{name: authorization, value_file: /run/secrets/otlp_authorization}]"`
	SampleRatio float64       `yaml:"sample_ratio" default:"1" min:"0" max:"1" doc:"Share of the deliveries that are recorded. The messages of the others also carry a traceparent, which says that they are not sampled."`
	TLS         tlsconf.TLS   `yaml:"tls" doc:"TLS to the collector, if the system's authorities are not enough."`
}

// TraceHeader is a header of the requests to the collector.
type TraceHeader struct {
	Name  string        `yaml:"name" required:"true" doc:"Name of the header."`
	Value secret.String `yaml:"value" required:"true" doc:"Value of the header."`
}

// Validate checks what the tags cannot say.
func (t Traces) Validate() error {
	address, err := url.Parse(t.Endpoint)
	if err == nil && (address.User != nil || address.RawQuery != "") {
		return &keyFault{"endpoint", "holds credentials or a query; give the collector's token in headers"}
	}
	return nil
}
