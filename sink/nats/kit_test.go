package nats

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/sink/sinktest"
)

var features = sinktest.Features{
	Dedupe: true, RejectsTooLarge: true, LegalTopics: true, CreatesTopics: true, HoldsState: true, AtomicPrefix: true,
}

// illegal are subjects that the server takes literally, or answers only with silence.
var illegal = []string{"a..b", "workos.*", "workos.>", ".a", "a.", "a b", "é.created", "a\tb"}

// illegalTopics are those that no topic of a lane may be, even as a pattern.
var illegalTopics = []string{"a..b", "*.workos", ">", "workos.x*", "workos.>.x", "*", ".a", "a.", "a b", "é.created", "a\tb"}

func harness(url string, js jetstream.JetStream, replicas int, ackTimeout time.Duration) sinktest.Harness {
	cfg := Config{URL: url, AckTimeout: ackTimeout, Create: Create{Enabled: true, Replicas: replicas}}
	return sinktest.Harness{
		Features: features, IllegalTopics: illegalTopics, MaxMessage: 1 << 20,
		New: func(t testing.TB) sink.Sink {
			s, err := New(context.Background(), cfg)
			require.NoError(t, err)
			return s
		},
		NewStrict: func(t testing.TB) sink.Sink {
			strict := cfg
			strict.Create.Enabled = false
			s, err := New(context.Background(), strict)
			require.NoError(t, err)
			return s
		},
		Read: func(t testing.TB, topics []string) []sink.Message { return readAll(t, js, defaultStream, topics) },
	}
}

func TestConformanceSingleServer(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	h := harness(srv.url(), client(t, srv.url()), 1, 15*time.Second) // less than the kit allows a Publish while the server is away
	h.Stop = func(testing.TB) { srv.stop() }
	h.Start = srv.start
	sinktest.Run(t, h)
}

// TestConformanceCluster runs the kit on a stream of three replicas whose leader steps down and
// whose leading server is restarted.
func TestConformanceCluster(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	js := client(t, cluster.url())
	h := harness(cluster.url(), js, 3, 2*time.Second)
	h.Elections = true
	turn := 0
	h.Disturb = func(t testing.TB) {
		leader := cluster.leader(t, js, defaultStream)
		if turn++; turn%3 == 0 {
			leader.stop()
			leader.start(t)
			return
		}
		stepDown(t, js.Conn())
	}
	sinktest.Run(t, h)
}

func stepDown(t testing.TB, nc *nats.Conn) {
	_, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+defaultStream, nil, question)
	if err != nil {
		t.Logf("step-down: %v", err)
	}
}
