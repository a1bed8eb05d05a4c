package testaddr

import (
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
