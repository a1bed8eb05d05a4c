package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/app"
	"workos-relay/source/sourcetest"
)

// TestTwinsNeverBothWrite runs two relays with the same configuration, in separate directories,
// while events flow: one is stopped with SIGSTOP, the other takes over, and the first, once it goes
// on, finds that it lost its place. At the end the stream holds every event once.
//
// P6: on JetStream.
func TestTwinsNeverBothWrite(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	url, js := newNATS(t)
	ctx, enough := context.WithCancel(t.Context())
	made := make(chan error, 1)
	go func() { made <- api.Live(ctx, sourcetest.LiveConfig{Rate: 150, Seed: 5}) }()

	logs := [2]output{}
	twins := [2]*exec.Cmd{}
	for i := range twins {
		// A lane that does not renew its lease in time on a busy machine would only stand by.
		config := writeConfig(t, shortWindow(natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), "takeover_after: 10s")))
		twins[i] = child(t, &logs[i], "run", "--config", config)
		flows(t, js, 50, &logs[i])
	}
	const active, standby = 0, 1
	require.NoError(t, twins[active].Process.Signal(syscall.SIGSTOP))
	// Events that were under way when it was stopped are stored all the same.
	require.Eventually(t, func() bool { return strings.Contains(logs[standby].String(), "took over from another relay") }, patient, often, &logs[standby])
	flows(t, js, 100, &logs[standby])
	require.NoError(t, twins[active].Process.Signal(syscall.SIGCONT))
	require.Eventually(t, func() bool { return strings.Contains(logs[active].String(), "standing by") }, patient, often, &logs[active])
	flows(t, js, 50, &logs[standby])

	require.NoError(t, twins[standby].Process.Signal(syscall.SIGTERM))
	require.NoError(t, twins[standby].Wait(), &logs[standby])
	flows(t, js, 50, &logs[active]) // at once, for the other has released
	enough()
	require.NoError(t, <-made)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == api.Len()+1 }, patient, often, &logs[active])
	require.NoError(t, twins[active].Process.Signal(syscall.SIGTERM))
	require.NoError(t, twins[active].Wait(), &logs[active])
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})), "copies")
}

// TestAPositionTakenFromTheStreamStopsRelay: with the position gone and events there, relay asks
// and publishes nothing.
func TestAPositionTakenFromTheStreamStopsRelay(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 300, Seed: 1}))
	url, js := newNATS(t)
	config := writeConfig(t, natsConfigFor("auto", api.URL(), url, t.TempDir(), ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 301 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Contains(t, r.stderr.String(), "delivery: exactly_once")

	stream, err := js.Stream(t.Context(), "WORKOS")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), purgePosition))
	code, _, stderr := do(t, "run", "--config", config)
	require.Equal(t, exitOperator, code, stderr)
	require.Contains(t, stderr, "relay checkpoint set")
	require.Equal(t, 300, messages(js, "WORKOS"))

	ids := api.IDs(sourcetest.Filter{})
	code, stdout, stderr := do(t, "checkpoint", "set", ids[299], "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stdout, "(bus, exactly_once)")
	r = start(t, "run", "--config", config)
	requests := api.Count()
	require.Eventually(t, func() bool { return api.Count() > requests+3 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, requireAllInOrder(t, js, ids))
}

// TestAPositionOnTheStreamThatCannotBeUsedIsSetAnew: altered, or of a relay that reads another
// organization, it stops relay, which names the command that replaces it.
func TestAPositionOnTheStreamThatCannotBeUsedIsSetAnew(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 300, Seed: 1}))
	url, js := newNATS(t)
	text := natsConfigFor("auto", api.URL(), url, t.TempDir(), "")
	config := writeConfig(t, text)
	ids := api.IDs(sourcetest.Filter{})
	carries := func(config string) {
		t.Helper()
		r := start(t, "run", "--config", config)
		requests := api.Count()
		require.Eventually(t, func() bool { return api.Count() > requests+3 }, patient, often, &r.stderr)
		require.Equal(t, exitDone, r.stop(t), &r.stderr)
		require.Zero(t, requireAllInOrder(t, js, ids))
	}
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 301 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)

	t.Run("altered", func(t *testing.T) {
		stream, err := js.Stream(t.Context(), "WORKOS")
		require.NoError(t, err)
		require.NoError(t, stream.Purge(t.Context(), purgePosition))
		_, err = js.Publish(t.Context(), "relay.position.workos.nats", []byte("{}"))
		require.NoError(t, err)
		code, _, stderr := do(t, "run", "--config", config)
		require.Equal(t, exitOperator, code, stderr)
		require.Contains(t, stderr, "relay checkpoint set")
		code, stdout, stderr := do(t, "checkpoint", "set", ids[299], "--config", config)
		require.Equal(t, exitDone, code, stderr)
		require.Contains(t, stdout, "(bus, exactly_once)")
		require.Contains(t, stdout, "could not be read")
		carries(config)
	})
	t.Run("foreign", func(t *testing.T) {
		other := writeConfig(t, strings.Replace(text, "source: {", "source: {organization_id: org_01JXXXXXXXXXXXXXXXXXXXXXXX, ", 1))
		code, _, stderr := do(t, "run", "--config", other)
		require.Equal(t, exitOperator, code, stderr)
		code, _, stderr = do(t, "checkpoint", "set", ids[10], "--skip", "--config", other)
		require.NotEqual(t, exitDone, code)
		require.Contains(t, stderr, "cannot be asked whether", "the API does not know the organization")
		code, stdout, stderr := do(t, "checkpoint", "set", ids[10], "--skip", "--unchecked", "--config", other)
		require.Equal(t, exitDone, code, stderr)
		require.Contains(t, stdout, ids[299], "it says where the lane stood before")
		require.Equal(t, ids[299], keptIn(t, stdout).EventID, "and keeps what the stream no longer holds")
		code, _, stderr = do(t, "run", "--config", config)
		require.Equal(t, exitOperator, code, stderr)
		code, _, stderr = do(t, "checkpoint", "set", ids[299], "--config", config)
		require.Equal(t, exitOperator, code, stderr)
		require.Contains(t, stderr, "may skip events", "the position is another's")
		code, _, stderr = do(t, "checkpoint", "set", ids[299], "--skip", "--config", config)
		require.Equal(t, exitDone, code, stderr)
		carries(config)
	})
}

