package source_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// TestAStallEndsTheConnection: if a connection brings nothing, for any reason, an event that
// happens meanwhile is read within a minute, on its own connection.
func TestAStallEndsTheConnection(t *testing.T) {
	t.Parallel()
	for name, stall := range map[string]func(*sourcetest.Server, *sourcetest.Wire){
		"nothing passes":                 func(_ *sourcetest.Server, w *sourcetest.Wire) { w.Freeze() },
		"pings pass, no header comes":    func(s *sourcetest.Server, _ *sourcetest.Wire) { s.Fail(1, sourcetest.Hang()) },
		"pings pass, no body comes":      func(s *sourcetest.Server, _ *sourcetest.Wire) { s.Fail(1, sourcetest.Stall(0)) },
		"pings pass, half a body comes":  func(s *sourcetest.Server, _ *sourcetest.Wire) { s.Fail(1, sourcetest.Stall(0.5)) },
		"a backend that is out of order": func(s *sourcetest.Server, _ *sourcetest.Wire) { s.Fail(2, sourcetest.Status(503)) },
		"a backend that breaks off":      func(s *sourcetest.Server, _ *sourcetest.Wire) { s.Fail(2, sourcetest.Reset()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 150, Seed: 1}))
				w := wire(t, srv)
				c := &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: "https://" + sourcetest.WireHost}
				c.DialWith(w.Dial, w.TLS())
				t.Cleanup(c.CloseIdleConnections)
				s := &source.Stream{Client: c, Events: allTypes(t)}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				var since time.Time
				tips := 0
				for page, err := range s.Pages(ctx, checkpoint.Position{}) {
					require.NoError(t, err)
					if !since.IsZero() && len(page.Events) > 0 {
						require.Equal(t, 2, w.Dialed(), "one connection before, and one after")
						require.Less(t, time.Since(since), time.Minute)
						return
					}
					if page.Tip {
						tips++
					}
					if tips == 3 {
						require.Equal(t, 1, w.Dialed())
						require.NoError(t, srv.Append([]byte(`{"object":"event","id":"event_late","event":"user.created","data":{},"created_at":"`+
							time.Now().UTC().Format(time.RFC3339Nano)+`"}`)))
						since = time.Now()
						stall(srv, w)
					}
				}
				require.Fail(t, "the event was not read")
			})
		})
	}
}

// TestAHealthyConnectionIsKept: pauses, single failures and answers that blame the request cost no
// connection.
func TestAHealthyConnectionIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 1000, Seed: 1}))
		w := wire(t, srv)
		c := &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: "https://" + sourcetest.WireHost}
		c.DialWith(w.Dial, w.TLS())
		t.Cleanup(c.CloseIdleConnections)
		s := &source.Stream{Client: c, Events: allTypes(t), PollInterval: time.Minute}
		for _, f := range []sourcetest.Fault{
			sourcetest.OK(), sourcetest.Status(503), sourcetest.OK(), sourcetest.TooManyRequests(time.Second, 0), sourcetest.TooManyRequests(time.Second, 0),
			sourcetest.Slow(25*time.Second, 0), sourcetest.Trickle(40 * time.Second), sourcetest.Malformed(),
		} {
			srv.Fail(1, f)
		}
		pages := 0
		for _, err := range s.Pages(t.Context(), checkpoint.Position{}) {
			require.NoError(t, err)
			if pages++; pages == 30 {
				break
			}
		}
		require.Equal(t, 1, w.Dialed())
	})
}

// TestAGivenHTTPClientIsUsedAsItIs: no timeout but the client's own is added, and its connections
// stay.
func TestAGivenHTTPClientIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 10, Seed: 1}))
		w := wire(t, srv)
		transport := &http.Transport{DialContext: w.Dial, TLSClientConfig: w.TLS(), ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		c := &source.Client{
			APIKey: sourcetest.DefaultAPIKey, Endpoint: "https://" + sourcetest.WireHost, HTTPClient: &http.Client{Transport: transport}, Timeout: 5 * time.Minute,
		}
		srv.Fail(1, sourcetest.Slow(4*time.Minute, 0))
		list, err := c.ListEvents(t.Context(), source.ListEventsOpts{Events: allTypes(t), Limit: 100, Order: "asc"})
		require.NoError(t, err)
		require.Len(t, list.Data, 10)
		srv.Fail(3, sourcetest.Hang())
		for range 3 {
			start := time.Now()
			_, err = c.ListEvents(t.Context(), source.ListEventsOpts{Events: allTypes(t)})
			require.Error(t, err)
			require.Equal(t, 5*time.Minute, time.Since(start))
		}
		require.Equal(t, 1, w.Dialed())
	})
}
