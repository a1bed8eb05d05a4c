package checkpoint_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
)

// TestCheckFileSaysWhatOpenFileSays: the same error, and nothing is made.
func TestCheckFileSaysWhatOpenFileSays(t *testing.T) {
	t.Parallel()
	id := checkpointtest.Identity()
	for name, prepare := range map[string]func(t *testing.T, dir string) string{
		"it can be made":         func(_ *testing.T, dir string) string { return filepath.Join(dir, "a", "b") },
		"it is there":            func(_ *testing.T, dir string) string { return dir },
		"a file has its name":    file,
		"a file is in its way":   func(t *testing.T, dir string) string { return filepath.Join(file(t, dir), "a", "b") },
		"others may write to it": func(t *testing.T, dir string) string { require.NoError(t, os.Chmod(dir, 0o777)); return dir },
		"another has the lock": func(t *testing.T, dir string) string {
			f, err := checkpoint.OpenFile(dir, id)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, f.Close()) })
			return dir
		},
		"the lock is a link": func(t *testing.T, dir string) string {
			require.NoError(t, os.Symlink("/dev/null", checkpoint.Path(dir, id, "lock")))
			return dir
		},
		"the holder is a directory": func(t *testing.T, dir string) string {
			require.NoError(t, os.Mkdir(checkpoint.Path(dir, id, "holder"), 0o700))
			return dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			require.NoError(t, os.Chmod(parent, 0o700))
			dir := prepare(t, parent)
			before := names(t, parent)
			checked := checkpoint.CheckFile(dir, id)
			require.Equal(t, before, names(t, parent))
			f, err := checkpoint.OpenFile(dir, id)
			if err == nil {
				require.NoError(t, checked)
				require.NoError(t, f.Close())
				return
			}
			require.EqualError(t, checked, err.Error())
		})
	}
}

func file(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return path
}

// names returns the paths of everything below dir.
func names(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	}))
	return all
}

// TestCheckFileDoesNotKeepARelayFromStarting: an open at the same time waits for the instant in
// which the lock is held.
func TestCheckFileDoesNotKeepARelayFromStarting(t *testing.T) {
	t.Parallel()
	dir, id := t.TempDir(), checkpointtest.Identity()
	require.NoError(t, os.Chmod(dir, 0o700))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = checkpoint.CheckFile(dir, id) // it may find the store open
			}
		}
	}()
	for range 50 {
		f, err := checkpoint.OpenFile(dir, id)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	close(stop)
	<-done
}
