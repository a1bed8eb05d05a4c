package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// withAdmin lets the relay of a configuration be steered, on an address that is returned.
func withAdmin(t *testing.T, text string) (config, addr string) {
	t.Helper()
	addr = freeAddress(t)
	return strings.Replace(text, `listen: ""`, "listen: "+addr, 1), addr
}

// lanes returns what relay status tells, by lane.
func lanes(t *testing.T, config string) map[string]admin.LaneStatus {
	t.Helper()
	_, stdout, stderr := do(t, "status", "--json", unhurried, "--config", config)
	var seen overview
	require.NoError(t, json.Unmarshal([]byte(stdout), &seen), stderr)
	out := map[string]admin.LaneStatus{}
	for _, l := range seen.Lanes {
		out[l.Name] = l
	}
	return out
}

func live(t *testing.T, api *sourcetest.Server, n int) {
	t.Helper()
	require.NoError(t, api.Live(t.Context(), sourcetest.LiveConfig{Rate: 100_000, Seed: uint64(api.Len()), Max: n}))
}

// pause pauses lanes and waits until they rest, for which the command itself waits only a while. It
// returns what that has printed.
func pause(t *testing.T, config string, names ...string) (stdout string) {
	t.Helper()
	var code int
	var stderr string
	require.Eventually(t, func() bool {
		code, stdout, stderr = do(t, append([]string{"pause", "--config", config}, names...)...)
		return code == exitDone || !strings.Contains(stderr, "not every lane is at rest")
	}, patient, often)
	require.Equal(t, exitDone, code, stderr)
	return stdout
}

func TestPauseResumePoll(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 300, Seed: 1}))
	url, js := newNATS(t)
	text, _ := withAdmin(t, strings.Replace(natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), ""), "poll_interval: 20ms", "poll_interval: 1h", 1))
	config := writeConfig(t, text)
	fromBus := func(says string) { // a bus that is slow to answer is named instead
		t.Helper()
		var code int
		var stdout, stderr string
		require.Eventually(t, func() bool {
			code, stdout, stderr = do(t, "status", unhurried, "--config", config)
			return strings.Contains(stdout, says)
		}, patient, often)
		require.Equal(t, exitFailed, code, stderr)
		require.Contains(t, stdout, "no relay answers on")
	}
	fromBus("it has never run")

	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return events(t, js) == 300 }, patient, often, &r.stderr)
	require.Eventually(t, func() bool { return lanes(t, config)["nats"].AtTip }, patient, often)
	code, stdout, stderr := do(t, "status", unhurried, "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.Regexp(t, `nats +nats +healthy +running +exactly_once +none +[0-9.]+ +300 +this relay +event_`, stdout)

	live(t, api, 1)
	code, _, stderr = do(t, "poll", "--config", config) // an hour before its time
	require.Equal(t, exitDone, code, stderr)
	require.Eventually(t, func() bool { return events(t, js) == 301 }, patient, often, &r.stderr)

	require.Regexp(t, `nats +paused`, pause(t, config, "nats"))
	code, stdout, stderr = do(t, "status", unhurried, "--config", config)
	require.Equal(t, exitFailed, code, "a paused lane is not healthy")
	require.Contains(t, stderr, "not every lane is healthy")
	require.Contains(t, stdout, "`relay resume nats` ends it")
	live(t, api, 1)
	before := lanes(t, config)["nats"]
	code, _, stderr = do(t, "poll", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.Never(t, func() bool { return !lanes(t, config)["nats"].LastPoll.Equal(*before.LastPoll) }, 100*time.Millisecond, often, "a paused lane asks nothing")
	require.Equal(t, pipeline.Paused, lanes(t, config)["nats"].State)

	code, _, stderr = do(t, "resume", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.Eventually(t, func() bool { return events(t, js) == 302 }, patient, often, &r.stderr)
	code, _, stderr = do(t, "pause", "kafka", "--config", config)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, `there is no lane "kafka"; the lanes are nats`)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))
	fromBus("its relay has stopped")
}

