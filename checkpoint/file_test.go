package checkpoint_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/internal/operator"
)

func openFile(t *testing.T, dir string, opts ...checkpoint.FileOption) *checkpoint.File {
	t.Helper()
	f, err := checkpoint.OpenFile(dir, checkpointtest.Identity(), opts...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// committed returns a store in a new directory after n commits, and the last one.
func committed(t *testing.T, dir string, n int) (*checkpoint.File, checkpoint.Checkpoint) {
	t.Helper()
	f := openFile(t, dir)
	var c checkpoint.Checkpoint
	for i := range n {
		var err error
		c, err = f.Commit(t.Context(), c, checkpointtest.Full(i))
		require.NoError(t, err)
	}
	return f, c
}

func mainPath(dir string) string     { return filepath.Join(dir, "workos.kit.checkpoint") }
func previousPath(dir string) string { return filepath.Join(dir, "workos.kit.previous") }

func fileNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func decodeFile(t *testing.T, path string) checkpoint.Checkpoint {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	c, err := checkpoint.Decode(data)
	require.NoError(t, err)
	return c
}

func TestFileMakesItsFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "relay-data")
	_, err := checkpoint.ReadFile(dir, checkpointtest.Identity())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)
	require.NoDirExists(t, dir, "looking makes no folder")

	committed(t, dir, 3)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	require.Equal(t, []string{"workos.kit.checkpoint", "workos.kit.holder", "workos.kit.lock", "workos.kit.previous"}, fileNames(t, dir))
	for _, name := range fileNames(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), name)
	}
}

func TestFileKeepsThePreviousOne(t *testing.T) {
	dir := t.TempDir()
	f, last := committed(t, dir, 1)
	require.NoFileExists(t, previousPath(dir))
	for n := 1; n < 4; n++ {
		next, err := f.Commit(t.Context(), last, checkpointtest.Full(n))
		require.NoError(t, err)
		require.Equal(t, last, decodeFile(t, previousPath(dir)))
		require.Equal(t, next, decodeFile(t, mainPath(dir)))
		last = next
	}
	read, err := checkpoint.ReadFile(dir, checkpointtest.Identity())
	require.NoError(t, err, "reading needs no lock")
	require.Equal(t, last, read)
}

func TestFileLanesShareAFolder(t *testing.T) {
	dir := t.TempDir()
	stores := map[string]*checkpoint.File{}
	// Relay a.b with lane c, and relay a with lane b.c, are not the same, and a name does not leave
	// the directory.
	for _, name := range [][2]string{{"a.b", "c"}, {"a", "b.c"}, {"../x", "y"}, {"é", "%C3%A9"}} {
		id := checkpointtest.Identity()
		id.Relay, id.Lane = name[0], name[1]
		f, err := checkpoint.OpenFile(dir, id)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		next := checkpointtest.Full(1)
		next.Source = id
		_, err = f.Commit(t.Context(), checkpoint.Checkpoint{}, next)
		require.NoError(t, err)
		stores[f.Holder()] = f
	}
	require.Len(t, stores, 4, "each lane has its own holder")
	require.Len(t, fileNames(t, dir), 12)

	_, err := checkpoint.OpenFile(dir, checkpoint.Identity{Relay: "workos"})
	require.ErrorContains(t, err, "name of the sink")
}

