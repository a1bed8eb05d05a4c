//go:build unix

package field

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
)

// entry is a line of a JSON log.
type entry map[string]any

// told waits until the current life of a relay has logged message at info, or at level if one is
// given, and returns the first such line.
func (r *relay) told(t *testing.T, message string, level ...string) entry {
	t.Helper()
	var found entry
	r.Await(t, func() bool {
		for line := range strings.Lines(r.Output()) {
			var e entry
			if json.Unmarshal([]byte(line), &e) == nil && e["msg"] == message {
				found = e
				return true
			}
		}
		return false
	}, "it logs %q", message)
	require.Equal(t, append(level, "info")[0], found["level"])
	return found
}

// times returns how often the current life of a relay has logged message.
func (r *relay) times(message string) int { return strings.Count(r.Output(), message) }

// TestTheLogTellsALife: a relay and its standby log every change of their lives in one line each,
// in JSON and in text. The standby waits for a minute before it takes over from a silent relay, so
// that a machine that stands still for a moment changes no life.
func TestTheLogTellsALife(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t), newNATS(t, nil)
	ids := appendEvents(t, api, "user.created", 3, 0)
	config := "takeover_after: 1m\n" + natsConfig(api.URL(), bus.URL)
	a := newRelay(t, "a", config, "RELAY_LOG_FORMAT=")
	b := newRelay(t, "b", config, "RELAY_LOG_FORMAT=console")

	a.Start(t)
	started := a.told(t, "relay is starting")
	require.Equal(t, "workos", started["id"])
	first := a.told(t, "first start: no checkpoint yet, and the destination holds nothing")
	require.Equal(t, "the earliest event", first["start"])
	require.Equal(t, "nats", first["lane"])
	caught := a.told(t, "caught up")
	require.EqualValues(t, 3, caught["events"])
	require.Equal(t, ids[2], caught["event"])
	require.IsType(t, 1.0, caught["took_ms"])
	require.NotEmpty(t, caught["created_at"])
	self := a.Lane("nats").Self

	b.Start(t)
	b.Says(t, `INFO standing by: another relay is active {"lane": "nats", "event": "`+ids[2])
	b.Says(t, `"holder": "`+self+`"`)

	code, _, errs := a.Run(t, "pause", "nats")
	require.Equal(t, exitDone, code, errs)
	require.Regexp(t, `^relay command of user .+ on host .+, from 127\.0\.0\.1:\d+$`, a.told(t, "paused by hand")["by"])
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.Admin+"/api/v1/resume", nil)
	require.NoError(t, err)
	request.Header.Set("Relay-Request", "status page")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Regexp(t, `^the status page, from 127\.0\.0\.1:\d+$`, a.told(t, "resumed by hand")["by"])

	text, err := os.ReadFile(a.Config)
	require.NoError(t, err)
	a.WriteConfig(t, string(text)+"log: {level: debug}\n")
	code, _, errs = a.Run(t, "reload")
	require.Equal(t, exitDone, code, errs)
	changed := a.told(t, "the log level has changed")
	require.Equal(t, []any{"info", "debug"}, []any{changed["from"], changed["to"]})
	reloaded := a.told(t, "configuration reloaded")
	require.Equal(t, []any{"log.level: from info to debug"}, reloaded["changes"])
	require.Contains(t, reloaded["by"], "relay command of user ")
	a.WriteConfig(t, string(text)+"log: {level: loud}\n")
	a.Signal(t, syscall.SIGHUP)
	rejected := a.told(t, "reload rejected: nothing has changed", "error")
	require.Equal(t, "SIGHUP", rejected["by"])
	require.Contains(t, rejected["error"], `log.level: "loud" is none of`)
	a.WriteConfig(t, strings.Replace(string(text), "takeover_after: 1m", "takeover_after: 3s", 1)) // from its next start on

	require.Equal(t, exitDone, a.Stop(t))
	require.Equal(t, "terminated signal received", a.told(t, "relay is stopping")["because"])
	stopped := a.told(t, "stopped")
	require.Equal(t, []any{ids[2], "released", 3.0, "nats"}, []any{stopped["event"], stopped["lease"], stopped["events"], stopped["lane"]})
	for _, message := range []string{"first start", "caught up", "paused by hand", "resumed by hand", "relay is stopping", `"msg":"stopped"`} {
		require.Equal(t, 1, a.times(message), message)
	}

	b.Says(t, `INFO took over from another relay, which had stopped in order {"lane": "nats", "event": "`+ids[2])
	b.Says(t, `"from": "`+self+`"`)
	b.Says(t, "INFO caught up {")
	require.Equal(t, 1, b.times("standing by"))

	holder := b.Lane("nats").Self
	b.Kill() // which a does not know
	a.Start(t)
	standing := a.told(t, "standing by: another relay is active")
	require.Equal(t, holder, standing["holder"])
	taken := a.told(t, "took over from another relay, which was silent for takeover_after")
	require.Equal(t, standing["holder"], taken["from"])
	require.Equal(t, ids[2], taken["event"])
	require.IsType(t, 1.0, taken["behind_at_most_ms"])
	a.AwaitState(t, "nats", pipeline.Running)

	a.Kill()
	ids = append(ids, appendEvents(t, api, "user.created", 2, 0)...)
	a.Start(t)
	resumed := a.told(t, "resuming after an event")
	require.Equal(t, ids[2], resumed["event"])
	require.IsType(t, 1.0, resumed["behind_at_most_ms"])
	require.Equal(t, []any{2.0, ids[4]}, []any{a.told(t, "caught up")["events"], a.told(t, "caught up")["event"]})

	appendEvents(t, api, "user.created", 1, 9_000_000) // larger than the bus takes
	require.Equal(t, exitDecides, a.Wait(t))
	stopped = a.told(t, "stopped")
	require.Equal(t, []any{ids[4], "released"}, []any{stopped["event"], stopped["lease"]})
	require.Equal(t, "every lane has stopped", a.told(t, "relay is stopping")["because"])
	require.Equal(t, "nats", a.told(t, "relay ends: a lane has stopped", "error")["lane"])
}

// TestTheLogNamesWhatIsAway: a bus and an API that cannot be reached are named in the headline of a
// line at once, and a relay with several lanes does not repeat that with every attempt.
func TestTheLogNamesWhatIsAway(t *testing.T) {
	t.Parallel()
	nats, kafka, server := testaddr.Free(t), testaddr.Free(t), testaddr.Free(t)
	r := newRelay(t, "relay", sourceConfig("http://"+testaddr.Free(t))+fmt.Sprintf("sinks:\n- {name: one, type: nats, url: %q}\n- {name: two, type: kafka, brokers: [%q]}\n"+
		"- {name: three, type: nats, url: embedded, embedded: {listen: %q}}\n", "nats://"+nats, kafka, server))
	r.Start(t)
	for _, line := range []string{"WARN cannot reach NATS, trying again", "WARN kafka: taking up the position failed, will try again", "WARN a request to the Events API failed; trying again"} {
		r.Says(t, line)
	}
	require.Less(t, r.times(" WARN "), 8, r.Output())
	require.Equal(t, exitDone, r.Stop(t))
}
