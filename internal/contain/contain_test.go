package contain

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDo(t *testing.T) {
	t.Parallel()
	want := errors.New("no")
	require.NoError(t, Do(func() error { return nil }))
	require.Equal(t, want, Do(func() error { return want }))
	err := Do(func() error { var m map[string]int; m["x"] = 1; return nil })
	var p *PanicError
	require.ErrorAs(t, err, &p)
	require.Contains(t, p.Stack, "TestDo")
	require.ErrorContains(t, err, "assignment to entry in nil map")
	require.NotContains(t, err.Error(), "goroutine")
}