// TestStatusSaysWhoIsActive, from either relay, and from neither.
func TestStatusSaysWhoIsActive(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 100, Seed: 1}))
	url, js := newNATS(t)
	text := func() string { // long, so that nobody takes over on a slow machine, and short enough to see a renewal
		return natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), "takeover_after: 1m")
	}
	first, _ := withAdmin(t, text())
	firstPath := writeConfig(t, first)
	a := start(t, "run", "--config", firstPath)
	require.Eventually(t, func() bool { return events(t, js) == 100 }, patient, often, &a.stderr)
	second, _ := withAdmin(t, text())
	secondPath := writeConfig(t, second)
	b := start(t, "run", "--config", secondPath)
	require.Eventually(t, func() bool { return lanes(t, secondPath)["nats"].State == pipeline.Standby }, patient, often, &b.stderr)

	active, standby := lanes(t, firstPath)["nats"], lanes(t, secondPath)["nats"]
	require.True(t, active.Active)
	require.False(t, standby.Active)
	require.Equal(t, active.Self, standby.Holder)
	code, stdout, _ := do(t, "status", unhurried, "--config", secondPath)
	require.Equal(t, exitDone, code, "a standby is healthy")
	require.Regexp(t, `nats +nats +healthy +standby .*`+active.Self, stdout)

	elsewhere := writeConfig(t, text()) // admin.listen is ""
	code, stdout, stderr := do(t, "status", unhurried, "--config", elsewhere)
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stdout, "admin.listen is switched off")
	require.Regexp(t, `nats +nats +healthy +active +exactly_once .*`+active.Self, stdout)
	require.Equal(t, exitDone, b.stop(t), &b.stderr)
	require.Equal(t, exitDone, a.stop(t), &a.stderr)
}

// TestStatusStartsNothing: the server inside relay is not started to look into it.
func TestStatusStartsNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "relay-data")
	config := writeConfig(t, fmt.Sprintf("source: {api_key: k}\nsinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q}}]\ncheckpoint: {dir: %q}\nadmin: {listen: %q}\n",
		freeAddress(t), dir, freeAddress(t)))
	code, stdout, stderr := do(t, "status", unhurried, "--config", config)
	require.Equal(t, exitFailed, code, stderr)
	require.Contains(t, stdout, "the NATS server inside relay does not run")
	require.NoDirExists(t, dir)
}

func TestStatusWatches(t *testing.T) {
	t.Parallel()
	config := writeConfig(t, natsConfig("http://127.0.0.1:1", "nats://127.0.0.1:1", t.TempDir(), ""))
	r := start(t, "status", "--watch", "--json", "--interval", "5ms", "--timeout", "10ms", "--config", config)
	require.Eventually(t, func() bool { return strings.Count(r.stdout.String(), "\n") > 2 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t))
	for line := range strings.Lines(r.stdout.String()) {
		require.True(t, json.Valid([]byte(line)), line)
	}
}

// keptIn reads the checkpoint of which a command says that it is kept.
func keptIn(t *testing.T, stdout string) checkpoint.Checkpoint {
	t.Helper()
	found := regexp.MustCompile(`the checkpoint from before is kept in (.+)`).FindStringSubmatch(stdout)
	require.NotNil(t, found, stdout)
	text, err := os.ReadFile(found[1])
	require.NoError(t, err)
	cp, err := checkpoint.Decode(text)
	require.NoError(t, err)
	return cp
}

