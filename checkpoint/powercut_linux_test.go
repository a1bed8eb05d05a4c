package checkpoint_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/internal/powercut"
)

func init() { childTasks["keep"] = keepEverything }

// keepEverything makes every change that a store makes to its directory, and writes to stdout after
// each what the directory holds.
func keepEverything(root string) error {
	ctx := context.Background()
	dir := filepath.Join(root, "new", "deep")
	var f *checkpoint.File
	var last checkpoint.Checkpoint
	commit := func() (err error) {
		last, err = f.Commit(ctx, last, checkpointtest.Full(int(last.Revision))) //nolint:gosec // small
		return err
	}
	save := func(revision uint64) func() error {
		return func() error {
			return f.SaveDestination(ctx, checkpoint.Destination{Source: checkpointtest.Identity(), Revision: revision})
		}
	}
	own := func(text string) func() error {
		return func() error { return checkpoint.WriteOwn(filepath.Join(root, "other", "own"), []byte(text)) }
	}
	for _, step := range []func() error{
		func() error { return nil },
		func() (err error) { f, err = checkpoint.OpenFile(dir, checkpointtest.Identity()); return err },
		commit, commit, commit,
		save(1), save(2),
		func() error { _, err := f.Archive(ctx); return err },
		commit,
		func() error { _, err := f.Keep(ctx, last); return err },
		func() error { last.Revision = 0; _, err := f.Remove(ctx); return err },
		commit, commit,
		func() error { return f.ForgetDestination(ctx) },
		own("first"), own("second"),
	} {
		if err := step(); err != nil {
			return err
		}
		if _, err := os.Stdout.WriteString(strings.Join(held(root), "\n")); err != nil {
			return err
		}
	}
	return nil
}

// held says what a directory of keepEverything holds, one line for each thing that is kept by
// itself. What cannot be read is said to be unreadable.
func held(root string) []string {
	dir := filepath.Join(root, "new", "deep")
	say := func(what any, err error) string {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, checkpoint.ErrNotFound):
			return "none"
		case err != nil:
			return "unreadable: " + err.Error()
		default:
			return fmt.Sprint(what)
		}
	}
	decoded := func(path string) (uint64, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return 0, err
		}
		c, err := checkpoint.Decode(data)
		return c.Revision, err
	}
	current, err := checkpoint.ReadFile(dir, checkpointtest.Identity())
	lines := []string{"checkpoint " + say(current.Revision, err)}
	previous := say(decoded(previousPath(dir)))
	if !strings.HasPrefix(previous, "unreadable") {
		previous = "none, or one that can be read"
	}
	lines = append(lines, "previous "+previous)
	destination, err := checkpoint.ReadDestination(dir, checkpointtest.Identity())
	lines = append(lines, "destination "+say(destination.Revision, err))
	holder, err := checkpoint.ReadHolder(dir, checkpointtest.Identity())
	lines = append(lines, "holder "+say(holder, err))
	archives, _ := filepath.Glob(filepath.Join(dir, "*.archive-*Z"))
	line := "archives"
	for _, path := range archives {
		line += " " + say(decoded(path))
	}
	own, err := os.ReadFile(filepath.Join(root, "other", "own"))
	return append(lines, line, "own "+say(string(own), err))
}

// TestFileSurvivesAPowerFailure lets the power fail after each operation on a file of a process
// that makes every kind of change. What was not synced is lost, or stored in part: names up to any
// of them, and data not at all, as zeros, or completely. Then each thing that is kept is what it
// was before the change under way or what it is after it, and after it once the change has
// returned.
func TestFileSurvivesAPowerFailure(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "data")
	env := append(os.Environ(), childTask+"=keep", childFolder+"="+root)
	child, err := powercut.Start(root, []string{os.Args[0]}, env, os.Stderr)
	if errors.Is(err, powercut.ErrNotPermitted) {
		t.Skipf("SKIPPED: this test traces a process: %v", err)
	}
	require.NoError(t, err)
	record, status, err := child.Record()
	require.NoError(t, err)
	require.Zero(t, status.ExitStatus(), "the child failed")

	var said [][]string
	disks := map[[sha256.Size]byte]bool{}
	at := t.TempDir()
	for ops := range len(record.Ops) + 1 {
		if ops > 0 && record.Ops[ops-1].Kind == powercut.Say {
			said = append(said, strings.Split(string(record.Ops[ops-1].Data), "\n"))
		}
		cut := powercut.Cut{Ops: ops}
		for _, cut.Names = range record.Choices(cut) {
			for _, cut.Content = range []powercut.Unsynced{powercut.Lost, powercut.Zeros, powercut.Stored} {
				disk := record.After(cut)
				if sum := fingerprint(disk, len(said)); disks[sum] {
					continue
				} else {
					disks[sum] = true
				}
				dir := filepath.Join(at, fmt.Sprint(len(disks)))
				require.NoError(t, disk.Restore(root, dir))
				for i, have := range held(dir) {
					require.Contains(t, mayHold(record, said, ops, i), have, "the power fails like %+v after\n%v", cut, record.Ops[:ops])
				}
				require.NoError(t, os.RemoveAll(dir))
			}
		}
	}
	require.Greater(t, len(said), 10)
	t.Logf("%d operations, %d different disks", len(record.Ops), len(disks))
}

// mayHold returns what line i may be after so many operations: what was said last, and what is said
// next.
func mayHold(record *powercut.Record, said [][]string, ops, i int) []string {
	var may []string
	if len(said) > 0 {
		may = append(may, said[len(said)-1][i])
	}
	for _, op := range record.Ops[ops:] {
		if op.Kind == powercut.Say {
			return append(may, strings.Split(string(op.Data), "\n")[i])
		}
	}
	return may
}

// fingerprint tells disks apart, and the same disk at another step.
func fingerprint(d powercut.Disk, step int) [sha256.Size]byte {
	var all []byte
	for _, path := range slices.Sorted(maps.Keys(d)) {
		all = fmt.Appendf(all, "%q ", path)
		if d[path] != nil {
			all = fmt.Appendf(all, "%q ", d[path].Data)
		}
	}
	return sha256.Sum256(fmt.Append(all, step))
}
