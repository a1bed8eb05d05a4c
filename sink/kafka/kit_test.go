package kafka

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/internal/testaddr"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
	"workos-relay/sink/sinktest"
)

func harness(brokers func() []string) sinktest.Harness {
	sinkWith := func(t testing.TB, create bool) sink.Sink {
		cfg := config(t, brokers())
		cfg.Create.Enabled = create
		s, err := New(cfg)
		require.NoError(t, err)
		return s
	}
	return sinktest.Harness{
		Features: sinktest.Features{
			Partitions: true, RejectsTooLarge: true, LegalTopics: true, CreatesTopics: true, HoldsState: true,
		},
		IllegalTopics: []string{"with space", "slash/ed", "é", ".", "..", strings.Repeat("x", 250), ""},
		MaxMessage:    client.DefaultMessageBytes,
		New:           func(t testing.TB) sink.Sink { return sinkWith(t, true) },
		NewStrict:     func(t testing.TB) sink.Sink { return sinkWith(t, false) },
		Read: func(t testing.TB, topics []string) []sink.Message {
			var found []sink.Message
			for _, r := range readAll(t, brokers(), topics...) {
				m := sink.Message{Topic: r.Topic, Key: r.Key, Body: r.Value}
				for _, h := range r.Headers {
					m.Headers = append(m.Headers, sink.Header{Key: h.Key, Value: string(h.Value)})
				}
				found = append(found, m)
			}
			return found
		},
	}
}

func TestKitOnFake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := func(ports []int) (*kfake.Cluster, error) {
		return kfake.NewCluster(kfake.Ports(ports...), kfake.DataDir(dir))
	}
	c, err := start([]int{testaddr.Port(t), testaddr.Port(t), testaddr.Port(t)})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	addrs := c.ListenAddrs()
	h := harness(func() []string { return addrs })
	h.Disturb = func(t testing.TB) {
		for range 5 {
			c.ShufflePartitionLeaders()
			time.Sleep(10 * time.Millisecond) // leaves some requests to each leader
		}
	}
	h.Stop = func(testing.TB) { c.Close() }
	h.Start = func(t testing.TB) {
		for _, addr := range addrs {
			testaddr.Released(t, addr)
		}
		var err error
		c, err = start(portsOf(t, addrs))
		require.NoError(t, err)
	}
	sinktest.Run(t, h)
}

func TestKitOnRealKafka(t *testing.T) {
	brokers := realBrokers(t)
	admin := kadm.NewClient(reader(t, brokers))
	all, err := admin.ListTopics(within(t, patient))
	require.NoError(t, err)
	old := slices.DeleteFunc(all.Names(), func(name string) bool { return !strings.HasPrefix(name, "kit") })
	if len(old) > 0 {
		_, err = admin.DeleteTopics(within(t, patient), old...)
		require.NoError(t, err)
	}
	sinktest.Run(t, harness(func() []string { return brokers }))
}
