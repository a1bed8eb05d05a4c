package contain

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDo(t *testing.T) {
	t.Parallel()
	want := errors.New("no")
	require.NoError(t, Do(func() error { return nil }))
	require.Equal(t, want, Do(func() error { return want }))
	err := Do(func() error { var none []int; return fmt.Errorf("%d", none[len(os.Args)]) })
	var p *PanicError
	require.ErrorAs(t, err, &p)
	require.Contains(t, p.Stack, "TestDo")
	require.ErrorContains(t, err, "index out of range")
	require.NotContains(t, err.Error(), "goroutine")
}