// TestMoveARelayThatRuns goes back and forth under its feet, and nothing else moves it meanwhile.
func TestMoveARelayThatRuns(t *testing.T) {
	t.Parallel()
	for _, delivery := range []string{"at_least_once", "exactly_once"} {
		t.Run(delivery, func(t *testing.T) {
			api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 100, Seed: 1}))
			ids := api.IDs(sourcetest.Filter{})
			url, js := newNATS(t)
			dir, seen := t.TempDir(), 0
			text, _ := withAdmin(t, natsConfigFor(delivery, api.URL(), url, dir, ""))
			config := writeConfig(t, text)
			r := start(t, "run", "--config", config)
			require.Eventually(t, func() bool { return events(t, js) == 100 }, patient, often, &r.stderr)
			asked := func(after string) bool { // since the last time
				requests := api.Requests()
				return slices.ContainsFunc(requests[min(seen, len(requests)):], func(req sourcetest.Request) bool {
					return req.Query().Get("after") == after && !req.Query().Has("range_start") // by time it asks whether it misses anything
				})
			}

			seen = api.Count()
			require.Eventually(t, func() bool { return lanes(t, config)["nats"].Position.EventID == ids[99] }, patient, often, &r.stderr)
			code, stdout, stderr := do(t, "checkpoint", "set", ids[89], "--config", config)
			require.Equal(t, exitDone, code, stderr)
			require.Contains(t, stdout, "lane nats now stands at: "+ids[89])
			require.Contains(t, stdout, "before, it stood at: "+ids[99])
			require.Equal(t, ids[99], keptIn(t, stdout).EventID)
			require.Eventually(t, func() bool { return asked(ids[89]) }, patient, often, &r.stderr)
			require.Eventually(t, func() bool { return lanes(t, config)["nats"].Position.EventID == ids[99] }, patient, often, &r.stderr)

			seen = api.Count()
			code, _, stderr = do(t, "checkpoint", "reset", "--config", config)
			require.Equal(t, exitDone, code, stderr)
			require.Eventually(t, func() bool { return asked("") }, patient, often, &r.stderr)
			require.Eventually(t, func() bool { return lanes(t, config)["nats"].Position.EventID == ids[99] }, patient, often, &r.stderr)
			if delivery == "exactly_once" { // else the stream knows the copies by their ids
				require.Eventually(t, func() bool { return events(t, js) == 210 }, patient, often, &r.stderr)
			}
			for _, c := range []struct{ arg, contains string }{
				{"--from=bus", "stop relay first"},
				{"last week", "is not a place to start from"},
				{"--from=kafka", `no sink "kafka"`},
			} {
				code, _, stderr = do(t, "checkpoint", "set", c.arg, "--config", config)
				require.NotEqual(t, exitDone, code, c.arg)
				require.Contains(t, stderr, c.contains)
			}
			require.Equal(t, exitDone, r.stop(t), &r.stderr)
			require.Contains(t, r.stderr.String(), "the position was moved by hand")
		})
	}
}

// TestMovingWithoutTheAdminAddressIsRefused: the directory is locked, and nobody can be asked.
func TestMovingWithoutTheAdminAddressIsRefused(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 10, Seed: 1}))
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 10 }, patient, often, &r.stderr)
	code, _, stderr := do(t, "checkpoint", "set", "earliest", "--config", config)
	require.Equal(t, exitOperator, code)
	require.Contains(t, stderr, "another relay")
	require.Contains(t, stderr, "admin.listen is switched off")
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
}

// TestAStoppedLaneGoesOnWhereItIsTold while the other never stopped.
func TestAStoppedLaneGoesOnWhereItIsTold(t *testing.T) {
	t.Parallel()
	big := fmt.Sprintf(`{"object":"event","id":"event_01J0000000000000000000000D","event":"dsync.group.created","data":{"blob":%q},"created_at":"2026-01-01T00:00:00.004Z"}`,
		strings.Repeat("x", 2<<20))
	after := `{"object":"event","id":"event_01J0000000000000000000000E","event":"user.created","data":{},"created_at":"2026-01-01T00:00:00.005Z"}`
	api := newAPI(t)
	require.NoError(t, api.Append([]byte(odd[0]), []byte(big), []byte(after)))
	url, js := newNATS(t)
	text, addr := withAdmin(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	text = strings.Replace(text, "sinks: [", `sinks: [{name: users, type: nats, url: "`+url+`", stream: USERS, topic_prefix: only., events: ["user.*"]}, `, 1)
	config := writeConfig(t, text)
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return lanes(t, config)["nats"].State == pipeline.Stopped }, patient, often, &r.stderr)
	require.Eventually(t, func() bool { return messages(js, "USERS") == 2 }, patient, often, &r.stderr)
	code, body := get(addr, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "stopped at event")

	code, _, stderr := do(t, "pause", "nats", "--config", config)
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "lane nats has stopped: stopped at event")
	command := regexp.MustCompile("`relay (checkpoint set .*)`").FindStringSubmatch(lanes(t, config)["nats"].Reason)
	require.NotNil(t, command, "the error says what to do")
	args := append(strings.Fields(command[1]), "--config", config)
	code, _, stderr = do(t, slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return arg == "--skip" })...)
	require.NotEqual(t, exitDone, code, "it skips nothing unless it is told to")
	require.Contains(t, stderr, "would skip 1 event that follows its position, event_01J0000000000000000000000D; choose an earlier position, or add --skip")
	code, stdout, stderr := do(t, args...)
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stdout, "lane nats now stands at: event_01J0000000000000000000000D")
	require.Contains(t, stdout, "skipped 1 event that followed its position: event_01J0000000000000000000000D")
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 2 }, patient, often, &r.stderr)
	require.Eventually(t, func() bool { return lanes(t, config)["nats"].Ready }, patient, often, &r.stderr)
	require.Eventually(t, func() bool { return lanes(t, config)["users"].Events == 2 }, patient, often, "the other lane is the one that it was")
	require.Equal(t, exitDone, r.stop(t), "what it had stopped for is settled")
}

