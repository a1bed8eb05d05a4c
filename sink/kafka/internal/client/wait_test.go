package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	for _, chance := range []float64{0, 0.999} {
		b := Retries
		b.Random = func() float64 { return chance }
		require.InDelta(t, float64(50*time.Millisecond)*(0.5+chance/2), float64(b.After(1)), float64(time.Microsecond))
		for n := range 100 {
			require.LessOrEqual(t, b.After(n), 2*time.Second)
			require.GreaterOrEqual(t, b.After(n), 25*time.Millisecond)
		}
	}
}
