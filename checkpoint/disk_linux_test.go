package checkpoint_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
)

// mount mounts something on dir until the test ends, or skips the test if that is not allowed.
func mount(t *testing.T, source, dir, kind string, flags uintptr, data string) {
	t.Helper()
	err := unix.Mount(source, dir, kind, flags, data)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		t.Skipf("SKIPPED: this test mounts a file system, which only root may: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestFileOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", 0, "size=128k")
	f, last := committed(t, dir, 3)

	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	require.NoError(t, err)
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, ballast.Close())

	for range 3 {
		_, err = f.Commit(t.Context(), last, checkpointtest.Full(9))
		require.ErrorIs(t, err, unix.ENOSPC)
		require.ErrorContains(t, err, mainPath(dir))
		require.ErrorContains(t, err, "stays in effect")
		have, err := f.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, last, have)
		require.Equal(t, last.Revision-1, decodeFile(t, previousPath(dir)).Revision)
		require.Len(t, fileNames(t, dir), 5, "a failed commit leaves nothing behind")
	}

	require.NoError(t, os.Remove(ballast.Name()))
	next, err := f.Commit(t.Context(), last, checkpointtest.Full(9))
	require.NoError(t, err, "it goes on once there is room")
	require.Equal(t, next, decodeFile(t, mainPath(dir)))
}

func TestFileOpenedOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", 0, "nr_inodes=1") // the directory itself is the one
	checked := checkpoint.CheckFile(dir, checkpointtest.Identity())
	_, err := checkpoint.OpenFile(dir, checkpointtest.Identity())
	require.ErrorIs(t, err, unix.ENOSPC)
	require.ErrorContains(t, err, "checkpoint.dir")
	require.EqualError(t, checked, err.Error())
}

func TestFileCheckedOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "tmpfs", 0, "size=128k")
	require.NoError(t, checkpoint.CheckFile(dir, checkpointtest.Identity()))
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	require.NoError(t, err)
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	require.NoError(t, ballast.Close())
	err = checkpoint.CheckFile(dir, checkpointtest.Identity())
	require.ErrorIs(t, err, unix.ENOSPC)
	require.ErrorContains(t, err, "checkpoint.dir")
	require.Equal(t, []string{"ballast"}, fileNames(t, dir))
}

func TestFileInAFolderThatTurnsReadOnly(t *testing.T) {
	dir := t.TempDir()
	f, last := committed(t, dir, 3)
	var writable func()
	if os.Geteuid() == 0 { // who may write to any directory
		mount(t, dir, dir, "", unix.MS_BIND, "")
		require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
		writable = func() { require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, "")) }
	} else {
		require.NoError(t, os.Chmod(dir, 0o500))
		writable = func() { require.NoError(t, os.Chmod(dir, 0o700)) }
	}

	for range 3 {
		_, err := f.Commit(t.Context(), last, checkpointtest.Full(9))
		require.Error(t, err)
		require.True(t, errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES), "%v", err)
		require.ErrorContains(t, err, "stays in effect")
		have, err := f.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, last, have)
	}
	_, err := f.Remove(t.Context())
	require.Error(t, err)
	_, err = checkpoint.ReadFile(dir, checkpointtest.Identity())
	require.NoError(t, err)

	writable()
	_, err = f.Commit(t.Context(), last, checkpointtest.Full(9))
	require.NoError(t, err)
}

// Without hard links, as on FAT, the previous checkpoint is copied.
func TestFileWithoutHardLinks(t *testing.T) {
	image := filepath.Join(t.TempDir(), "nolinks")
	require.NoError(t, os.Mkdir(image, 0o700))
	mount(t, "ramfs", image, "ramfs", 0, "")
	// A directory and one mounted over it are two mounts, between which nothing can be linked.
	f, last := committed(t, image, 2)
	inner := mainPath(image)
	mount(t, inner, inner, "", unix.MS_BIND, "")
	archived, err := f.Archive(t.Context())
	require.NoError(t, err)
	require.Equal(t, last, decodeFile(t, archived))
	link, err := os.Stat(archived)
	require.NoError(t, err)
	main, err := os.Stat(inner)
	require.NoError(t, err)
	require.False(t, os.SameFile(link, main), "it was linked, so this test shows nothing")
}
