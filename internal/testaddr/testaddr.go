// Package testaddr finds addresses on which a test or a benchmark can listen, now and again later.
package testaddr

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Free returns an address on loopback that nobody listens on, with a port as Port has it.
func Free(t testing.TB) string {
	t.Helper()
	return On(Port(t))
}

// Port returns a port of loopback that nobody listens on. Ports are taken from below those that the
// system chooses from, and none twice, by this or another process that uses this package, so that
// what listens there later is what the test has put there. None is among those that browsers
// refuse, of which 10080 is the highest.
func Port(t testing.TB) int {
	t.Helper()
	port, err := Find(t.Context())
	require.NoError(t, err)
	return port
}

// Find is Port for programs that are no test. It is safe for concurrent use.
func Find(ctx context.Context) (port int, err error) {
	mu.Lock()
	defer mu.Unlock()
	for range ports {
		if next%perBlock == 0 {
			if err = takeBlock(ctx); err != nil {
				return 0, err
			}
		}
		port = firstPort + next
		next++
		if !listens(ctx, On(port)) {
			return port, ctx.Err()
		}
	}
	return 0, fmt.Errorf("no port is free")
}

// listens reports whether anybody accepts connections on address. It connects instead of binding: a
// program that is being started would inherit a listener, and keep the port busy (see Released).
func listens(ctx context.Context, address string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// Released waits until nobody listens on address. Call it between the end of a server of this
// process and the start of the next one on the same address: a program that this process is just
// starting keeps a closed listener open until it runs, which takes long on a loaded machine.
func Released(t testing.TB, address string) {
	t.Helper()
	for range 15_000 { // five minutes
		if !listens(t.Context(), address) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.Fail(t, "somebody still listens on "+address)
}

// Test binaries run side by side. Each takes blocks of ports, by listening on the first port of a
// block until the process ends, so that no two of them hand out the same port.
const firstPort, ports, perBlock = 10_100, 20_000, 50

var (
	mu   sync.Mutex
	next int            // guarded by mu: the port to try next, from firstPort
	held []net.Listener // guarded by mu: never closed
)

// takeBlock finds a block that no other process has, from next on, and moves next into it.
func takeBlock(ctx context.Context) (err error) {
	for range ports / perBlock {
		next %= ports
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", On(firstPort+next)); err == nil {
			held = append(held, l)
			next++
			return nil
		}
		next += perBlock
	}
	return fmt.Errorf("no block of ports is free: %w", err)
}

func init() { next = os.Getpid() * 131 % ports / perBlock * perBlock }

// On returns the address of a port of loopback.
func On(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
