package client

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSequenceWraps(t *testing.T) {
	t.Parallel()
	s := Sequence{Session: Session{ID: 1, Epoch: 2}, Next: math.MaxInt32 - 1}
	s.Advance(1)
	require.EqualValues(t, math.MaxInt32, s.Next)
	s.Advance(3)
	require.EqualValues(t, 2, s.Next)
	s.Restart()
	require.Equal(t, Sequence{Session: Session{ID: 1, Epoch: 3}}, s)
	s.Epoch = math.MaxInt16
	s.Restart()
	require.False(t, s.Valid())
}
