// Package testaddr finds addresses on which a test or a benchmark can listen, now and again later.
package testaddr

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Free returns an address on loopback that nobody listens on, with a port as Port has it.
func Free(t testing.TB) string {
	t.Helper()
	return On(Port(t))
}

// Port returns a port of loopback that nobody listens on. Ports are taken from below those that the
// system chooses from, and none twice, so that what listens there later is what the test has put
// there. None is among those that browsers refuse, of which 10080 is the highest.
func Port(t testing.TB) int {
	t.Helper()
	port, err := Find(t.Context())
	require.NoError(t, err)
	return port
}

// Find is Port for programs that are no test.
func Find(ctx context.Context) (port int, err error) {
	const firstPort, portRange, tries = 10_100, 20_000, 1000
	for range tries {
		port = firstPort + int(next.Add(1))%portRange
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", On(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no port is free: %w", err)
}

// On returns the address of a port of loopback.
func On(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// next begins elsewhere in each process.
var next atomic.Int64

func init() { next.Store(int64(os.Getpid()) * 131) }
