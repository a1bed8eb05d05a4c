//go:build unix

package checkpoint_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
)

// The crash tests run the test binary again as another process, which does what childTask says in
// the directory childFolder.
const (
	childTask   = "RELAY_CHECKPOINT_TEST_TASK"
	childFolder = "RELAY_CHECKPOINT_TEST_FOLDER"
)

// childTasks are what the other process can do.
var childTasks = map[string]func(dir string) error{"commit": commitForEver, "hold": hold}

func TestMain(m *testing.M) {
	task := os.Getenv(childTask)
	if task == "" {
		os.Exit(m.Run())
	}
	if err := childTasks[task](os.Getenv(childFolder)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// commitForEver continues from the current checkpoint, and writes each revision to stdout once its
// commit returned.
func commitForEver(dir string) error {
	ctx := context.Background()
	f, err := checkpoint.OpenFile(dir, checkpointtest.Identity())
	if err != nil {
		return err
	}
	c, err := f.Load(ctx)
	if err != nil && !errors.Is(err, checkpoint.ErrNotFound) {
		return err
	}
	for {
		next := checkpointtest.Full(int(c.Revision + 1)) //nolint:gosec // small
		next.Generation = c.Revision + 1
		if c, err = f.Commit(ctx, c, next); err != nil {
			return err
		}
		if _, err := os.Stdout.WriteString(strconv.FormatUint(c.Revision, 10) + "\n"); err != nil {
			return err
		}
	}
}

// hold keeps the store open until it is killed. It refers to it all the while: the collector would
// close its files, and with them the lock, under a process that has forgotten it.
func hold(dir string) error {
	f, err := checkpoint.OpenFile(dir, checkpointtest.Identity())
	if err != nil {
		return err
	}
	fmt.Println("held")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return f.Close()
}

type child struct {
	cmd    *exec.Cmd
	out    *bufio.Scanner
	stderr *strings.Builder
}

func startChild(t *testing.T, task, dir string) *child {
	t.Helper()
	c := &child{cmd: exec.CommandContext(t.Context(), os.Args[0]), stderr: &strings.Builder{}}
	c.cmd.Env = append(os.Environ(), childTask+"="+task, childFolder+"="+dir)
	c.cmd.Stderr = c.stderr
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	_, err = c.cmd.StdinPipe() // open until Wait
	require.NoError(t, err)
	c.out = bufio.NewScanner(stdout)
	require.NoError(t, c.cmd.Start())
	return c
}

// line returns the next line that the child wrote.
func (c *child) line(t *testing.T) string {
	t.Helper()
	if !c.out.Scan() {
		require.FailNow(t, "the child ended", "%v: %s", c.cmd.Wait(), c.stderr)
	}
	return c.out.Text()
}

// kill sends SIGKILL and returns the last line that the child wrote, or what was last before it.
func (c *child) kill(t *testing.T, last string) string {
	t.Helper()
	require.NoError(t, c.cmd.Process.Kill())
	for c.out.Scan() {
		last = c.out.Text()
	}
	var exit *exec.ExitError
	require.ErrorAs(t, c.cmd.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "the child ended by itself: %s", c.stderr)
	return last
}

// A process that commits as fast as it can is killed at random points. After each kill the
// checkpoint can be read, is at least the last one whose commit returned, and at most the one after
// it. The page cache outlives the process: what a power failure does, TestFileSurvivesAPowerFailure
// shows.
func TestFileSurvivesSIGKILL(t *testing.T) {
	const kills = 45
	dir := t.TempDir()
	var acknowledged uint64
	var holder string
	leftovers := 0
	for range kills {
		c := startChild(t, "commit", dir)
		last := c.line(t)
		for range rand.IntN(20) {
			last = c.line(t)
		}
		// The commits take some hundred microseconds each; so the kill falls anywhere within one.
		<-time.After(time.Duration(rand.IntN(1500)) * time.Microsecond)
		last = c.kill(t, last)

		revision, err := strconv.ParseUint(last, 10, 64)
		require.NoError(t, err)
		require.Greater(t, revision, acknowledged, "the child did not continue from the current checkpoint")
		acknowledged = revision

		have, err := checkpoint.ReadFile(dir, checkpointtest.Identity())
		require.NoError(t, err)
		require.GreaterOrEqual(t, have.Revision, acknowledged)
		require.LessOrEqual(t, have.Revision, acknowledged+1)
		require.Equal(t, have.Revision, have.Generation, "not what was committed as this revision")
		if have.Revision > 1 {
			previous := decodeFile(t, previousPath(dir)).Revision
			require.Contains(t, []uint64{have.Revision - 1, have.Revision}, previous)
		}
		leftovers += len(fileNames(t, dir)) - 4

		f := openFile(t, dir) // the lock died with its holder
		if holder == "" {
			holder = f.Holder()
		}
		require.Equal(t, holder, f.Holder())
		require.LessOrEqual(t, len(fileNames(t, dir)), 4, "what the crash left behind is removed")
		require.NoError(t, f.Close())
	}
	t.Logf("%d kills, %d commits acknowledged, %d of the kills left a temporary file behind", kills, acknowledged, leftovers)
}

func TestFileIsLockedByAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, "hold", dir)
	require.Equal(t, "held", c.line(t))

	_, err := checkpoint.OpenFile(dir, checkpointtest.Identity())
	require.ErrorIs(t, err, checkpoint.ErrLocked)
	require.ErrorContains(t, err, fmt.Sprintf("pid %d on host ", c.cmd.Process.Pid))
	require.ErrorContains(t, err, "another relay")

	c.kill(t, "")
	openFile(t, dir)
}