// TestALaneThatHasOnlyJustStoppedIsMoved: its status tells that it has stopped a moment before its
// goroutine has ended.
func TestALaneThatHasOnlyJustStoppedIsMoved(t *testing.T) {
	t.Parallel()
	big := fmt.Sprintf(`{"object":"event","id":"event_01J0000000000000000000000D","event":"dsync.group.created","data":{"blob":%q},"created_at":"2020-01-01T00:00:00Z"}`,
		strings.Repeat("x", 2<<20))
	api := newAPI(t)
	require.NoError(t, api.Append([]byte(big)))
	url, js := newNATS(t)
	text := strings.Replace(natsConfig(api.URL(), url, t.TempDir(), ""), "sinks: [", `sinks: [{name: users, type: nats, url: "`+url+`", stream: USERS, topic_prefix: only., events: ["user.*"]}, `, 1)
	cfg, err := format.Parse("", []byte(text), noEnv)
	require.NoError(t, err)
	stopped, end := make(chan struct{}), make(chan struct{})
	quiet := zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(io.Discard), zap.ErrorLevel)
	log := zap.New(quiet, zap.Hooks(func(e zapcore.Entry) error {
		if strings.Contains(e.Message, "a lane has stopped") {
			close(stopped)
			<-end
		}
		return nil
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun, ended := make(chan *app.Relay, 1), make(chan error, 1)
	go func() {
		ended <- app.Serve(ctx, cfg, log, app.Options{Started: func(r *app.Relay) func() { begun <- r; return func() {} }})
	}()
	r := <-begun
	<-stopped
	moved := make(chan error, 1)
	go func() {
		_, err := r.SetCheckpoint(ctx, "nats", admin.Destination{To: "latest", Skip: true})
		moved <- err
	}()
	require.Eventually(t, func() bool { // it has found the lane and asks where latest is
		return slices.ContainsFunc(api.Requests(), func(req sourcetest.Request) bool { return req.Query().Get("limit") == "1" })
	}, patient, often)
	close(end)
	require.NoError(t, <-moved)
	live(t, api, 1)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 1 }, patient, often)
	cancel()
	require.NoError(t, <-ended, "what it had stopped for is settled")
}

// TestAPausedRelayKeepsItsPlaceOnTheBus for longer than a standby waits for one that is silent, on
// each bus.
func TestAPausedRelayKeepsItsPlaceOnTheBus(t *testing.T) {
	t.Parallel()
	const takeover = 10 * time.Second // within which a renewal comes through on any machine
	for name, config := range map[string]func(t *testing.T, apiURL string) func() string{
		"nats": func(t *testing.T, apiURL string) func() string {
			url, _ := newNATS(t)
			return func() string {
				return natsConfigFor("exactly_once", apiURL, url, t.TempDir(), fmt.Sprintf("takeover_after: %s", takeover))
			}
		},
		"kafka": func(t *testing.T, apiURL string) func() string {
			bus := newKafka(t)
			return func() string {
				return bus.config("exactly_once", apiURL, t.TempDir(), "{partitions: 1}") + fmt.Sprintf("takeover_after: %s\n", takeover)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 50, Seed: 1}))
			text := config(t, api.URL())
			first, firstAddr := withAdmin(t, text())
			second, secondAddr := withAdmin(t, text())
			path := writeConfig(t, first)
			a := start(t, "run", "--config", path)
			require.Eventually(t, func() bool { return get200(firstAddr) && statusOf(t, firstAddr)[name].Events == 50 }, patient, often, &a.stderr)
			b := start(t, "run", "--config", writeConfig(t, second))
			require.Eventually(t, func() bool { return get200(secondAddr) && statusOf(t, secondAddr)[name].State == pipeline.Standby }, patient, often, &b.stderr)

			pause(t, path)
			paused := *statusOf(t, firstAddr)[name].MovedAt
			require.Eventually(t, func() bool { return statusOf(t, firstAddr)[name].MovedAt.Sub(paused) > takeover+takeover/2 }, patient, often, "it renews")
			require.Equal(t, pipeline.Paused, statusOf(t, firstAddr)[name].State)
			require.Equal(t, pipeline.Standby, statusOf(t, secondAddr)[name].State)
			require.NotContains(t, b.stderr.String(), "taken the position over")

			code, _, stderr := do(t, "resume", "--config", path)
			require.Equal(t, exitDone, code, stderr)
			live(t, api, 10)
			require.Eventually(t, func() bool { return statusOf(t, firstAddr)[name].Events == 60 }, patient, often, &a.stderr)
			require.Equal(t, exitDone, a.stop(t), &a.stderr)
			require.Eventually(t, func() bool { return statusOf(t, secondAddr)[name].Active }, patient, often, &b.stderr)
			require.Equal(t, exitDone, b.stop(t), &b.stderr)
		})
	}
}

