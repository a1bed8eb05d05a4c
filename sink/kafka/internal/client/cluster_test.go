package client

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/conf/livefile"
)

// connectTo returns a cluster of a client without TLS and SASL.
func connectTo(t testing.TB, brokers []string) *Cluster {
	t.Helper()
	return NewCluster(t.Context(), Config{Brokers: brokers, ClientID: "relay-test", RequestTimeout: patient})
}

// TestEndedContextSendsNothing: the transport would send on a free connection although the context
// has ended.
func TestEndedContextSendsNothing(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(6, "a"))
	cluster := connectTo(t, c.ListenAddrs())
	_, err := cluster.Settings(t.Context(), []string{"a"})
	require.NoError(t, err)
	seen := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Observe: true, Count: -1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		_, err := cluster.Settings(ctx, []string{"a"})
		require.ErrorIs(t, err, context.Canceled)
	}
	_, err = cluster.Settings(t.Context(), []string{"a"})
	require.NoError(t, err)
	require.Equal(t, 1, seen.Hits())
}

// TestBrokerIsSilentInTheHandshake: kafka-go sets no deadline for SASL, and would leave the
// connection and its goroutine behind.
func TestBrokerIsSilentInTheHandshake(t *testing.T) {
	c := fake(t, kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "secret"))
	closed := make(chan struct{}, 100)
	front, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = front.Close() })
	go func() {
		for {
			conn, err := front.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close(); closed <- struct{}{} }()
				to, err := net.Dial("tcp", c.ListenAddrs()[0])
				if err != nil {
					return
				}
				defer func() { _ = to.Close() }()
				go func() { // the first answer, and nothing of the others
					size := make([]byte, frameSizeBytes)
					if _, err := io.ReadFull(to, size); err == nil {
						_, _ = conn.Write(size)
						_, _ = io.CopyN(conn, to, int64(binary.BigEndian.Uint32(size)))
					}
				}()
				_, _ = io.Copy(to, conn)
			}()
		}
	}()
	mechanism, err := PlainMechanism("relay", livefile.Fixed("secret"))
	require.NoError(t, err)
	cluster := NewCluster(t.Context(), Config{
		Brokers: []string{front.Addr().String()}, ClientID: "relay-test", RequestTimeout: 300 * time.Millisecond, SASL: mechanism,
	})
	for range 3 {
		_, err = cluster.Describe(within(t, patient), []string{"users"})
		require.Error(t, err)
	}
	for range 3 {
		select {
		case <-closed:
		case <-time.After(patient):
			require.Fail(t, "a connection stays open")
		}
	}
}
