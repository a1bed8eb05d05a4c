package kafka

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// sessionBroker is a cluster whose sessions last for life and that counts logins by their user. A
// login beyond the first of a connection may be refused.
type sessionBroker struct {
	*kfake.Cluster
	logins, metadata atomic.Int64
}

func newSessionBroker(t *testing.T, life string) *sessionBroker {
	t.Helper()
	b := &sessionBroker{Cluster: fake(t, kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right"),
		kfake.Superuser("SCRAM-SHA-256", "relay", "right"), kfake.BrokerConfigs(map[string]string{"connections.max.reauth.ms": life}))}
	count := func(key kmsg.Key, n *atomic.Int64) {
		b.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
			b.KeepControl()
			n.Add(1)
			return nil, nil, false
		})
	}
	count(kmsg.SASLHandshake, &b.logins)
	count(kmsg.ApiVersions, &b.metadata) // one for each connection
	return b
}

// TestSessionsAreRenewed: a connection whose session ends logs in again and stays. Nothing is said
// about it. If the machine stands still for longer than is left of a session then, the broker ends
// it, and only then may the connection be replaced.
func TestSessionsAreRenewed(t *testing.T) {
	t.Parallel()
	const life, left = 2 * time.Second, 100 * time.Millisecond
	for _, mechanism := range []string{saslPlain, saslSCRAM256} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			b := newSessionBroker(t, strconv.FormatInt(life.Milliseconds(), 10))
			cfg := config(t, b.ListenAddrs())
			core, logs := observer.New(zapcore.InfoLevel)
			cfg.Logger = zap.New(core)
			cfg.SASL = SASL{Mechanism: mechanism, User: "relay", Password: "right"}
			s := open(t, cfg)
			require.NoError(t, s.Prepare(within(t, patient), []string{"a"}))
			require.NoError(t, s.Publish(within(t, patient), messages(0, 10, "a")))
			_ = logs.TakeAll()
			connections, renewals := b.metadata.Load(), b.logins.Load()-b.metadata.Load()
			var stood time.Time // when the machine did so last
			began := time.Now()
			for last, sent := began, 10; b.logins.Load()-b.metadata.Load() < renewals+2; sent += 10 {
				require.NoError(t, s.Publish(within(t, patient), messages(sent, 10, "a")))
				now := time.Now()
				require.Less(t, now.Sub(began), patient, "the connection in use does not log in again")
				if now.Sub(last) >= left {
					stood = now
				}
				last = now
				said, made := logs.TakeAll(), b.metadata.Load()
				if now.Sub(stood) > 2*life { // a login that is answered late is renewed late
					require.Equal(t, connections, made, "no connection is made")
					require.Empty(t, said)
				}
				connections = made
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

// TestSessionCannotBeRenewed: if a broker refuses to renew a session, relay connects again, and
// says nothing of a password.
func TestSessionCannotBeRenewed(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(req kmsg.Request) (kmsg.Response, error){
		"by error code": func(req kmsg.Request) (kmsg.Response, error) {
			resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
			resp.ErrorCode = kerr.IllegalSaslState.Code
			return resp, nil
		},
		"by hanging up": func(kmsg.Request) (kmsg.Response, error) { return nil, kerr.IllegalSaslState },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := fake(t, kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right"),
				kfake.BrokerConfigs(map[string]string{"connections.max.reauth.ms": "1600"}))
			var mu sync.Mutex
			opened, refused := 0, 0 // opened: connections that have not logged in yet
			b.ControlKey(int16(kmsg.ApiVersions), func(kmsg.Request) (kmsg.Response, error, bool) {
				b.KeepControl()
				mu.Lock()
				defer mu.Unlock()
				opened++
				return nil, nil, false
			})
			b.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
				b.KeepControl()
				mu.Lock()
				defer mu.Unlock()
				if opened > 0 { // the first of a connection
					opened--
					return nil, nil, false
				}
				refused++
				resp, err := refuse(req)
				return resp, err, true
			})
			cfg := config(t, b.ListenAddrs())
			core, logs := observer.New(zapcore.InfoLevel)
			cfg.Logger = zap.New(core)
			cfg.SASL = SASL{Mechanism: saslPlain, User: "relay", Password: "right"}
			s := open(t, cfg)
			require.NoError(t, s.Prepare(within(t, patient), []string{"a"}))
			began, enough := time.Now(), func() bool {
				mu.Lock()
				defer mu.Unlock()
				return refused >= 2
			}
			for i := 0; !enough(); i++ {
				require.NoError(t, s.Publish(within(t, patient), messages(i*10, 10, "a")))
				require.Less(t, time.Since(began), patient, "no session was to be renewed")
				time.Sleep(20 * time.Millisecond)
			}
			for _, entry := range logs.All() {
				require.NotContains(t, entry.Message, "password")
			}
			require.Empty(t, logs.FilterLevelExact(zapcore.ErrorLevel).All())
		})
	}
}
