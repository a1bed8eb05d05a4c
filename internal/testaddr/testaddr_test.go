package testaddr

import (
	"net"
	"testing"

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
