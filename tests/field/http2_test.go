//go:build unix

package field

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// soon is how long an event may take that happens while the connection to the API is stalled. The
// machine that runs the tests may add to the 60 s that relay promises. Without relay's care it
// takes a quarter of an hour.
const soon = 2 * time.Minute

// behind puts a link in front of a server and returns the server's URL through it.
func behind(t testing.TB, url string) (*testkit.Link, string) {
	t.Helper()
	scheme, host, _ := strings.Cut(url, "://")
	l := testkit.NewLink(t, "127.0.0.1:0", host)
	return l, scheme + "://" + l.Address
}

// TestConnectionThatStalls: a network that forgets the connections it had, but serves new ones,
// costs no more than a minute.
func TestConnectionThatStalls(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"HTTP/2", "HTTP/1"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			var api *sourcetest.Server
			var url, trust string
			if version == "HTTP/2" {
				api, url, trust = newTLSAPI(t, backlog(300))
			} else {
				api = newAPI(t, backlog(300))
				url, trust = api.URL(), "RELAY_TEST=1"
			}
			link, through := behind(t, url)
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", natsConfig(through, bus.URL), trust)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 300 }, "the backlog is on the stream")
			before := link.Opened()
			link.StallExisting()
			appendEvents(t, api, source.UserCreated, 5, 0)
			awaitWithin(t, r, soon, func() bool { return countEvents(js, stream) == 305 }, "the events are on the stream")
			require.Greater(t, link.Opened(), before)
			require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream))
			r.awaitReady(t)
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestConnectionWhoseRequestsStall: a server that answers pings, and no request, is left for a new
// connection. So does a proxy whose backend is gone.
func TestConnectionWhoseRequestsStall(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]bool{"no header": false, "half a body": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := sourcetest.New(sourcetest.WithAPIKey(apiKey), backlog(300))
			type connKey struct{}
			var mu sync.Mutex
			stalled, opened := 0, 0 // connections with a number up to stalled bring nothing
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				mu.Lock()
				bad := req.Context().Value(connKey{}).(int) <= stalled //nolint:forcetypeassert // see ConnContext
				mu.Unlock()
				if !bad {
					api.ServeHTTP(w, req)
					return
				}
				if part {
					_, _ = w.Write([]byte(`{"object":"list","data":[`))
					_ = http.NewResponseController(w).Flush()
				}
				<-req.Context().Done()
			}))
			srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
				mu.Lock()
				defer mu.Unlock()
				opened++
				return context.WithValue(ctx, connKey{}, opened)
			}
			srv.EnableHTTP2 = true
			srv.StartTLS()
			t.Cleanup(func() {
				srv.CloseClientConnections()
				srv.Close()
			})
			file := filepath.Join(t.TempDir(), "ca.pem")
			require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", natsConfig(srv.URL, bus.URL), "SSL_CERT_FILE="+file)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 300 }, "the backlog is on the stream")
			mu.Lock()
			stalled = opened
			mu.Unlock()
			appendEvents(t, api, source.UserCreated, 5, 0)
			awaitWithin(t, r, soon, func() bool { return countEvents(js, stream) == 305 }, "the events are on the stream")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestNetworkThatSwallowsEverything: packets are lost for a while on old and new connections. It
// ends, and relay goes on at once.
func TestNetworkThatSwallowsEverything(t *testing.T) {
	t.Parallel()
	api, url, trust := newTLSAPI(t, backlog(300))
	link, through := behind(t, url)
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsConfig(through, bus.URL), trust)
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 300 }, "the backlog is on the stream")
	link.Set(testkit.Weather{Silent: true})
	link.StallExisting()
	appendEvents(t, api, source.UserCreated, 5, 0)
	r.Says(t, "a request to the Events API failed")
	link.StallExisting() // what was dialed meanwhile stays dead
	link.Set(testkit.Weather{})
	awaitWithin(t, r, soon, func() bool { return countEvents(js, stream) == 305 }, "the events are on the stream")
	require.Equal(t, exitDone, r.Stop(t))
}

// awaitWithin waits until cond holds, and fails if that takes longer than limit.
func awaitWithin(t testing.TB, r *relay, limit time.Duration, cond func() bool, what string) {
	t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) > limit {
			require.Fail(t, "not within "+limit.String()+": "+what, r.Tail(3000))
		}
		time.Sleep(often)
	}
	t.Logf("after %s: %s", time.Since(start).Round(time.Second), what)
}
