//go:build unix

package field

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

// stream is the default name of relay's stream.
const stream = "WORKOS"

// natsServer is a nats-server with JetStream in this process, and a client of it.
type natsServer struct {
	*server.Server
	opts server.Options
	URL  string
	JS   jetstream.JetStream
}

// newNATS starts a server that stores in files and gives clients minutes to say who they are.
// change may alter its options; it may be nil.
func newNATS(t testing.TB, change func(*server.Options)) *natsServer {
	t.Helper()
	opts := server.Options{Host: "127.0.0.1", Port: testaddr.Port(t), JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		AuthTimeout: patient.Seconds(), TLSTimeout: patient.Seconds()}
	if change != nil {
		change(&opts)
	}
	n := &natsServer{opts: opts}
	n.start(t)
	t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
	return n
}

func (n *natsServer) start(t testing.TB) {
	t.Helper()
	opts := n.opts
	testaddr.Released(t, testaddr.On(opts.Port)) // by the server before this one
	s, err := server.NewServer(&opts)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patient))
	n.Server, n.URL = s, s.ClientURL()
}

// restart stops the server and starts it again with the same options and store.
func (n *natsServer) restart(t testing.TB) {
	t.Helper()
	n.Shutdown()
	n.WaitForShutdown()
	n.start(t)
}

// connect makes a client of JetStream for the test. It tries again if the server has closed the
// connection before it heard who the client is, as one inside relay does after two seconds.
func (n *natsServer) connect(t testing.TB, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	for began := time.Now(); ; time.Sleep(testkit.Interval(began)) {
		nc, err := nats.Connect(n.URL, append([]nats.Option{nats.Timeout(patient), nats.MaxReconnects(-1)}, opts...)...)
		if err != nil {
			require.Less(t, time.Since(began), patient, "%v", err)
			continue
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
		require.NoError(t, err)
		n.JS = js
		return js
	}
}

// natsConfig is a configuration file for one NATS sink with the defaults that users get.
func natsConfig(api, url string) string {
	return sourceConfig(api) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q}]\n", url)
}

// eventIDs returns the event-id header of every message of the stream that is not a position, in
// the order of the stream. It returns nothing if there is no such stream. It reads again if the
// server does not answer, as a cluster that elects a leader.
func eventIDs(t testing.TB, js jetstream.JetStream, name string) []string {
	t.Helper()
	for began := time.Now(); ; time.Sleep(testkit.Interval(began)) {
		ids, err := readEventIDs(js, name)
		if err == nil {
			return ids
		}
		require.Less(t, time.Since(began), patient, "%v", err)
	}
}

func readEventIDs(js jetstream.JetStream, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) || err == nil && s.CachedInfo().State.Msgs == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	var ids []string
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		if id := m.Headers().Get("event-id"); id != "" {
			ids = append(ids, id)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		if meta.NumPending == 0 {
			return ids, nil
		}
	}
}

// countEvents returns how many messages other than positions the stream holds; 0 if there is no
// such stream, -1 if there is no answer for a minute.
func countEvents(js jetstream.JetStream, name string) int {
	for range 6 { // a cluster may lose a question
		n, err := countOnce(js, name)
		if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
			return n
		}
	}
	return -1
}

func countOnce(js jetstream.JetStream, name string) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("relay.position.>"))
	if err != nil {
		return 0, err
	}
	positions := uint64(0)
	for _, n := range info.State.Subjects {
		positions += n
	}
	return int(info.State.Msgs - positions), nil //nolint:gosec // a small number
}