// TestTheModeOfDeliveryChangesOnlyByHand goes from at_least_once to exactly_once and back. Each
// time relay stops and names the command, and with it goes on without a gap and without a copy.
//
// P8: on the built binary.
func TestTheModeOfDeliveryChangesOnlyByHand(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 300, Seed: 1}))
	url, js := newNATS(t)
	dir := t.TempDir()
	config := func(delivery string) string {
		return writeConfig(t, shortWindow(natsConfigFor(delivery, api.URL(), url, dir, "")))
	}
	carries := func(delivery string, total int) {
		t.Helper()
		r := start(t, "run", "--config", config(delivery))
		require.Eventually(t, func() bool { return events(t, js) == total }, patient, often, &r.stderr)
		require.Equal(t, exitDone, r.stop(t), &r.stderr)
	}
	refuses := func(delivery, command string) {
		t.Helper()
		code, _, stderr := do(t, "run", "--config", config(delivery))
		require.Equal(t, exitOperator, code, stderr)
		require.Contains(t, stderr, command)
	}
	moves := func(delivery, from string) {
		t.Helper()
		code, _, stderr := do(t, "checkpoint", "set", "--from", from, "--config", config(delivery))
		require.Equal(t, exitDone, code, stderr)
	}
	more := func() int {
		require.NoError(t, api.Live(t.Context(), sourcetest.LiveConfig{Rate: 100_000, Seed: uint64(api.Len()), Max: 50}))
		return api.Len()
	}
	carries("at_least_once", 300)
	carries("auto", more()) // as recorded
	refuses("exactly_once", "relay checkpoint set --lane nats --from file")
	moves("exactly_once", "file")
	carries("exactly_once", more())
	carries("auto", more())
	refuses("at_least_once", "relay checkpoint set --lane nats --from bus")
	moves("at_least_once", "bus")
	carries("at_least_once", more())
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))

	code, stdout, stderr := do(t, "checkpoint", "show", "--json", unhurried, "--config", config("auto"))
	require.Equal(t, exitDone, code, stderr)
	var rows []checkpointRow
	require.NoError(t, json.Unmarshal([]byte(stdout), &rows))
	require.Len(t, rows, 1)
	require.Equal(t, app.InFile, rows[0].Place)

	// A restored backup of the directory from before brings a second position.
	moves("exactly_once", "file")
	id := checkpoint.Identity{Relay: "workos", Lane: "nats", Endpoint: api.URL(), Destination: "nats stream WORKOS"}
	cp, err := checkpoint.ReadFile(dir, id)
	require.NoError(t, err)
	cp.Mode = checkpoint.AtLeastOnce
	require.NoError(t, os.WriteFile(dir+"/workos.nats.checkpoint", checkpoint.Encode(cp), 0o600))
	refuses("auto", "two positions")
	code, _, stderr = do(t, "checkpoint", "set", "earliest", "--config", config("auto"))
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--from file or --from bus")
	moves("auto", "bus")
	carries("auto", more())
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))
}

func TestExactlyOnceIsRefusedWhereItCannotBe(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	url, _ := newNATS(t)
	config := strings.Replace(natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), ""), "{name: nats, type: nats, url: \""+url+"\", ack_timeout: "+patient.String()+"}", "{name: out, type: stdout}", 1)
	code, _, stderr := do(t, "run", "--config", writeConfig(t, config))
	require.Equal(t, exitOperator, code)
	require.Contains(t, stderr, "cannot do exactly_once")
}
