package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/verify"
	"workos-relay/source/sourcetest"
)

// verified runs `relay verify --json`.
func verified(t *testing.T, config string, more ...string) (code int, v verdict) {
	t.Helper()
	code, stdout, stderr := do(t, append([]string{"verify", "--json", "--since", spreadStart, "--until", spreadEnd, "--config", config}, more...)...)
	require.NoError(t, json.Unmarshal([]byte(stdout), &v), stderr)
	return code, v
}

// found is what the counts of a report are, and the ids of its examples.
func found(v *verdict) map[string][]string {
	out := map[string][]string{}
	for name, f := range map[string]verify.Finding{
		"missing": v.Missing, "duplicate": v.Duplicate, "misrouted": v.Misrouted, "altered": v.Altered, "out of order": v.OutOfOrder,
	} {
		var ids []string
		for _, e := range f.Examples {
			ids = append(ids, e.EventID)
		}
		if f.Count > 0 {
			out[name] = append(ids, fmt.Sprint(f.Count))
		}
	}
	return out
}

// defects are ways to damage what a bus holds. Each is a list of messages, and of what must be
// found.
var defects = map[string]struct {
	damage func(m []*nats.Msg) []*nats.Msg
	want   func(ids []string) map[string][]string
}{
	"nothing": {func(m []*nats.Msg) []*nats.Msg { return m }, func([]string) map[string][]string { return map[string][]string{} }},
	"missing": {
		func(m []*nats.Msg) []*nats.Msg { return slices.Delete(slices.Delete(m, 200, 202), 0, 1) },
		func(ids []string) map[string][]string {
			return map[string][]string{"missing": {ids[0], ids[200], ids[201], "3"}}
		},
	},
	"a copy": {
		func(m []*nats.Msg) []*nats.Msg { return append(m, m[70]) },
		func(ids []string) map[string][]string { return map[string][]string{"duplicate": {ids[70], "1"}} },
	},
	"another subject": {
		func(m []*nats.Msg) []*nats.Msg {
			moved := *m[70]
			moved.Subject = "waitlist_user.denied"
			if m[70].Subject == moved.Subject {
				moved.Subject = "waitlist_user.created"
			}
			m[70] = &moved
			return m
		},
		func(ids []string) map[string][]string { return map[string][]string{"misrouted": {ids[70], "1"}} },
	},
	"a byte": {
		func(m []*nats.Msg) []*nats.Msg {
			altered := *m[70]
			altered.Data = bytes.Clone(altered.Data)
			altered.Data[len(altered.Data)/2] ^= 1
			m[70] = &altered
			return m
		},
		func(ids []string) map[string][]string { return map[string][]string{"altered": {ids[70], "1"}} },
	},
	"two in the wrong order": {
		func(m []*nats.Msg) []*nats.Msg { m[70], m[71] = m[71], m[70]; return m },
		func(ids []string) map[string][]string { return map[string][]string{"out of order": {ids[70], "1"}} },
	},
	"replayed": {
		func(m []*nats.Msg) []*nats.Msg {
			again := *m[70]
			again.Header = nats.Header{"relay-replay": {"x"}, "event-id": m[70].Header["event-id"]}
			return append(m, &again)
		},
		func([]string) map[string][]string { return map[string][]string{} },
	},
}

func TestVerifyNATSFindsEachDefect(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(600, 21))
	ids := api.IDs(sourcetest.Filter{})
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 600 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	good := stored(t, js, "WORKOS")

	for name, c := range defects {
		t.Run(name, func(t *testing.T) {
			fill(t, js, c.damage(resend(good)))
			code, v := verified(t, config, "--strict")
			require.Equal(t, c.want(ids), found(&v))
			if _, copied := found(&v)["duplicate"]; copied {
				code, v := verified(t, config)
				require.Equal(t, exitDone, code, "at_least_once allows copies")
				require.Equal(t, c.want(ids), found(&v), "and they are reported")
			}
			require.Equal(t, 600, v.Events)
			if len(found(&v)) == 0 {
				require.Equal(t, exitDone, code)
			} else {
				require.Equal(t, exitFailed, code)
			}
		})
	}
	t.Run("repair", func(t *testing.T) {
		fill(t, js, defects["missing"].damage(resend(good)))
		scratch := t.TempDir()
		code, v := verified(t, config, "--repair", "--dir", scratch)
		require.Equal(t, exitDone, code)
		require.Equal(t, 3, v.Repair.Published)
		tail := stored(t, js, "WORKOS")[597:]
		require.Equal(t, []string{ids[0], ids[200], ids[201]}, eventIDs(tail), "in the order of the source")
		require.Equal(t, v.Repair.Run, tail[0].Header.Get("relay-repair"))
		code, v = verified(t, config)
		require.Equal(t, exitDone, code)
		require.Empty(t, found(&v))
		require.Equal(t, 3, v.Repaired)
		left, err := os.ReadDir(scratch)
		require.NoError(t, err)
		require.Empty(t, left, "the temporary directory is gone")
	})
	t.Run("the table names the cases", func(t *testing.T) {
		fill(t, js, defects["two in the wrong order"].damage(resend(good)))
		code, stdout, stderr := do(t, "verify", "--since", "earliest", "--until", "latest", "--config", config)
		require.Equal(t, exitFailed, code)
		require.Regexp(t, `out of order +1 `, stdout)
		require.Contains(t, stdout, ids[70])
		require.Contains(t, stdout, "behind "+ids[71])
		require.Contains(t, stdout, "stream WORKOS at 72")
		require.Contains(t, stderr, "1 fault found")
	})
	t.Run("a part of the range", func(t *testing.T) {
		fill(t, js, defects["missing"].damage(resend(good)))
		code, v := verified(t, config, "--since", ids[100], "--until", "2026-11-01T04:00:00Z")
		require.Equal(t, exitDone, code)
		require.Empty(t, found(&v))
		require.Less(t, v.Events, 100)
		code, v = verified(t, config, "--since", ids[100])
		require.Equal(t, exitFailed, code)
		require.Equal(t, 2, v.Missing.Count)
	})
}

