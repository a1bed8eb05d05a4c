package testaddr

import (
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestNoPortTwice, also over the end of a block and of all ports.
func TestNoPortTwice(t *testing.T) {
	mu.Lock()
	next = ports - perBlock
	mu.Unlock()
	seen := map[int]bool{}
	for range 3 * perBlock {
		p := Port(t)
		require.False(t, seen[p], p)
		require.GreaterOrEqual(t, p, firstPort)
		require.Less(t, p, firstPort+ports)
		require.NotZero(t, (p-firstPort)%perBlock, "the first of a block is held")
		seen[p] = true
	}
}

// TestABlockOfAnotherProcess is left to that process.
func TestABlockOfAnotherProcess(t *testing.T) {
	const begin = ports / 2
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", On(firstPort+begin))
	if err == nil { // else another process has it, as here
		t.Cleanup(func() { _ = l.Close() })
	}
	mu.Lock()
	next = begin
	mu.Unlock()
	p := Port(t)
	require.False(t, p >= firstPort+begin && p < firstPort+begin+perBlock, p)
}

// TestReleased: an address can be listened on again at once, although programs are started all the
// time, which inherit what was listened on before.
func TestReleased(t *testing.T) {
	address := Free(t)
	var starts sync.WaitGroup
	defer starts.Wait()
	for range 20 {
		starts.Go(func() {
			assert.NoError(t, exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$").Run())
		})
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address)
		require.NoError(t, err)
		require.NoError(t, l.Close())
		Released(t, address)
	}
}
