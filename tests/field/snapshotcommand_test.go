//go:build unix

package field

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// TestRelaySnapshot asks a lane that keeps state and begins no snapshot by itself for one. The
// command says how far it is, survives a reload, a pause and a restart of relay, and ends when the
// snapshot is finished. What cannot be read is refused. A snapshot that was only asked for is lost
// by a restart and by a takeover, which the command says, but not by a reload.
func TestRelaySnapshot(t *testing.T) {
	t.Parallel()
	k := newKfake(t)
	api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{
		Seed: 5, Organizations: 2, Users: 700, Directories: 2, DirectoryUsers: 3000, Groups: 1, GroupMembers: 1,
	}))
	text := fmt.Sprintf("id: %s\ntakeover_after: 3s\n", k.ID) + strings.Replace(sourceConfig(api.URL()), "poll_interval", "rate_limit: 12, poll_interval", 1) +
		fmt.Sprintf("sinks:\n- {name: kept, type: kafka, brokers: [%s], topic_prefix: %sa., state: {entities: [user, directory, directory_user], snapshot: never}}\n", strings.Join(k.Brokers, ", "), k.Prefix) +
		fmt.Sprintf("- {name: plain, type: kafka, brokers: [%s], topic_prefix: %sb.}\n", strings.Join(k.Brokers, ", "), k.Prefix)
	text += fmt.Sprintf("routes: [{events: [dsync.activated, dsync.deleted], where: data.organization_id == %q, drop: true}]\n", api.World().Keys("organization")[1])
	r := newRelay(t, "relay", text)
	reload := func(timeout string) {
		t.Helper()
		config, err := os.ReadFile(r.Config)
		require.NoError(t, err)
		r.WriteConfig(t, strings.Replace(string(config), "name: kept, ", "name: kept, request_timeout: "+timeout+", ", 1))
		code, out, errs := r.Run(t, "reload")
		require.Equal(t, exitDone, code, out+errs)
		require.Contains(t, out+errs, "kept was restarted from its position")
		r.WriteConfig(t, string(config))
	}
	commands := 0
	background := func(args ...string) *testkit.Process {
		commands++
		p := testkit.NewProcess(t, fmt.Sprintf("snapshot-%d", commands), relayBinary, nil, append([]string{"--config", r.Config, "snapshot", "--lane", "kept"}, args...)...)
		p.Start(t)
		return p
	}
	refused := func(says string, args ...string) {
		t.Helper()
		code, out, errs := r.Run(t, append([]string{"snapshot"}, args...)...)
		require.NotEqual(t, exitDone, code, out+errs)
		require.Contains(t, errs, says)
	}
	objects := func() (n uint64) {
		if s := r.Lane("kept").Snapshot; s != nil {
			for _, e := range s.Entities {
				n += e.Objects
			}
		}
		return n
	}
	r.Start(t)
	r.AwaitState(t, "kept", pipeline.Running)
	r.AwaitState(t, "plain", pipeline.Running)
	refused("say which lane with --lane")
	refused("the relay has no lane", "--lane", "other")
	refused("lane plain keeps no state", "--lane", "plain")
	for _, args := range [][]string{{"snapshot"}, {"list", "user"}, {"verify", "--state"}} { // the same mistake has one answer
		code, _, errs := r.Run(t, append(args, "--lane", "plain")...)
		require.Equal(t, exitUsage, code, args)
		require.Equal(t, "relay: lane plain keeps no state: name entities in state.entities of the sink [R1024]\n", errs, args)
	}
	refused(`no snapshot has "role"`, "--lane", "kept", "--entities", "role")

	// It is asked for while the lane is paused, and a reload hands it over.
	code, out, errs := r.Run(t, "pause", "kept")
	require.Equal(t, exitDone, code, out+errs)
	first := background()
	r.Await(t, func() bool { return r.Lane("kept").SnapshotRequested }, "it is asked for")
	refused("a snapshot was asked for already, and has not begun", "--lane", "kept")
	reload("17s")
	r.AwaitState(t, "kept", pipeline.Paused)
	require.True(t, r.Lane("kept").SnapshotRequested, "the successor inherits it")
	_, out, _ = r.Run(t, "status")
	require.Contains(t, out, "lane kept: snapshot: asked for, and not begun yet; the lane is paused: `relay resume kept`")
	require.True(t, first.Runs(), first.Output())
	code, out, errs = r.Run(t, "resume", "kept")
	require.Equal(t, exitDone, code, out+errs)

	// It goes on after a pause, a reload and a restart.
	r.Await(t, func() bool { return objects() > 300 }, "it is under way")
	refused("lane kept reads a snapshot already", "--lane", "kept", "--no-wait")
	_, out, _ = r.Run(t, "status")
	require.Regexp(t, `lane kept: snapshot: .* \(entity [1-3] of 3(, list [0-2]( of 2)?)?\), [0-9]+ objects in all.*; events follow when it is finished`, out)
	reload("18s")
	require.True(t, first.Runs(), first.Output())
	r.Kill()
	r.Start(t)
	require.Equal(t, exitDone, first.Wait(t), first.Output())
	require.Contains(t, first.Output(), "snapshot: asked for, and not begun yet; the lane is paused: `relay resume kept` lets it go on")
	require.Regexp(t, `snapshot: [0-9]+ objects? of `, first.Output())
	done := r.Lane("kept").Snapshot
	require.NotNil(t, done.FinishedAt)
	require.Len(t, done.Entities, 3)
	for _, e := range done.Entities {
		require.Equal(t, e.Entity == "directory", e.Dropped > 0, "a route drops one of two directories")
		require.GreaterOrEqual(t, e.Objects+e.Dropped, uint64(len(api.World().State()[e.Entity])), e.Entity) // a page may have come again after the restart
		require.Regexp(t, fmt.Sprintf(`(?m)^%s +%d +0 +%d +0$`, e.Entity, e.Objects, e.Dropped), first.Output())
	}

	metrics := r.Metrics()
	for _, e := range done.Entities {
		require.Contains(t, metrics, fmt.Sprintf("relay_snapshot_objects{entity=%q,lane=\"kept\",outcome=\"published\"} %d\n", e.Entity, e.Objects))
	}
	require.Contains(t, metrics, "relay_snapshot_running{lane=\"kept\"} 0\n")
	require.Regexp(t, `relay_snapshot_last_success_timestamp_seconds{lane="kept"} [1-9]`, metrics)

	// Asked for and not begun, it ends with a restart.
	code, out, errs = r.Run(t, "snapshot", "--lane", "kept", "--entities", "directory")
	require.Equal(t, exitDone, code, out+errs)
	require.Regexp(t, `(?m)^directory +1 +0 +1 +0$`, out)
	code, out, errs = r.Run(t, "pause", "kept")
	require.Equal(t, exitDone, code, out+errs)
	lost := background()
	r.Await(t, func() bool { return r.Lane("kept").SnapshotRequested }, "it is asked for")
	r.Kill()
	r.Start(t)
	require.Equal(t, exitFailed, lost.Wait(t), lost.Output())
	require.Contains(t, lost.Output(), "relay was restarted before the snapshot began: ask for it again")

	// And with a takeover.
	b := r.twin(t, "standby")
	b.Start(t)
	b.AwaitState(t, "kept", pipeline.Standby)
	code, out, errs = b.Run(t, "snapshot", "--lane", "kept")
	require.Equal(t, exitFailed, code, out)
	require.Contains(t, errs, "lane kept stands by")
	r.Await(t, func() bool {
		code, _, _ := r.Run(t, "pause", "kept")
		return code == exitDone && r.Lane("kept").State == pipeline.Paused
	}, "it is paused")
	lost = background()
	r.Await(t, func() bool { return r.Lane("kept").SnapshotRequested }, "it is asked for")
	r.Pause()
	b.AwaitState(t, "kept", pipeline.Running)
	r.Resume()
	require.Equal(t, exitFailed, lost.Wait(t), lost.Output())
	require.Contains(t, lost.Output(), "has taken lane kept over before the snapshot began")
	require.False(t, r.Lane("kept").SnapshotRequested)
	require.Less(t, b.Lane("kept").Snapshot.StartedAt.Unix(), time.Now().Unix())
	require.Equal(t, exitDone, b.Stop(t))
	r.Await(t, func() bool { return r.Lane("kept").Holder != "" }, "it is there")
	require.Equal(t, exitDone, r.Stop(t))
}
