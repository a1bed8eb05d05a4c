package nats

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/internal/testrun"
)

// serverProcess, where set, makes the test binary a NATS server that stores there, until its
// standard input closes.
const serverProcess = "RELAY_TEST_NATS_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverProcess); dir != "" {
		port, err := strconv.Atoi(os.Getenv(serverProcess + "_PORT"))
		if err != nil {
			panic(err)
		}
		runServer(dir, port, os.Getenv(serverProcess+"_SYNC") == "always")
		return
	}
	testrun.ManyAtOnce()
	embeddedStop = patient
	os.Exit(m.Run())
}

func runServer(dir string, port int, syncAlways bool) {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, SyncAlways: syncAlways, NoLog: true, NoSigs: true,
	})
	if err != nil {
		panic(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patient) {
		panic("not ready")
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	srv.Shutdown()
	srv.WaitForShutdown()
}

// processServer is a NATS server in its own process, which can be killed and started again on
// the same port and store.
type processServer struct {
	dir, sync string
	port      int
	cmd       *exec.Cmd
	end       func() // asks it to stop
}

func startProcess(t testing.TB, sync string) *processServer {
	t.Helper()
	p := &processServer{dir: t.TempDir(), sync: sync, port: testaddr.Port(t)}
	p.start(t)
	t.Cleanup(func() {
		p.end()
		_ = p.cmd.Wait()
	})
	return p
}

func (p *processServer) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverProcess+"="+p.dir, fmt.Sprintf("%s_PORT=%d", serverProcess, p.port), serverProcess+"_SYNC="+p.sync)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p.cmd, p.end = cmd, func() { _ = stdin.Close() }
	_, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
}

// kill ends the process as a crash does.
func (p *processServer) kill(t testing.TB) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
}

func (p *processServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", p.port) }