// resend makes messages of what a stream held, without the ids that would make copies vanish.
func resend(stored []*jetstream.RawStreamMsg) []*nats.Msg {
	out := make([]*nats.Msg, len(stored))
	for i, m := range stored {
		h := nats.Header{}
		for k, v := range m.Header {
			if !strings.HasPrefix(k, "Nats-") {
				h[k] = v
			}
		}
		out[i] = &nats.Msg{Subject: m.Subject, Header: h, Data: m.Data}
	}
	return out
}

// fill makes the stream again with the messages. Another one stays meanwhile: after the last stream
// of an account a server removes the directory of the account in its own time, also from under a
// new
// one.
func fill(t *testing.T, js jetstream.JetStream, messages []*nats.Msg) {
	t.Helper()
	_, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "STAYS", Subjects: []string{"stays"}})
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), "WORKOS")
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "WORKOS"))
	_, err = js.CreateStream(t.Context(), s.CachedInfo().Config)
	require.NoError(t, err)
	for _, m := range messages {
		_, err := js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
}

func TestVerifySaysWhatRetentionTook(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(600, 22))
	ids := api.IDs(sourcetest.Filter{})
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 600 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	s, err := js.Stream(t.Context(), "WORKOS")
	require.NoError(t, err)
	require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSequence(251)))
	require.NoError(t, s.DeleteMsg(t.Context(), 401))

	code, v := verified(t, config)
	require.Equal(t, exitFailed, code)
	require.Equal(t, map[string][]string{"missing": {ids[400], "1"}}, found(&v))
	require.Equal(t, 250, v.Expired)
	require.Equal(t, "stream WORKOS", v.Trimmed[0].Log)

	require.NoError(t, s.Purge(t.Context()))
	code, stdout, stderr := do(t, "verify", "--since", spreadStart, "--until", spreadEnd, "--config", config)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stdout, "600 events are older than what the bus keeps now")
	require.Contains(t, stderr, "nothing could be compared")
}

func TestVerifyRoutesDeadLettersAndEncodings(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	big := fmt.Sprintf(`{"object":"event","id":"event_01J0000000000000000000000D","event":"dsync.group.created","data":{"blob":%q},"created_at":"2026-01-01T00:00:00.004Z"}`, strings.Repeat("x", 2<<20))
	require.NoError(t, api.Append([]byte(odd[0]), []byte(odd[1]), []byte(odd[2]), []byte(big)))
	require.NoError(t, api.Append([]byte(`{"object":"event","id":"event_01J0000000000000000000000E","event":"session.created","data":{},"created_at":"2026-01-01T00:00:00.005Z"}`)))
	for _, encoding := range []string{"raw", "cloudevents", "cloudevents_structured"} {
		t.Run(encoding, func(t *testing.T) {
			url, js := newNATS(t)
			config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(),
				"encoding: "+encoding+"\ndead_letter: {topic: relay.dead_letter}\nroutes: [{events: [session.*], drop: true}, {events: [user.*], topic: people}]"))
			r := start(t, "run", "--config", config)
			require.Eventually(t, func() bool { return messages(js, "WORKOS") == 4 }, patient, often, &r.stderr)
			require.Equal(t, exitDone, r.stop(t), &r.stderr)
			code, stdout, stderr := do(t, "verify", "--json", "--since", "earliest", "--until", "latest", "--config", config)
			require.Equal(t, exitDone, code, stdout+stderr)
			var v verdict
			require.NoError(t, json.Unmarshal([]byte(stdout), &v))
			require.Equal(t, []int{4, 1, 1, 0}, []int{v.Events, v.Dropped, v.Parked, v.Faults()})
		})
	}
}

