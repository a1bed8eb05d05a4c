//go:build unix

package field

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// cable forwards connections to an address until it is cut, and again once it is mended. It never
// corrupts what it forwards.
type cable struct {
	to   string
	ln   net.Listener
	mu   sync.Mutex
	down bool
	open map[net.Conn]struct{}
	done sync.WaitGroup
}

func newCable(t testing.TB, to string) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cable{to: to, ln: ln, open: map[net.Conn]struct{}{}}
	c.done.Go(c.serve)
	t.Cleanup(func() {
		_ = ln.Close()
		c.cut()
		c.done.Wait()
	})
	return c
}

func (c *cable) serve() {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return
		}
		c.done.Go(func() { c.carry(conn) })
	}
}

func (c *cable) carry(a net.Conn) {
	defer func() { _ = a.Close() }()
	if !c.add(a) {
		return
	}
	defer c.remove(a)
	b, err := net.Dial("tcp", c.to)
	if err != nil || !c.add(b) {
		return
	}
	defer c.remove(b)
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_, _ = a.Close(), b.Close()
		})
	}
	both.Wait()
}

func (c *cable) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		_ = conn.Close()
		return false
	}
	c.open[conn] = struct{}{}
	return true
}

func (c *cable) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = conn.Close()
	delete(c.open, conn)
}

// cut breaks every connection and refuses new ones.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = true
	for conn := range c.open {
		_ = conn.Close()
	}
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = false
}

// hubAndLeaf starts a hub and a leaf node of it, each with its own JetStream domain. The leaf
// reaches the hub through the cable.
func hubAndLeaf(t testing.TB) (hub, leaf *natsServer, link *cable) {
	t.Helper()
	port := testaddr.Port(t)
	hub = newNATS(t, func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "hub", "hub"
		o.LeafNode = server.LeafNodeOpts{Host: "127.0.0.1", Port: port, NoAdvertise: true} // so that the leaf knows the cable only
	})
	link = newCable(t, fmt.Sprintf("127.0.0.1:%d", port))
	leaf = newNATS(t, func(o *server.Options) {
		o.ServerName, o.JetStreamDomain = "leaf", "leaf"
		remote := &url.URL{Scheme: "nats", Host: link.ln.Addr().String()}
		o.LeafNode = server.LeafNodeOpts{
			ReconnectInterval: 200 * time.Millisecond,
			Remotes:           []*server.RemoteLeafOpts{{URLs: []*url.URL{remote}}},
		}
	})
	awaitLeaf(t, leaf)
	return hub, leaf, link
}

func awaitLeaf(t testing.TB, leaf *natsServer) {
	t.Helper()
	require.Eventually(t, func() bool { return leaf.NumLeafNodes() == 1 }, patient, often)
}

// TestLeafNode cuts the connection between a leaf node, to which relay is connected, and the hub,
// in whose domain its stream is, while the leaf has a stream of the same subjects. Nothing that
// only the leaf has stored counts.
func TestLeafNode(t *testing.T) {
	t.Parallel()
	for mode, key := range lostModes {
		for _, bind := range []string{"plain", "atomic"} {
			t.Run(mode+"/"+bind, func(t *testing.T) {
				t.Parallel()
				testLeafNode(t, key, bind == "atomic")
			})
		}
	}
}

func testLeafNode(t *testing.T, key string, atomic bool) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patient)
	defer cancel()
	hub, leaf, link := hubAndLeaf(t)
	onHub, onLeaf := hub.connect(t), leaf.connect(t)
	api := newAPI(t)
	appendEvents(t, api, "user.created", 5, 0)
	_, err := onLeaf.CreateStream(ctx, jetstream.StreamConfig{
		Name: stream, Subjects: []string{"user.>", "session.>", "relay.position.>"}, AllowRollup: true, AllowMsgTTL: true, AllowAtomicPublish: atomic,
	})
	require.NoError(t, err)
	config := sourceConfig(api.URL()) + fmt.Sprintf("takeover_after: 6s\nsinks: [{name: nats, type: nats, url: %q, domain: hub, ack_timeout: 3s%s}]\n", leaf.URL, key)
	r := newRelay(t, "relay", config)
	r.Start(t)
	r.Await(t, func() bool { return countEvents(onHub, stream) == 5 && r.Lane("").Events == 5 }, "the hub has the first events")
	stood := r.Lane("").Position.EventID

	for range 2 {
		link.cut()
		require.Eventually(t, func() bool { return leaf.NumLeafNodes() == 0 }, patient, often)
		appendEvents(t, api, "user.created", 100, 0)
		r.AwaitState(t, "", pipeline.Retrying)
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(often) {
			require.Equal(t, stood, r.Lane("").Position.EventID, "the position moves although the hub cannot be reached")
		}
		link.mend()
		awaitLeaf(t, leaf)
		want := api.IDs(sourcetest.Filter{})
		r.Await(t, func() bool { return countEvents(onHub, stream) >= len(want) }, "the hub has every event")
		r.AwaitState(t, "", pipeline.Running)
		r.Await(t, func() bool { return r.Lane("").Position.EventID == want[len(want)-1] }, "the position is that of the last event")
		if key == "" {
			require.Equal(t, want, eventIDs(t, onHub, stream), "exactly once, in order")
		}
		stood = want[len(want)-1]
	}
	require.NotContains(t, r.Output(), "checkpoint conflict")
	require.Equal(t, exitDone, r.Stop(t))
	verifyIsClean(t, r)
}

// TestDomainIsPartOfTheDestination changes the keys that say where the stream is: relay asks. A
// position of a version that did not record them is taken over.
func TestDomainIsPartOfTheDestination(t *testing.T) {
	t.Parallel()
	for mode, key := range lostModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			bus := newNATS(t, func(o *server.Options) { o.JetStreamDomain = "hub" })
			js := bus.connect(t)
			api := newAPI(t)
			r := newRelay(t, "relay", sourceConfig(api.URL()))
			admin, dir := r.Admin, r.Dir
			events := 0
			configure := func(keys string) {
				t.Helper()
				r.WriteConfig(t, sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q%s%s}]\ncheckpoint: {dir: %q}\nadmin: {listen: %q}\n",
					bus.URL, key, keys, dir, admin))
			}
			carries := func() {
				t.Helper()
				events += len(appendEvents(t, api, "user.created", 5, 0))
				r.Start(t)
				r.Await(t, func() bool { return countEvents(js, stream) == events }, "the stream has %d events", events)
				r.AwaitState(t, "", pipeline.Running)
				require.Equal(t, exitDone, r.Stop(t))
			}
			asks := func() {
				t.Helper()
				r.Start(t)
				require.Contains(t, endsWithQuestion(t, r), "the checkpoint belongs to destination")
			}

			configure("")
			carries()
			require.NoError(t, os.Remove(filepath.Join(dir, "workos.nats.destination"))) // as an earlier version left it
			configure(", domain: hub")
			carries()
			configure("")
			asks()
			configure(", api_prefix: $$JS.hub.API")
			asks()
			configure(", domain: hub")
			carries()

			configure("")
			last := api.IDs(sourcetest.Filter{})[events-1]
			code, out, errs := r.Run(t, "checkpoint", "set", last)
			require.Equal(t, exitDecides, code, out+errs)
			require.Contains(t, errs, "no position tells what lane nats has published", "the one that is there belongs to another destination")
			code, out, errs = r.Run(t, "checkpoint", "set", last, "--skip")
			require.Equal(t, exitDone, code, out+errs)
			carries()
			configure(", domain: hub")
			asks()
			require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream))
		})
	}
}