func TestFileRefusesWhatItCannotTrust(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(t *testing.T, dir string, good []byte) []byte
		is     error
		says   []string
	}{
		"empty": {func(*testing.T, string, []byte) []byte { return nil }, checkpoint.ErrCorrupt, []string{"it is empty", "workos.kit.previous"}},
		"short": {func(_ *testing.T, _ string, good []byte) []byte { return good[:100] }, checkpoint.ErrCorrupt, []string{"cut short after 100 bytes"}},
		"altered": {func(_ *testing.T, _ string, good []byte) []byte {
			return []byte(strings.Replace(string(good), "holder-1", "holder-2", 1))
		}, checkpoint.ErrCorrupt, []string{"altered"}},
		"newer": {func(_ *testing.T, _ string, good []byte) []byte {
			return []byte(strings.Replace(string(good), `checkpoint":3,`, `checkpoint":7,`, 1))
		}, checkpoint.ErrCorrupt, []string{"format version 7", "written by a newer relay"}},
		"endless": {func(_ *testing.T, _ string, good []byte) []byte {
			return append(good, make([]byte, 2*checkpoint.MaxEncoded)...)
		}, checkpoint.ErrCorrupt, []string{"longer than"}},
		"no previous": {func(t *testing.T, dir string, _ []byte) []byte {
			require.NoError(t, os.Remove(previousPath(dir)))
			return []byte("x")
		}, checkpoint.ErrCorrupt, []string{"not a checkpoint of relay; say where to go on"}},
		"another stream": {func(*testing.T, string, []byte) []byte {
			c := checkpointtest.Full(1)
			c.Source.Destination = "nats stream OTHER"
			return checkpoint.Encode(c)
		}, checkpoint.ErrForeign, []string{`belongs to destination "nats stream OTHER"`, "another checkpoint.dir"}},
		"another lane's file": {func(*testing.T, string, []byte) []byte {
			c := checkpointtest.Full(1)
			c.Source.Lane = "kafka"
			return checkpoint.Encode(c)
		}, checkpoint.ErrForeign, []string{`belongs to lane "kafka"`}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f, last := committed(t, dir, 2)
			good, err := os.ReadFile(mainPath(dir))
			require.NoError(t, err)
			bad := tt.change(t, dir, good)
			require.NoError(t, os.WriteFile(mainPath(dir), bad, 0o600))

			_, readErr := checkpoint.ReadFile(dir, checkpointtest.Identity())
			_, loadErr := f.Load(t.Context())
			for _, err := range []error{readErr, loadErr} {
				require.ErrorIs(t, err, tt.is)
				for _, says := range append(tt.says, mainPath(dir)) {
					require.ErrorContains(t, err, says)
				}
				if name == "newer" { // nothing is wrong with it, so it must not be replaced
					require.NotContains(t, err.Error(), "to go on")
					require.Equal(t, "run the newer relay again", operator.Action(err))
				} else {
					require.ErrorContains(t, err, "to go on")
				}
			}
			_, err = f.Commit(t.Context(), last, checkpointtest.Full(3))
			require.ErrorIs(t, err, tt.is)
			left, err := os.ReadFile(mainPath(dir))
			require.NoError(t, err)
			require.Equal(t, string(bad), string(left), "what cannot be trusted is left as it is")

			// An operator decides: it is archived, and a new checkpoint is made.
			aside, err := f.Remove(t.Context())
			require.NoError(t, err)
			kept, err := os.ReadFile(aside)
			require.NoError(t, err)
			require.Equal(t, string(bad), string(kept))
			_, err = f.Commit(t.Context(), checkpoint.Checkpoint{}, checkpointtest.Full(4))
			require.NoError(t, err)
		})
	}
}

func TestFileUnreadableIsNotMissing(t *testing.T) {
	dir := t.TempDir()
	f := openFile(t, dir)
	require.NoError(t, os.Mkdir(mainPath(dir), 0o700))
	_, err := f.Load(t.Context())
	require.Error(t, err)
	require.NotErrorIs(t, err, checkpoint.ErrNotFound)
	_, err = f.Commit(t.Context(), checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.Error(t, err)
	require.DirExists(t, mainPath(dir))
}

func TestFileRemovedByHand(t *testing.T) {
	dir := t.TempDir()
	f, last := committed(t, dir, 2)
	require.NoError(t, os.Remove(mainPath(dir)))
	_, err := f.Load(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)
	require.ErrorContains(t, err, previousPath(dir))
	_, err = f.Commit(t.Context(), last, checkpointtest.Full(3))
	require.ErrorIs(t, err, checkpoint.ErrConflict)
	require.NoFileExists(t, mainPath(dir), "a lost position is not made up for in passing")
}

func TestFileFolderCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := checkpoint.OpenFile(filepath.Join(file, "data"), checkpointtest.Identity())
	require.ErrorContains(t, err, "checkpoint.dir")
}

func TestFileOpenRemovesLeftovers(t *testing.T) {
	dir := t.TempDir()
	f, last := committed(t, dir, 2)
	_, err := f.Archive(t.Context())
	require.NoError(t, err)
	require.NoError(t, f.Close())
	before := fileNames(t, dir)
	for _, name := range []string{
		"workos.kit.checkpoint.tmp", "workos.kit.previous.tmp", "workos.kit.holder.tmp", "workos.kit.archive-20260101T000000.000000000Z.tmp",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
	}
	others := filepath.Join(dir, "workos.other.checkpoint.tmp")
	require.NoError(t, os.WriteFile(others, []byte("under way"), 0o600))

	f = openFile(t, dir)
	require.FileExists(t, others, "another lane's files are its own")
	require.NoError(t, os.Remove(others))
	require.Equal(t, before, fileNames(t, dir))
	have, err := f.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, last, have)
}

// A crash between keeping the one before and renaming the new one leaves two names for one file.
func TestFileCommitsAfterACrashBetweenItsRenames(t *testing.T) {
	dir := t.TempDir()
	f, last := committed(t, dir, 2)
	require.NoError(t, os.Remove(previousPath(dir)))
	require.NoError(t, os.Link(mainPath(dir), previousPath(dir)))
	for n := 3; n < 6; n++ {
		next, err := f.Commit(t.Context(), last, checkpointtest.Full(n))
		require.NoError(t, err)
		require.Equal(t, last, decodeFile(t, previousPath(dir)))
		require.Len(t, fileNames(t, dir), 4)
		last = next
	}
}

