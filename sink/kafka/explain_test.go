package kafka

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestExplainedOnce: an error that several hands pass on says once what it most likely means, and still is what it was.
func TestExplainedOnce(t *testing.T) {
	t.Parallel()
	s := open(t, config(t, []string{"127.0.0.1:1"}))
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	once := s.explain(fmt.Errorf("asking for the offsets of kafka topics: %w", refused))
	for _, again := range []error{once, s.explain(once), s.explainTopic(fmt.Errorf("reading the position: %w", once), "a")} {
		require.Equal(t, 1, strings.Count(again.Error(), "does not accept connections"), "%v", again)
		require.ErrorIs(t, again, syscall.ECONNREFUSED)
	}
}
