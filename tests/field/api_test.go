//go:build unix

package field

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

const apiKey = "sk_test_field"

// newAPI starts a fake Events API over HTTP/1. Without options it has no events: see serveEvents.
func newAPI(t testing.TB, opts ...sourcetest.Option) *sourcetest.Server {
	t.Helper()
	api := sourcetest.New(append([]sourcetest.Option{sourcetest.WithAPIKey(apiKey)}, opts...)...)
	require.NoError(t, api.Start(""))
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	return api
}

// newTLSAPI starts a fake Events API over TLS that speaks HTTP/2 and HTTP/1. relay trusts it with
// the returned environment.
func newTLSAPI(t testing.TB, opts ...sourcetest.Option) (api *sourcetest.Server, url, trust string) {
	t.Helper()
	api = sourcetest.New(append([]sourcetest.Option{sourcetest.WithAPIKey(apiKey)}, opts...)...)
	srv := httptest.NewUnstartedServer(api)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, cert, 0o600))
	return api, srv.URL, "SSL_CERT_FILE=" + file
}

// onceClient makes a connection for each request: relay closes one that stands still for seconds,
// and a request may be lost on it.
var onceClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// answered asks until there is an answer, and returns its code: relay hangs up on a client that
// takes seconds to say what it wants.
func answered(t testing.TB, ask func() (code int)) (code int) {
	t.Helper()
	testkit.Eventually(t, func() bool { code = ask(); return code != 0 }, "relay does not answer")
	return code
}

// backlog is n generated events that end now.
func backlog(n int) sourcetest.Option {
	return sourcetest.WithPopulation(sourcetest.Population{Events: n, Seed: 1})
}

// appendEvents adds n events of a type at the end of the list, a millisecond apart and ending now,
// and returns their ids. Their data has pad bytes of text.
func appendEvents(t testing.TB, api *sourcetest.Server, eventType string, n, pad int) []string {
	t.Helper()
	ids := make([]string, n)
	begin := time.Now().Add(-time.Duration(n) * time.Millisecond)
	for i := range ids {
		ids[i] = fmt.Sprintf("event_%020d_%06d", begin.UnixNano(), i)
		at := begin.Add(time.Duration(i) * time.Millisecond).UTC().Format("2006-01-02T15:04:05.000Z")
		raw := fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":{"id":"user_%d","pad":%q},"created_at":%q}`,
			ids[i], eventType, i, padding(i, pad), at)
		require.NoError(t, api.Append(raw))
	}
	return ids
}

// padding returns n letters that do not compress well.
func padding(seed, n int) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	b := make([]byte, n)
	x := uint64(seed)*2862933555777941757 + 3037000493 //nolint:gosec // a number for a generator
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = letters[x>>32%64]
	}
	return string(b)
}

// sourceConfig is the source section of a configuration file. Events are polled often, so that
// tests end soon.
func sourceConfig(url string) string {
	return fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms}\n", url, apiKey)
}
