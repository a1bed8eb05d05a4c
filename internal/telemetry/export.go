package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.uber.org/zap"

	"workos-relay/conf/tlsconf"
)

// Export says how a signal, traces or metrics, gets to a collector by OTLP over HTTP with protobuf.
type Export struct {
	// Endpoint is the address of the collector, such as http://127.0.0.1:4318; /v1/traces or
	// /v1/metrics is added if it has no path. Empty: what the standard variables
	// OTEL_EXPORTER_OTLP_* of the environment say.
	Endpoint string
	Headers  map[string]func() string // of each request, called for each; may hold secrets
	TLS      *tlsconf.Live            // nil for the system's authorities
	Timeout  time.Duration            // of one request; zero for 10 s
	Process  Process
	Hide     func(string) string // takes secrets out of an error's text; nil leaves it
	Metrics  *Metrics            // counts what is exported; may be nil
	Logger   *zap.Logger         // nil logs nothing
}

// Process is what the exported data says of the process.
type Process struct {
	Version  string // of relay
	RelayID  string
	Instance string // unique among all processes that have ever run
}

// signal is a kind of data that a collector takes.
type signal struct {
	name     string // "traces"
	path     string // at the collector
	variable string // that names the collector for this signal alone
}

var (
	signalTraces  = signal{name: "traces", path: "/v1/traces", variable: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}
	signalMetrics = signal{name: "metrics", path: "/v1/metrics", variable: "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"}
)

// flushTimeout bounds one attempt to hand data over, unless one request may take longer.
const flushTimeout = 10 * time.Second

// attempt bounds one attempt to hand data over, with its retries.
func (e *Export) attempt() time.Duration { return max(flushTimeout, e.Timeout) }

// prepare completes the configuration and returns the URL of the signal, or "" if the environment
// names it. It keeps the SDK from printing to standard error.
func (e *Export) prepare(s signal) (string, error) {
	otel.SetLogger(logr.Discard()) // it would print variables as they are
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	if e.Hide == nil {
		e.Hide = func(s string) string { return s }
	}
	e.Hide = hideEnviron(e.Hide)
	if e.Logger == nil {
		e.Logger = zap.NewNop()
	}
	if e.Endpoint == "" {
		return "", checkEnvironment(s)
	}
	address, err := url.Parse(e.Endpoint)
	if err != nil {
		return "", fmt.Errorf("telemetry.%s.endpoint: %w", s.name, err)
	}
	if strings.Trim(address.Path, "/") == "" {
		address.Path = s.path
	}
	return address.String(), nil
}

// checkEnvironment returns what is wrong with the collector's address in the environment, without
// repeating it.
func checkEnvironment(s signal) error {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", s.variable} {
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

// resource describes the process. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before.
func (p *Process) resource(ctx context.Context) *resource.Resource {
	own := resource.NewWithAttributes(semconv.SchemaURL,
		semconv.ServiceName("relay"), semconv.ServiceVersion(p.Version), semconv.ServiceInstanceID(p.Instance), attribute.String("relay.id", p.RelayID))
	given, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil && given == nil { // a part that cannot be read is left out
		return own
	}
	both, err := resource.Merge(own, given)
	switch {
	case errors.Is(err, resource.ErrSchemaURLConflict): // the names are the same in both versions
		return resource.NewWithAttributes(semconv.SchemaURL, both.Attributes()...)
	case err != nil:
		return own
	}
	return both
}

// exportWatch tells how the export of a signal goes: the SDK's own way is a global handler that
// prints. It is safe for concurrent use.
type exportWatch struct {
	count  func(n int, err error)
	hide   func(string) string
	log    *zap.Logger
	what   string // "spans"
	failed string // the message if the collector does not take the data

	mu   sync.Mutex
	told time.Time // when a failure was logged last; zero while all is well
}

// quietFor is how long a collector that stays away is not spoken of again.
const quietFor = 10 * time.Minute

// note takes note of an attempt to hand over n items of the signal.
func (w *exportWatch) note(n int, err error) {
	w.count(n, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && (w.told.IsZero() || time.Since(w.told) > quietFor):
		w.told = time.Now()
		w.log.Warn(w.failed, zap.Int("count", n), zap.String("error", w.hide(err.Error())))
	case err == nil && !w.told.IsZero():
		w.told = time.Time{}
		w.log.Info("the collector takes " + w.what + " again")
	}
}
