// Package testaddr finds addresses on which a test can listen now and again later.
package testaddr

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Free returns an address on loopback that nobody listens on. Ports are taken from below those that the system chooses from, and none
// twice, so that what listens there later is what the test has put there. None is among those that browsers refuse, of which 10080 is
// the highest.
func Free(t testing.TB) string {
	t.Helper()
	const firstPort, portRange, tries = 10_100, 20_000, 1000
	for range tries {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+int(next.Add(1))%portRange)
		if l, err := net.Listen("tcp", addr); err == nil { //nolint:noctx // it takes no time
			require.NoError(t, l.Close())
			return addr
		}
	}
	require.Fail(t, "no port is free")
	return ""
}

// next begins elsewhere in each process.
var next atomic.Int64

func init() { next.Store(int64(os.Getpid()) * 131) }
