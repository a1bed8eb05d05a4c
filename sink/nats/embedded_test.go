package nats

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func embeddedConfig(dir string) Config {
	return Config{
		URL: Embedded, AckTimeout: patient, Create: Create{Enabled: true},
		Embedded: EmbeddedConfig{Dir: dir, Listen: "127.0.0.1:0", SyncAlways: true},
	}
}

// TestEmbeddedKeepsWhatItStored stops and starts the embedded server, and reads over TCP as another
// program would.
func TestEmbeddedKeepsWhatItStored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round, want := range []string{"e0 e1", "e0 e1 e2 e3"} {
		s, err := New(t.Context(), embeddedConfig(dir))
		require.NoError(t, err)
		require.NoError(t, s.Prepare(t.Context(), []string{topic}))
		held, err := s.Holds(t.Context(), []string{topic})
		require.NoError(t, err)
		require.Equal(t, round == 1, held)
		require.NoError(t, s.Publish(t.Context(), numbered(4)[2*round:2*round+2]))
		require.Equal(t, want, bodies(t, client(t, s.Address())))
		require.NoError(t, s.Close())
	}
}

func TestEmbeddedPortInUse(t *testing.T) {
	t.Parallel()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	cfg := embeddedConfig(t.TempDir())
	cfg.Embedded.Listen = ln.Addr().String()
	_, err = New(t.Context(), cfg)
	require.ErrorContains(t, err, "cannot listen on "+ln.Addr().String())
	require.ErrorContains(t, err, "set url to nats://"+ln.Addr().String())
	require.ErrorContains(t, err, "embedded.listen")
}

func TestEmbeddedFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*EmbeddedConfig)
		want   string
	}{
		"no directory":    {func(e *EmbeddedConfig) { e.Dir = "" }, "set embedded.dir"},
		"not a directory": {func(e *EmbeddedConfig) { e.Dir = "/dev/null/x" }, "/dev/null"},
		"no port":         {func(e *EmbeddedConfig) { e.Listen = "127.0.0.1" }, "write host:port"},
		"bad port":        {func(e *EmbeddedConfig) { e.Listen = "127.0.0.1:70000" }, `"70000" is not a port`},
		"no such host":    {func(e *EmbeddedConfig) { e.Listen, e.Token = "203.0.113.1:4222", "0123456789abcdef" }, "cannot listen on 203.0.113.1:4222"},
		"anybody":         {func(e *EmbeddedConfig) { e.Listen = "0.0.0.0:0" }, "can be reached from other machines"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := embeddedConfig(t.TempDir())
			c.change(&cfg.Embedded)
			_, err := New(t.Context(), cfg)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestTheEmbeddedServerKeepsAPlaceForItsOwnConnection takes every place of the server and breaks
// relay's connection.
func TestTheEmbeddedServerKeepsAPlaceForItsOwnConnection(t *testing.T) {
	t.Parallel()
	cfg := embeddedConfig(t.TempDir())
	cfg.Embedded.MaxConnections = 4
	s, err := New(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	srv := s.embedded.srv
	list, err := srv.Connz(nil)
	require.NoError(t, err)
	require.Len(t, list.Conns, 1)
	var clients []*nats.Conn
	for range cfg.Embedded.MaxConnections {
		nc, err := nats.Connect(s.Address(), nats.NoReconnect(), nats.Timeout(patient))
		require.NoError(t, err)
		defer nc.Close()
		clients = append(clients, nc)
	}
	_, err = nats.Connect(s.Address(), nats.NoReconnect(), nats.Timeout(patient))
	require.Error(t, err, "there is no place left")
	require.NoError(t, srv.DisconnectClientByID(list.Conns[0].Cid))
	late, err := nats.Connect(s.Address(), nats.NoReconnect(), nats.Timeout(patient))
	if err == nil { // it was quicker than relay
		defer late.Close()
	}
	// The first attempt may still meet the connection that was broken.
	again(t, "publishing", func(ctx context.Context) error { return s.Publish(ctx, numbered(3)) })
	require.True(t, clients[0].IsConnected(), "the newest client makes room")
}

func TestTheLogOfTheEmbeddedServerIsBounded(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	cfg := embeddedConfig(t.TempDir())
	cfg.Embedded.User, cfg.Embedded.Password = "relay", "s3cret-s3cret-s3cret"
	cfg.Logger = zap.New(core)
	s, err := New(t.Context(), cfg)
	require.NoError(t, err)
	begin := time.Now()
	for range 5 * logBurst {
		_, err := nats.Connect(s.Address(), nats.UserInfo("s3cret-s3cret-s3cret", ""), nats.NoReconnect(), nats.Timeout(patient))
		require.Error(t, err) // nats.ErrAuthorization, unless the server has closed the connection before it is read
	}
	require.NoError(t, s.Close())
	lines := logs.FilterLevelExact(zapcore.ErrorLevel).All()
	require.NotEmpty(t, lines)
	require.LessOrEqual(t, len(lines), logBurst+1+int(time.Since(begin)/logEvery))
	for _, line := range lines {
		require.NotContains(t, line.Message, "s3cret")
	}
}

func TestServerLogGoesToZap(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	cfg := embeddedConfig(t.TempDir())
	cfg.Logger = zap.New(core)
	s, err := New(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NotZero(t, logs.FilterLoggerName("nats-server").Len())
	require.Zero(t, logs.FilterLevelExact(zapcore.ErrorLevel).Len())
}
