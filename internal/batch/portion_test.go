package batch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
)

// TestASingleFailureDoesNotKeepABatchSmall: a bus that refuses now and then, at once, says nothing
// about the size of a batch. Batches that were halved grow again meanwhile.
func TestASingleFailureDoesNotKeepABatchSmall(t *testing.T) {
	t.Parallel()
	const most = 64
	page := make([]source.Event, most)
	var p portion
	for range 3 {
		p.failed(page[:p.cut(page)], time.Millisecond, false, 0)
	}
	require.Equal(t, most/4, p.cut(page))
	for rounds := 0; p.cut(page) < most; rounds++ {
		require.Less(t, rounds, 3*growAfter)
		n := p.cut(page)
		p.succeeded(page[:n], n, time.Second, most, 1)
		p.failed(page[:p.cut(page)], time.Millisecond, false, 0)
	}
}