func TestVerifyLooksOnlyUpToTheCheckpoint(t *testing.T) {
	t.Parallel()
	const twin = `{"object":"event","id":"event_01M6BZZZZZ000000000000000%s","event":"user.created","data":{},"created_at":"2026-11-01T11:59:59.999Z"}`
	api := newAPI(t, spread(299, 23))
	require.NoError(t, api.Append(fmt.Appendf(nil, twin, "A")))
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 300 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.NoError(t, api.Append(fmt.Appendf(nil, twin, "B")))

	code, v := verified(t, config)
	require.Equal(t, exitDone, code)
	require.Equal(t, 300, v.Events)
	require.NotNil(t, v.Due)

	code, _, stderr := do(t, "checkpoint", "set", "2026-11-01T04:00:00Z", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	_, v = verified(t, config)
	require.Len(t, api.IDs(sourcetest.Filter{To: instant(t, "2026-11-01T04:00:00Z")}), v.Events, "a position without an event stands before its time")
	code, _, stderr = do(t, "checkpoint", "set", "earliest", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	code, v = verified(t, config)
	require.Equal(t, exitDone, code)
	require.Zero(t, v.Events, "nothing is due")
}

func TestVerifyAndReplayBesideAnEmbeddedServer(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(200, 9))
	addr := freeAddress(t)
	text := strings.Replace(natsConfig(api.URL(), "embedded", t.TempDir(), ""), "url: \"embedded\"", "url: embedded, embedded: {listen: \""+addr+"\", sync_always: false}", 1)
	config := writeConfig(t, text)
	r := start(t, "run", "--config", config)
	verify := []string{"verify", "--since", spreadStart, "--until", spreadEnd, "--config"}
	require.Eventually(t, func() bool {
		code, out, _ := do(t, append(verify, config)...)
		return code == exitDone && strings.Contains(out, "200 events of the source against 200 messages")
	}, patient, often, &r.stderr)
	code, _, stderr := do(t, "replay", "--since", spreadStart, "--until", spreadEnd, "--config", config)
	require.Equal(t, exitDone, code, stderr)
	code, stdout, stderr := do(t, append(verify, config)...)
	require.Equal(t, exitDone, code, stdout+stderr)
	require.Contains(t, stdout, "200 messages are marked relay-replay")
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	hasty := writeConfig(t, strings.Replace(text, "ack_timeout: "+patient.String(), "ack_timeout: 1s", 1))
	code, _, stderr = do(t, append(verify, hasty)...)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "relay run")
}

func TestVerifyOfAStdoutSink(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	config := writeConfig(t, strings.Replace(natsConfig(api.URL(), "nats://127.0.0.1:1", t.TempDir(), ""), "sinks: [", "sinks: [{name: out, type: stdout}, ", 1))
	code, _, stderr := do(t, "verify", "--lane", "out", "--since", "earliest", "--until", "latest", "--config", config)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "keeps nothing")
}

// TestVerifyManyEventsInLittleMemory compares 100,000 events, about 100 MB on either side, in a
// separate process with a limit for its memory, and looks at the most that it ever had: no more
// than a hundredth of the events take, beside what buffers grow to.
func TestVerifyManyEventsInLittleMemory(t *testing.T) {
	t.Parallel()
	const growth = 21 << 10 // KiB
	events := 100_000
	if raceDetector {
		events = 30_000 // memory is not judged then
	}
	if runtime.GOOS != "linux" {
		t.Skip("reads what Linux says in /proc")
	}
	api := newAPI(t, sourcetest.WithLedger(0), sourcetest.WithPopulation(sourcetest.Population{
		Seed: 24, Start: instant(t, spreadStart), InMemory: true, Profile: []sourcetest.Span{{Length: 10 * time.Hour, Events: events}},
	}))
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == events }, 4*patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)

	peak := func(until string) int {
		var stderr output
		cmd := childWith(t, []string{"GOMEMLIMIT=64MiB"}, &stderr, "verify", "--since", spreadStart, "--until", until, "--config", config)
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		most := 0
		for {
			select {
			case err := <-ended:
				require.NoError(t, err, &stderr)
				t.Logf("up to %s: %d MiB of memory, %v of CPU", until, most>>10, cmd.ProcessState.UserTime())
				return most
			case <-time.After(often):
				most = max(most, peakMemory(cmd.Process.Pid))
			}
		}
	}
	few, many := peak("2026-11-01T02:18:00Z"), peak(spreadEnd) // 3 % of the events, and all
	if !raceDetector {
		require.Positive(t, few)
		require.Less(t, many-few, growth)
	}
}

// peakMemory is the most memory that a process has had, in KiB; 0 if it cannot be told.
func peakMemory(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest + " 0")[0])
	if err != nil {
		return 0
	}
	return kib
}
