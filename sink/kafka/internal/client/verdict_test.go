package client

import (
	"errors"
	"testing"

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
