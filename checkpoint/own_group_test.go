//go:build unix

package checkpoint

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTrustedGroup: the group of root and the private group of the user may write to directories of
// relay, and no other.
func TestTrustedGroup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		gid        uint32
		euid, egid int
		want       bool
	}{
		{0, 1000, 1000, true},
		{1000, 1000, 1000, true},
		{100, 1000, 1000, false},
		{100, 1000, 100, false}, // a group that others share
		{100, 0, 0, false},
	} {
		require.Equal(t, c.want, trustedGroup(c.gid, c.euid, c.egid), "%+v", c)
	}
}
