//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

// asNode, where set, makes the test binary a NATS server with the options that it holds as JSON.
const asNode = "RELAY_CHAOS_NATS_NODE"

type nodeOptions struct {
	Name      string
	Dir       string
	Port      int
	RoutePort int    // 0 for a server that is alone
	Routes    string // of all servers of the cluster
	Sync      bool   // sync_interval: always
}

func runNode() {
	var o nodeOptions
	if err := json.Unmarshal([]byte(os.Getenv(asNode)), &o); err != nil {
		panic(err)
	}
	opts := &server.Options{ServerName: o.Name, Host: "127.0.0.1", Port: o.Port, JetStream: true, StoreDir: o.Dir, SyncAlways: o.Sync, NoSigs: true}
	if o.RoutePort != 0 {
		// Clients stay on the addresses they were given, which are those of the links.
		opts.Cluster = server.ClusterOpts{Name: "chaos", Host: "127.0.0.1", Port: o.RoutePort, NoAdvertise: true}
		opts.Routes = server.RoutesFromStr(o.Routes)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		panic(err)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
}

// cluster is the servers of a JetStream.
type cluster struct {
	nodes []*testkit.Process
	ports []int
	js    jetstream.JetStream // of a client that goes round the links
}

func newCluster(t *testing.T, size int) *cluster {
	t.Helper()
	c := &cluster{}
	options := make([]nodeOptions, size)
	var routes []string
	for i := range options {
		options[i] = nodeOptions{Name: fmt.Sprintf("node%d", i), Dir: t.TempDir(), Port: testaddr.Port(t)}
		if size > 1 {
			options[i].RoutePort = testaddr.Port(t)
			routes = append(routes, "nats://"+testaddr.On(options[i].RoutePort))
		}
		c.ports = append(c.ports, options[i].Port)
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	var urls []string
	for _, o := range options {
		o.Routes = strings.Join(routes, ",")
		encoded, err := json.Marshal(o)
		require.NoError(t, err)
		p := testkit.NewProcess(t, o.Name, exe, []string{asNode + "=" + string(encoded)})
		p.Start(t)
		c.nodes = append(c.nodes, p)
		urls = append(urls, "nats://"+testaddr.On(o.Port))
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.Timeout(patient), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.RetryOnFailedConnect(true), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	c.js, err = jetstream.New(nc)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.js.AccountInfo(ctx)
		return err == nil
	}, patient, often, "no JetStream")
	return c
}

// info asks for the state of the stream; nil if nobody answers in time.
func (c *cluster) info() *jetstream.StreamInfo {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil
	}
	return s.CachedInfo()
}

// leader is the index of the node that leads the stream, -1 if there is none.
func (c *cluster) leader() int {
	if info := c.info(); info != nil && info.Cluster != nil {
		for i, n := range c.nodes {
			if n.Name == info.Cluster.Leader {
				return i
			}
		}
	}
	return -1
}

// whole reports whether every server has all of the stream.
func (c *cluster) whole() bool {
	info := c.info()
	if len(c.nodes) == 1 {
		return info != nil
	}
	if info == nil || info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != len(c.nodes)-1 {
		return false
	}
	for _, r := range info.Cluster.Replicas {
		if !r.Current || r.Offline {
			return false
		}
	}
	return true
}

// stepDown asks the leader of the stream to let another one lead.
func (c *cluster) stepDown() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = c.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil)
}