// get200 reports whether the relay on addr tells how it is.
func get200(addr string) bool {
	code, _ := get(addr, "/api/v1/status")
	return code == http.StatusOK
}

// TestAPauseOutlivesAStop: a lane that stops while it is paused, since its position has gone, is
// moved and does not run off.
func TestAPauseOutlivesAStop(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 50, Seed: 1}))
	url, js := newNATS(t)
	text, _ := withAdmin(t, natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), "takeover_after: 3s"))
	text = strings.Replace(text, "sinks: [", `sinks: [{name: other, type: nats, url: "`+url+`", stream: OTHER, topic_prefix: other.}, `, 1)
	config := writeConfig(t, text)
	r := start(t, "run", "--config", config)
	ids := api.IDs(sourcetest.Filter{})
	require.Eventually(t, func() bool {
		return events(t, js) == 50 && lanes(t, config)["nats"].Position.EventID == ids[49] // the lane knows that they are stored
	}, patient, often, &r.stderr)
	pause(t, config, "nats")
	stream, err := js.Stream(t.Context(), "WORKOS")
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), purgePosition))
	require.Eventually(t, func() bool { return lanes(t, config)["nats"].State == pipeline.Stopped }, patient, often, &r.stderr)

	code, _, stderr := do(t, "checkpoint", "set", ids[49], "--lane", "nats", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.Eventually(t, func() bool { return lanes(t, config)["nats"].State == pipeline.Paused }, patient, often, &r.stderr)
	code, _, stderr = do(t, "resume", "nats", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	live(t, api, 5)
	require.Eventually(t, func() bool { return events(t, js) == 55 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))
}

// TestAReasonHidesSecrets: if a bus or an event repeats a secret, /readyz does not, even to a
// sender with the token. Without the token it gives no reason at all.
func TestAReasonHidesSecrets(t *testing.T) {
	t.Parallel()
	const secret = "event_01J000000000000000000TOKEN" // as an event may be called
	big := fmt.Sprintf(`{"object":"event","id":%q,"event":"dsync.group.created","data":{"blob":%q},"created_at":"2026-01-01T00:00:00.004Z"}`, secret, strings.Repeat("x", 2<<20))
	api := newAPI(t)
	require.NoError(t, api.Append([]byte(big)))
	url, js := newNATS(t)
	text, addr := withAdmin(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	text = strings.Replace(text, "admin: {", "admin: {token: "+secret+", ", 1)
	text = strings.Replace(text, "sinks: [", `sinks: [{name: users, type: nats, url: "`+url+`", stream: USERS, topic_prefix: only., events: ["user.*"]}, `, 1)
	config := writeConfig(t, text)
	r := start(t, "run", "--config", config)
	var body string
	require.Eventually(t, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/readyz", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		read, _ := io.ReadAll(resp.Body)
		body = string(read)
		return strings.Contains(body, "stopped at event")
	}, patient, often, &r.stderr)
	_, anonymous := get(addr, "/readyz")
	require.JSONEq(t, `{"ready": false}`, anonymous)
	require.Zero(t, messages(js, "WORKOS"))
	require.Contains(t, body, "stopped at event [secret] (dsync.group.created)")
	require.NotContains(t, lanes(t, config)["nats"].Reason, secret)
	require.Equal(t, exitOperator, r.stop(t), &r.stderr)
}
