package telemetry

import (
	"net"
	"net/http"
	"sync"
	"time"

	"workos-relay/conf/tlsconf"
)

// defaultExport bounds one request to the collector, as OpenTelemetry's exporter does by default.
const defaultExport = 10 * time.Second

// newCollectorClient returns an HTTP client whose headers and TLS files are those of the moment of
// each request. It follows no redirect.
func newCollectorClient(cfg *Export) *http.Client {
	timeout := cfg.Timeout
	if timeout <= 0 {
		timeout = defaultExport
	}
	return &http.Client{
		Timeout: timeout, Transport: &collectorTransport{headers: cfg.Headers, tls: cfg.TLS},
		// A redirect would carry the headers to an address that nobody has configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// collectorTransport is a transport that is replaced when a file of its TLS section changes:
// http.Transport keeps one TLS configuration for good. It is safe for concurrent use.
type collectorTransport struct {
	headers map[string]func() string
	tls     *tlsconf.Live // nil for the system's authorities

	mu      sync.Mutex
	version uint64 // of the files that inner was made with
	inner   *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *collectorTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if len(t.headers) > 0 {
		req = req.Clone(req.Context())
		for name, value := range t.headers {
			req.Header.Set(name, value())
		}
	}
	return t.current().RoundTrip(req)
}

// current returns the transport for the files as they are. Requests under way end on the one
// before.
func (t *collectorTransport) current() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	var version uint64
	if t.tls != nil {
		version = t.tls.Version()
	}
	if t.inner != nil && t.version == version {
		return t.inner
	}
	if t.inner != nil {
		t.inner.CloseIdleConnections()
	}
	t.version = version
	t.inner = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          100,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	if t.tls != nil {
		t.inner.TLSClientConfig = t.tls.Config()
	}
	return t.inner
}

// CloseIdleConnections closes the connections that are kept for later requests.
func (t *collectorTransport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inner != nil {
		t.inner.CloseIdleConnections()
	}
}
