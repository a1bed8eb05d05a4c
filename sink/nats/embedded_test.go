package nats

import (
	"net"
	"testing"

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

// TestEmbeddedKeepsWhatItStored stops and starts the embedded server, and reads over TCP as another program would.
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
		"no folder":    {func(e *EmbeddedConfig) { e.Dir = "" }, "set embedded.dir"},
		"not a folder": {func(e *EmbeddedConfig) { e.Dir = "/dev/null/x" }, "/dev/null"},
		"no port":      {func(e *EmbeddedConfig) { e.Listen = "127.0.0.1" }, "write host:port"},
		"bad port":     {func(e *EmbeddedConfig) { e.Listen = "127.0.0.1:70000" }, `"70000" is not a port`},
		"no such host": {func(e *EmbeddedConfig) { e.Listen = "203.0.113.1:4222" }, "cannot listen on 203.0.113.1:4222"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := embeddedConfig(t.TempDir())
			c.change(&cfg.Embedded)
			_, err := New(t.Context(), cfg)
			require.ErrorContains(t, err, c.want)
		})
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
