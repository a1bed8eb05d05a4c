package examples

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/router"
	"workos-relay/sink"
)

func TestNATSConsumersHandleEachEventOnce(t *testing.T) {
	for language, p := range programs(t) {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
				AuthTimeout: patient.Seconds()})
			require.NoError(t, err)
			srv.Start()
			t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
			require.True(t, srv.ReadyForConnections(patient))
			nc, err := nats.Connect(srv.ClientURL(), nats.Timeout(patient))
			require.NoError(t, err)
			t.Cleanup(nc.Close)
			js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
			require.NoError(t, err)
			stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WORKOS", Subjects: []string{topic, "other"}})
			require.NoError(t, err)

			c := &consumer{program: p, bus: "nats", data: t.TempDir(), env: []string{"NATS_URL=" + srv.ClientURL(), "CONSUMER=test", "ACK_WAIT=2"}}
			l := newLoad(t, router.NATS)
			l.run(t, c, func(batch []sink.Message) {
				for _, m := range batch {
					msg := &nats.Msg{Subject: m.Topic, Data: m.Body, Header: nats.Header{}}
					for _, h := range m.Headers {
						msg.Header.Set(h.Key, h.Value)
					}
					_, err := js.PublishMsg(t.Context(), msg)
					require.NoError(t, err)
				}
			})
			l.check(t, c, true)
			kept, err := stream.Consumer(t.Context(), "test")
			require.NoError(t, err)
			require.Equal(t, 1, kept.CachedInfo().Config.MaxAckPending)
			require.Less(t, kept.CachedInfo().NumPending, uint64(4), "at most the copies behind the last event are left")
		})
	}
}