func TestFileHolderStays(t *testing.T) {
	dir := t.TempDir()
	f := openFile(t, dir)
	holder := f.Holder()
	require.Regexp(t, `^[0-9a-f]{32}$`, holder)
	require.NoError(t, f.Close())
	f = openFile(t, dir)
	require.Equal(t, holder, f.Holder())
	require.NoError(t, f.Close())

	require.NotEqual(t, holder, openFile(t, t.TempDir()).Holder())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "workos.kit.holder"), []byte(holder[:9]), 0o600))
	made := openFile(t, dir).Holder()
	require.Regexp(t, `^[0-9a-f]{32}$`, made)
	require.NotEqual(t, holder, made)
}

func TestFileIsLocked(t *testing.T) {
	dir := t.TempDir()
	f := openFile(t, dir)
	_, err := checkpoint.OpenFile(dir, checkpointtest.Identity())
	require.ErrorIs(t, err, checkpoint.ErrLocked)
	require.ErrorContains(t, err, fmt.Sprintf("pid %d on host ", os.Getpid()))
	require.ErrorContains(t, err, "another checkpoint.dir")

	require.NoError(t, f.Close())
	require.NoError(t, f.Close(), "closing again does nothing")
	_, err = f.Load(t.Context())
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = f.Commit(t.Context(), checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = f.Archive(t.Context())
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = f.Remove(t.Context())
	require.ErrorIs(t, err, os.ErrClosed)
	openFile(t, dir)
}

// If somebody removes the lock file, a second relay starts; the first must stop, since it no longer
// knows that it is alone.
func TestFileNoticesALostLock(t *testing.T) {
	dir := t.TempDir()
	f, last := committed(t, dir, 1)
	require.NoError(t, os.Remove(filepath.Join(dir, "workos.kit.lock")))
	_, err := f.Commit(t.Context(), last, checkpointtest.Full(2))
	require.ErrorIs(t, err, checkpoint.ErrLocked)

	second := openFile(t, dir)
	_, err = f.Commit(t.Context(), last, checkpointtest.Full(2))
	require.ErrorIs(t, err, checkpoint.ErrLocked)
	require.ErrorContains(t, err, "removed or replaced")
	_, err = second.Commit(t.Context(), last, checkpointtest.Full(3))
	require.NoError(t, err)
}

// TestFileKeep: a checkpoint of another store is archived like others, and does not become the
// current one.
func TestFileKeep(t *testing.T) {
	dir := t.TempDir()
	f := openFile(t, dir)
	first, err := f.Commit(t.Context(), checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.NoError(t, err)
	var made []string
	for n := range 11 {
		elsewhere := checkpointtest.Full(100 + n)
		path, err := f.Keep(t.Context(), elsewhere)
		require.NoError(t, err)
		require.Equal(t, elsewhere, decodeFile(t, path))
		made = append(made, path)
	}
	found, err := filepath.Glob(filepath.Join(dir, "workos.kit.archive-*"))
	require.NoError(t, err)
	require.Equal(t, made[1:], found, "the ten newest are kept, and nothing beside them")
	have, err := f.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, have)
}

func TestFileArchive(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	f := openFile(t, dir, checkpoint.WithClock(func() time.Time { return now }))
	_, err := f.Archive(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)
	_, err = f.Remove(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)

	var last checkpoint.Checkpoint
	var made []string
	for n := range 14 { // the clock does not move, and the names still differ
		last, err = f.Commit(t.Context(), last, checkpointtest.Full(n))
		require.NoError(t, err)
		path, err := f.Archive(t.Context())
		require.NoError(t, err)
		require.Equal(t, last, decodeFile(t, path))
		made = append(made, path)
	}
	archives := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "workos.kit.archive-*"))
		require.NoError(t, err)
		return found
	}
	require.Equal(t, made[4:], archives(), "the ten newest are kept")
	require.Equal(t, filepath.Join(dir, "workos.kit.archive-20261123T100000.000000004Z"), made[4])

	// Later commits leave an archive alone.
	aside := decodeFile(t, made[13])
	last, err = f.Commit(t.Context(), last, checkpointtest.Full(20))
	require.NoError(t, err)
	require.Equal(t, aside, decodeFile(t, made[13]))

	now = now.AddDate(-1, 0, 0) // a clock set back
	path, err := f.Remove(t.Context())
	require.NoError(t, err)
	require.Equal(t, last, decodeFile(t, path))
	require.Len(t, archives(), 10)
	require.NoFileExists(t, mainPath(dir))
	require.NoFileExists(t, previousPath(dir))
	_, err = f.Load(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)
	_, err = f.Commit(t.Context(), last, checkpointtest.Full(21))
	require.ErrorIs(t, err, checkpoint.ErrConflict)
	_, err = f.Commit(t.Context(), checkpoint.Checkpoint{}, checkpointtest.Full(21))
	require.NoError(t, err)
}

func BenchmarkFileCommit(b *testing.B) {
	f, err := checkpoint.OpenFile(b.TempDir(), checkpointtest.Identity())
	require.NoError(b, err)
	defer func() { _ = f.Close() }()
	var c checkpoint.Checkpoint
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if c, err = f.Commit(b.Context(), c, checkpointtest.Full(n)); err != nil {
			b.Fatal(err)
		}
	}
}
