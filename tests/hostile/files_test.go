//go:build linux

package hostile

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// TestFilesThatOthersCanChange puts links and pipes in the place of relay's files, and gives others
// the right to write to its directories. relay follows no link, writes to no other file, does not
// hang, and asks an operator; the right to write it names with the command that ends it.
func TestFilesThatOthersCanChange(t *testing.T) {
	t.Parallel()
	const lane = "workos.nats"
	for name, c := range map[string]struct {
		change func(t *testing.T, dir, victim string)
		says   string
	}{
		"the lock is a link": {func(t *testing.T, dir, victim string) {
			require.NoError(t, os.Remove(filepath.Join(dir, lane+".lock")))
			require.NoError(t, os.Symlink(victim, filepath.Join(dir, lane+".lock")))
		}, lane + ".lock is a symbolic link"},
		"the position is a link": {func(t *testing.T, dir, victim string) {
			require.NoError(t, os.Rename(filepath.Join(dir, lane+".checkpoint"), filepath.Join(dir, "moved")))
			require.NoError(t, os.Symlink("moved", filepath.Join(dir, lane+".checkpoint")))
		}, lane + ".checkpoint is a symbolic link"},
		"the position is a pipe": {func(t *testing.T, dir, victim string) {
			require.NoError(t, os.Remove(filepath.Join(dir, lane+".checkpoint")))
			require.NoError(t, syscall.Mkfifo(filepath.Join(dir, lane+".checkpoint"), 0o600))
		}, lane + ".checkpoint is not a regular file"},
		"everybody can write to the position": {func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Chmod(filepath.Join(dir, lane+".checkpoint"), 0o666))
		}, "chmod go-w "},
		"everybody can write to the directory": {func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Chmod(dir, 0o777))
		}, "chmod go-w "},
		"everybody can write to the stream": {func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Chmod(filepath.Join(dir, "jetstream"), 0o777))
		}, "chmod go-w "},
		"a temporary file is a link": {func(t *testing.T, dir, victim string) {
			for _, kind := range []string{".checkpoint.tmp", ".previous.tmp", ".holder.tmp", ".destination.tmp"} {
				require.NoError(t, os.Symlink(victim, filepath.Join(dir, lane+kind)))
			}
		}, ""},
		"the directory is like /tmp": {func(t *testing.T, dir, _ string) {
			require.NoError(t, syscall.Chmod(dir, 0o1777))
		}, ""},
		"the directory is a volume with fsGroup": {func(t *testing.T, dir, _ string) {
			require.NoError(t, syscall.Chmod(dir, 0o2775))
			require.NoError(t, syscall.Chmod(filepath.Join(dir, "jetstream"), 0o2775))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 20, Seed: 1}))
			r := testkit.NewRelay(t, relayBinary, "relay", embeddedConfig(api.URL(), testaddr.Free(t), "")+"delivery: at_least_once\non_stop: exit\n")
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("nats").AtTip }, "everything is published")
			require.Zero(t, r.Stop(t))

			victim := filepath.Join(t.TempDir(), "victim")
			require.NoError(t, os.WriteFile(victim, []byte("precious"), 0o600))
			c.change(t, r.Dir, victim)
			r.Start(t)
			if c.says == "" {
				r.AwaitState(t, "nats", pipeline.Running)
				r.Await(t, func() bool { return r.Lane("nats").AtTip }, "it goes on")
				require.Zero(t, r.Stop(t))
			} else {
				require.Equal(t, 3, r.Wait(t), r.Output())
				require.Contains(t, r.Output(), c.says)
			}
			text, err := os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, "precious", string(text))
		})
	}
}
