//go:build unix

package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
)

const (
	apiKey  = "sk_test_soak"
	patient = 3 * time.Minute // how long what must come is waited for
)

// world is relay and all that is around it.
type world struct {
	api    *sourcetest.Server
	nats   *server.Server
	stored server.Options
	relay  *exec.Cmd
	ended  chan error // gets what relay's end was
	config string     // path
	admin  string
	log    string // path
	lanes  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		api: sourcetest.New(sourcetest.WithAPIKey(apiKey), sourcetest.WithLedger(0), sourcetest.WithPopulation(sourcetest.Population{Events: 20_000, Seed: 1})),
		stored: server.Options{
			Host: "127.0.0.1", Port: testaddr.Port(t), JetStream: true, StoreDir: filepath.Join(dir, "nats"), NoSigs: true, NoLog: true,
		},
		config: filepath.Join(dir, "config.yaml"), admin: testaddr.Free(t), log: filepath.Join(t.ArtifactDir(), "relay.log"),
		ended: make(chan error, 1), lanes: 1,
	}
	require.NoError(t, w.api.Start(""))
	t.Cleanup(func() { require.NoError(t, w.api.Close()) })
	w.startNATS(t)
	t.Cleanup(func() { w.stopNATS() })
	w.configure(t, 0)
	w.startRelay(t, dir)
	return w
}

// configure writes relay's configuration. Versions differ in what may change while relay runs.
func (w *world) configure(t *testing.T, version int) {
	t.Helper()
	kafka := ""
	if brokers := os.Getenv("RELAY_TEST_KAFKA"); brokers != "" {
		w.lanes = 2
		kafka = fmt.Sprintf("\n  - {name: kafka, type: kafka, brokers: [%s], topic_prefix: \"soak%d.\", create: {partitions: 2, replication_factor: 1}}", brokers, os.Getpid())
	}
	text := fmt.Sprintf(`id: soak%d
source: {endpoint: %q, api_key: %s, poll_interval: %dms, rate_limit: %d}
sinks:
  - {name: nats, type: nats, url: "nats://127.0.0.1:%d", create: {max_bytes: 256MiB}}%s
routes: [{events: ["dsync.*"], topic: directory}, {events: ["*"], topic: others}]
dead_letter: {topic: relay.dead_letter}
checkpoint: {dir: %q}
admin: {listen: %q}
`, os.Getpid(), w.api.URL(), apiKey, 100+10*(version%5), 200+version%2, w.stored.Port, kafka, filepath.Join(filepath.Dir(w.config), "data"), w.admin)
	require.NoError(t, os.WriteFile(w.config, []byte(text), 0o600))
}

func (w *world) startNATS(t *testing.T) {
	t.Helper()
	options := w.stored
	testaddr.Released(t, testaddr.On(options.Port)) // by the server before this one
	s, err := server.NewServer(&options)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patient))
	w.nats = s
}

func (w *world) stopNATS() {
	w.nats.Shutdown()
	w.nats.WaitForShutdown()
}

func (w *world) startRelay(t *testing.T, dir string) {
	t.Helper()
	binary := filepath.Join(dir, "relay")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary, "workos-relay/cmd/relay").CombinedOutput()
	require.NoError(t, err, "%s", out)
	log, err := os.Create(w.log)
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	w.relay = exec.Command(binary, "run", "--config", w.config, "--log-format", "json")
	w.relay.Stdout, w.relay.Stderr = log, log
	require.NoError(t, w.relay.Start())
	gone := make(chan struct{})
	go func() {
		w.ended <- w.relay.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		_ = w.relay.Process.Kill()
		<-gone
		if t.Failed() {
			text, _ := os.ReadFile(w.log)
			t.Logf("the end of relay's log:\n%s", text[max(0, len(text)-6000):])
		}
	})
}

// stopRelay ends relay in order.
func (w *world) stopRelay(t *testing.T) {
	t.Helper()
	require.NoError(t, w.relay.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-w.ended:
		require.NoError(t, err)
	case <-time.After(patient):
		require.Fail(t, "relay does not end")
	}
}

// scrape reads relay's metrics; the series of one name are added up.
func (w *world) scrape(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return sums(resp.Body)
}

func sums(text io.Reader) (map[string]float64, error) {
	out := map[string]float64{}
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		line := lines.Text()
		space := strings.LastIndexByte(line, ' ')
		if space < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		name, _, _ := strings.Cut(line[:space], "{")
		out[name] += value
	}
	if len(out) == 0 {
		return nil, errors.Join(lines.Err(), errors.New("there is nothing in it"))
	}
	return out, lines.Err()
}
