package toybus

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/sink"
	"workos-relay/sink/sinktest"
)

func open(t testing.TB, board string, id checkpoint.Identity) *sink.Opened {
	t.Helper()
	o, err := Config{Board: board}.Open(t.Context(), sink.OpenOptions{
		Identity: id,
		Secret: func(_ string, value secret.String, _ func(string) error) (*livefile.Current, error) {
			return livefile.Fixed(value), nil
		},
	})
	require.NoError(t, err)
	return o
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, sinktest.Harness{
		New: func(t testing.TB) sink.Sink { return open(t, "conformance", checkpoint.Identity{}).Bus },
		Read: func(_ testing.TB, topics []string) []sink.Message {
			return slices.DeleteFunc(Board("conformance").Messages(), func(m sink.Message) bool { return !slices.Contains(topics, m.Topic) })
		},
		Features: sinktest.Features{HoldsState: true},
	})
}

// onBoard is a board for one checkpoint.
type onBoard string

func (b onBoard) Open(t *testing.T, id checkpoint.Identity) checkpoint.Store {
	return sink.Positions(open(t, string(b), id).Ledger)
}

func TestPositions(t *testing.T) {
	t.Parallel()
	checkpointtest.Run(t, checkpointtest.Harness{
		NewPlace: func(t *testing.T) checkpointtest.Place { return onBoard(t.Name()) },
		Durable:  true,
		Shared:   true,
	})
}
