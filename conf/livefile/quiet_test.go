package livefile

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// TestAPieceIsWrittenDuringTheLook: what is written after relay has looked at the clock, and before
// it looks at the time of the file, is not taken for a file whose time lies in the future.
func TestAPieceIsWrittenDuringTheLook(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("first"), 0o600))
	set := NewSet(zap.NewNop())
	v, err := Secret(set, File{Key: "k", Path: path}, nil)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("a piece"), 0o600))
	calls := 0
	v.now = func() time.Time {
		now := time.Now()
		if calls++; calls == 2 { // the first is that of the look itself
			time.Sleep(50 * time.Millisecond) // longer than a tick of the clock of the file system
			require.NoError(t, os.WriteFile(path, []byte("a piece and the rest"), 0o600))
		}
		return now
	}
	require.Equal(t, "a piece and the rest", v.Latest())
	require.Greater(t, calls, 2)
}
