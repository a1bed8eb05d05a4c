package checkpoint_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// TestAVolumeWhoseRootEverybodyCanWriteTo: Kubernetes makes an emptyDir so, and only its pod
// reaches it.
func TestAVolumeWhoseRootEverybodyCanWriteTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0777,size=1m"); err != nil {
		t.Skip("no file system can be mounted here: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	for _, mode := range []uint32{0o777, 0o2777, 0o2775} {
		require.NoError(t, syscall.Chmod(dir, mode))
		f, err := checkpoint.OpenFile(dir, owner)
		require.NoError(t, err)
		_, err = f.Load(t.Context())
		require.ErrorIs(t, err, checkpoint.ErrNotFound)
		require.NoError(t, f.Close())
	}
}
