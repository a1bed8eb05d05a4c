package source

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTheProxyChangesUnderRequests: requests that run at the same time go by the proxy of the
// moment at which each began, and later ones by no earlier proxy.
func TestTheProxyChangesUnderRequests(t *testing.T) {
	t.Parallel()
	const proxies = 4
	var asked [proxies]atomic.Int64
	var urls [proxies]*url.URL
	for i := range urls {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Host != "api.test" || req.Header.Get("Proxy-Authorization") == "" {
				http.Error(w, "no request to a proxy", http.StatusBadRequest)
				return
			}
			asked[i].Add(1)
			_, _ = fmt.Fprint(w, `{"object":"list","data":[],"list_metadata":{"before":null,"after":null}}`)
		}))
		t.Cleanup(srv.Close)
		u, err := url.Parse(srv.URL)
		require.NoError(t, err)
		u.User = url.UserPassword("relay", "secret")
		urls[i] = u
	}
	var now atomic.Pointer[url.URL]
	now.Store(urls[0])
	c := &Client{APIKey: "sk_test", Endpoint: "http://api.test", Proxy: now.Load}
	t.Cleanup(c.CloseIdleConnections)
	for i := range urls {
		now.Store(urls[i])
		var all sync.WaitGroup
		errs := make(chan error, 16)
		for range cap(errs) {
			all.Go(func() {
				_, err := c.ListEvents(t.Context(), ListEventsOpts{Events: []string{"user.created"}})
				errs <- err
				_ = c.ProxyInUse(t.Context())
			})
		}
		if i+1 < proxies { // while they run
			now.Store(urls[i+1])
		}
		all.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
	}
	before := asked[proxies-1].Load()
	_, err := c.ListEvents(t.Context(), ListEventsOpts{Events: []string{"user.created"}})
	require.NoError(t, err)
	require.Equal(t, before+1, asked[proxies-1].Load())
	require.NotContains(t, c.ProxyInUse(t.Context()), "secret")
}

// TestTransportErrorsKeepTheCredentials: what a proxy says may repeat the password in each form in
// which it was sent.
func TestTransportErrorsKeepTheCredentials(t *testing.T) {
	t.Parallel()
	u, err := url.Parse("http://relay:p%40ss%2Fw@proxy.test:3128")
	require.NoError(t, err)
	w := &way{proxy: u, given: true, scheme: "https", target: "api.test:443"}
	for _, text := range []string{"p@ss/w", "p%40ss%2Fw", "Basic cmVsYXk6cEBzcy93"} {
		said := w.connectError(fmt.Errorf("malformed HTTP response %q", text)).Error()
		require.NotContains(t, said, text)
		require.Contains(t, said, "[secret]")
		require.Contains(t, said, "the proxy proxy.test:3128 does not answer as a proxy")
	}
}
