package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	for code, want := range map[kafkago.Error]Outcome{
		0:                                    {Verdict: Stored},
		kafkago.DuplicateSequenceNumber:      {Verdict: Stored},
		kafkago.NotLeaderForPartition:        {Elsewhere, true},
		kafkago.NotEnoughReplicas:            {Again, false},
		kafkago.NotEnoughReplicasAfterAppend: {Again, true},
		kafkago.RequestTimedOut:              {Again, true},
		kafkago.Error(12345):                 {Again, true},
		kafkago.TopicAuthorizationFailed:     {Denied, false},
	} {
		require.Equal(t, want, Judge(code), "%d", code)
	}
	require.False(t, IsUnsent(errors.New("read: connection reset")))
}

// TestSilence: only a request that may have arrived can have been left without an answer, and one
// that was not answered in time once does not show that the cluster never answers it.
func TestSilence(t *testing.T) {
	t.Parallel()
	_, late := (&net.Dialer{Timeout: time.Nanosecond}).DialContext(t.Context(), "tcp", "127.0.0.1:1")
	require.ErrorIs(t, late, context.DeadlineExceeded)
	require.False(t, IsSilence(late), "no connection was made in time: %v", late)
	require.False(t, IsSilence(fmt.Errorf("asking: %w", late)))
	require.True(t, IsSilence(context.DeadlineExceeded))
	require.True(t, IsSilence(fmt.Errorf("asking: %w", io.EOF)))

	for err, times := range map[error]int{context.DeadlineExceeded: 2, io.EOF: 3} {
		for n := range 4 {
			require.Equal(t, n >= times, isMute(n, err), "%v, %d times", err, n)
		}
	}
}
