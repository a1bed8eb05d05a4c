package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source/sourcetest"
)

// reload reloads and returns what the command says.
func reload(t *testing.T, config string) (code int, said string) {
	t.Helper()
	code, stdout, stderr := do(t, "reload", "--config", config)
	return code, stdout + stderr
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// inOrder returns the event ids that a stream holds, positions left out.
func inOrder(t *testing.T, js jetstream.JetStream, stream string) []string {
	t.Helper()
	var ids []string
	for _, m := range stored(t, js, stream) {
		if id := m.Header.Get("event-id"); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestReloadUnderLoad: while events flow, one lane is changed again and again, another comes and
// goes, and what is wrong is refused. The lane that did not change is the one that it was, and
// every lane has every event once and in order.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 3000, Seed: 1}))
	url, js := newNATS(t)
	dir, addr := t.TempDir(), freeAddress(t)
	text := func(ackTimeout int, more string) string {
		return fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 20ms, rate_limit: 5000}
sinks:
- {name: steady, type: nats, url: %q, stream: STEADY, topic_prefix: steady.}
- {name: changed, type: nats, url: %q, stream: CHANGED, topic_prefix: changed., ack_timeout: %dms}
%s
checkpoint: {dir: %q}
admin: {listen: %q}
delivery: exactly_once
takeover_after: 1h
`, api.URL(), testKey, url, url, ackTimeout, more, dir, addr)
	}
	third := fmt.Sprintf("- {name: third, type: nats, url: %q, stream: THIRD, topic_prefix: third.}", url)
	path := writeConfig(t, text(50_000, ""))
	r := start(t, "run", "--config", path)
	ctx, cancel := context.WithCancel(t.Context())
	made := make(chan error, 1)
	go func() { made <- api.Live(ctx, sourcetest.LiveConfig{Rate: 300, Seed: 7}) }() // fewer than three lanes carry on any machine
	require.Eventually(t, func() bool { return lanes(t, path)["steady"].Events > 0 && lanes(t, path)["changed"].Events > 0 }, patient, often, &r.stderr)

	for round := range 8 {
		timeout, more := 50_001+round, ""
		if round%2 == 0 {
			more = third
		}
		rewrite(t, path, text(timeout, more))
		code, said := reload(t, path)
		require.Equal(t, exitDone, code, said)
		require.Contains(t, said, fmt.Sprintf("sinks[changed].ack_timeout: from %gs to %gs", float64(timeout-1)/1000, float64(timeout)/1000))
		require.Contains(t, said, "lane changed was restarted")
		require.NotContains(t, said, "steady")
		if more != "" {
			require.Contains(t, said, "lane third is new")
		} else {
			require.Contains(t, said, "lane third was stopped and released")
		}
		goal := lanes(t, path)["changed"].Events + 1
		require.Eventually(t, func() bool { return lanes(t, path)["changed"].Events >= goal }, patient, often, &r.stderr)

		rewrite(t, path, text(timeout, "- {name: broken, type: natz}"))
		code, said = reload(t, path)
		require.Equal(t, exitUsage, code)
		require.Contains(t, said, "nothing was reloaded")
		said = postReload(t, addr, http.StatusUnprocessableEntity)
		require.Contains(t, said, "the configuration is rejected, and the running one stays in effect")
		require.Contains(t, said, "natz")
	}
	rewrite(t, path, text(50_008, third)) // ends with all three
	code, said := reload(t, path)
	require.Equal(t, exitDone, code, said)
	cancel()
	require.NoError(t, <-made)
	want := api.IDs(sourcetest.Filter{})
	for _, name := range []string{"steady", "changed", "third"} {
		require.Eventually(t, func() bool {
			l := lanes(t, path)[name]
			return l.AtTip && l.Position.EventID == want[len(want)-1]
		}, patient, often, &r.stderr)
	}
	require.EqualValues(t, len(want), lanes(t, path)["steady"].Events, "one and the same lane has carried all of it")
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	for _, stream := range []string{"STEADY", "CHANGED", "THIRD"} {
		require.Equal(t, want, inOrder(t, js, stream), "every event once and in order in %s", stream)
	}
}

// TestReloadOfOneOfTwoBuses: the Kafka lane changes, the NATS lane runs on.
func TestReloadOfOneOfTwoBuses(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 500, Seed: 1}))
	url, js := newNATS(t)
	bus := newKafka(t)
	text, _ := withAdmin(t, bus.config("exactly_once", api.URL(), t.TempDir(), "{partitions: 3}"))
	text = strings.Replace(text, "sinks: [", fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q}, ", url), 1)
	path := writeConfig(t, text)
	r := start(t, "run", "--config", path)
	require.Eventually(t, func() bool { return events(t, js) == 500 && lanes(t, path)["kafka"].AtTip }, patient, often, &r.stderr)

	rewrite(t, path, strings.Replace(text, "type: kafka,", "type: kafka, compression: gzip,", 1))
	code, said := reload(t, path)
	require.Equal(t, exitDone, code, said)
	require.Contains(t, said, "sinks[kafka].compression: from auto to gzip")
	require.Contains(t, said, "lane kafka was restarted from its position")
	require.NotContains(t, said, "lane nats")
	live(t, api, 500)
	last := api.IDs(sourcetest.Filter{})[999]
	require.Eventually(t, func() bool {
		seen := lanes(t, path)
		return seen["nats"].Position.EventID == last && seen["kafka"].Position.EventID == last
	}, patient, often, &r.stderr)
	seen := lanes(t, path)
	require.EqualValues(t, 1000, seen["nats"].Events)
	require.EqualValues(t, 500, seen["kafka"].Events, "by the new one")
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))
	require.Zero(t, bus.requireAll(t, api.IDs(sourcetest.Filter{})))
}

// TestWhatAReloadRefuses, by name, and nothing changes.
func TestWhatAReloadRefuses(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 20, Seed: 1}))
	url, js := newNATS(t)
	text, addr := withAdmin(t, natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), ""))
	path := writeConfig(t, text)
	r := start(t, "run", "--config", path)
	require.Eventually(t, func() bool { return events(t, js) == 20 }, patient, often, &r.stderr)
	for _, c := range []struct{ old, new, said string }{
		{"", "id: other\n", "id cannot change while relay runs"},
		{"dir: ", "dir: /elsewhere", "checkpoint.dir cannot change"},
		{"type: nats,", "type: nats, stream: OTHER,", `sinks[nats]: its destination would be "nats stream OTHER" instead of "nats stream WORKOS"`},
		{"delivery: exactly_once", "delivery: at_least_once", "relay checkpoint set --lane nats --from bus"},
		{"source: {", "source: {organization_id: org_1, ", `its organization_id would be "org_1"`},
		{"source: {", "source: {webhook: {listen: \"127.0.0.1:1\", secret: x}, ", "source.webhook.listen cannot change"},
		{"source: {", "sauce: {", `unknown key; did you mean "source"?`},
		{"type: nats,", "type: nats, tls: {ca_file: /no/such/file},", "/no/such/file"},
		{"admin: {", "admin: {tls: {cert_file: /no/cert, key_file: /no/key}, ", "whether TLS is spoken cannot change"},
	} {
		changed := c.new + text
		if c.old == "dir: " {
			changed = strings.Replace(text, `checkpoint: {dir: "`, `checkpoint: {dir: "/elsewhere`, 1)
		} else if c.old != "" {
			changed = strings.Replace(text, c.old, c.new, 1)
		}
		require.NotEqual(t, text, changed)
		rewrite(t, path, changed)
		said := postReload(t, addr, http.StatusUnprocessableEntity)
		require.Contains(t, said, "stays in effect")
		require.Contains(t, said, c.said)
		require.Eventually(t, func() bool { return statusOf(t, addr)["nats"].State == pipeline.Running }, patient, often, &r.stderr)
	}
	rewrite(t, path, text)
	code, said := reload(t, path)
	require.Equal(t, exitDone, code, said)
	require.Contains(t, said, "the configuration is what it was")
	live(t, api, 5)
	require.Eventually(t, func() bool { return events(t, js) == 25 }, patient, often, &r.stderr)
	require.Eventually(t, func() bool { return statusOf(t, addr)["nats"].Events == 25 }, patient, often, "by one and the same lane")
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
}

// postReload asks as curl would, for the configuration may be unfit for relay's own command.
func postReload(t *testing.T, addr string, code int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/api/v1/reload", nil)
	require.NoError(t, err)
	req.Header.Set(admin.Header, "test")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	var out struct {
		Error string `json:"error"`
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&out))
	require.Equal(t, code, resp.StatusCode, out.Error)
	return out.Error
}

func statusOf(t *testing.T, addr string) map[string]admin.LaneStatus {
	t.Helper()
	_, body := get(addr, "/api/v1/status")
	var seen admin.Status
	require.NoError(t, json.Unmarshal([]byte(body), &seen), body)
	out := map[string]admin.LaneStatus{}
	for _, l := range seen.Lanes {
		out[l.Name] = l
	}
	return out
}

// TestReloadReadsSecretsAgain: the API key in a file, and the admin token in another. A pause
// outlives the reload.
func TestReloadReadsSecretsAgain(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 20, Seed: 1}))
	url, js := newNATS(t)
	dir := t.TempDir()
	key, token := filepath.Join(dir, "key"), filepath.Join(dir, "token")
	rewrite(t, key, testKey)
	rewrite(t, token, "the-first-token-of-all")
	addr := freeAddress(t)
	text := fmt.Sprintf(`
source: {endpoint: %q, api_key_file: %q, poll_interval: 20ms}
sinks: [{name: nats, type: nats, url: %q}]
checkpoint: {dir: %q}
admin: {listen: %q, token_file: %q}
delivery: exactly_once
`, api.URL(), key, url, filepath.Join(dir, "relay"), addr, token)
	path := writeConfig(t, text)
	r := start(t, "run", "--config", path)
	require.Eventually(t, func() bool { return events(t, js) == 20 }, patient, often, &r.stderr)
	code, body := get(addr, "/api/v1/status")
	require.Equal(t, http.StatusUnauthorized, code, body)
	pause(t, path)

	api.SetAPIKey("sk_the_next_one")
	rewrite(t, key, "sk_the_next_one")
	code, said := reload(t, path)
	require.Equal(t, exitDone, code, said)
	require.Contains(t, said, "source.api_key: changed\n")
	require.NotContains(t, said, "sk_the_next_one")
	require.Eventually(t, func() bool { return lanes(t, path)["nats"].State == pipeline.Paused }, patient, often, "a pause is not ended by a reload")
	live(t, api, 5)
	require.Equal(t, 20, events(t, js))
	code, _, stderr := do(t, "resume", "--config", path)
	require.Equal(t, exitDone, code, stderr)
	require.Eventually(t, func() bool { return events(t, js) == 25 }, patient, often, &r.stderr)

	rewrite(t, token+".wrong", "a-token-that-nobody-set")
	code, said = reload(t, writeConfig(t, strings.ReplaceAll(text, token, token+".wrong")))
	require.Equal(t, exitFailed, code)
	require.Contains(t, said, "admin.token")
	client, err := admin.NewClient(addr, admin.Security{Token: "the-first-token-of-all"})
	require.NoError(t, err)
	rewrite(t, token, "the-second-token-of-all")
	done, err := client.Reload(t.Context())
	if err != nil { // relay, which looks at its files every two seconds, knew the new one already
		require.ErrorContains(t, err, "admin.token")
	} else {
		require.Equal(t, admin.Reloaded{Changes: []string{"admin.token: changed"}, Lanes: []string{}, Settings: []sink.Setting{}}, done)
	}
	_, err = client.Status(t.Context())
	require.ErrorContains(t, err, "admin.token")
	require.Eventually(t, func() bool { return lanes(t, path)["nats"].Ready }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.NotContains(t, r.stderr.String(), "token-of-all")
	require.NotContains(t, r.stderr.String(), "sk_the_next_one")
}

// TestHangupReloads sends SIGHUP to a separate process. A wrong configuration does not end it.
func TestHangupReloads(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 20, Seed: 1}))
	url, js := newNATS(t)
	text, addr := withAdmin(t, natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), ""))
	path := writeConfig(t, text)
	reloaded := func(want string) func() bool {
		return func() bool {
			_, body := get(addr, "/metrics")
			return strings.Contains(body, "relay_config_last_reload_successful "+want+"\n")
		}
	}
	var stderr output
	cmd := child(t, &stderr, "run", "--config", path)
	defer func() { _ = cmd.Process.Kill() }()
	require.Eventually(t, func() bool { return events(t, js) == 20 }, patient, often, &stderr)
	rewrite(t, path, "id: [")
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return strings.Contains(stderr.String(), "stays in effect") }, patient, often, &stderr)
	require.Eventually(t, reloaded("0"), patient, often)
	rewrite(t, path, strings.Replace(text, "poll_interval: 20ms", "poll_interval: 25ms", 1))
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return strings.Contains(stderr.String(), "source.poll_interval: from 20ms to 25ms") }, patient, often, &stderr)
	require.Eventually(t, reloaded("1"), patient, often)
	live(t, api, 5)
	require.Eventually(t, func() bool { return events(t, js) == 25 }, patient, often, &stderr)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), &stderr)
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))
}

// TestALaneThatIsStartedAtTheEndIsStopped: its relay goes down, since every lane had stopped, and
// is reloaded before its admin server has closed. Nothing runs on what is closed, and the position
// is left in order.
func TestALaneThatIsStartedAtTheEndIsStopped(t *testing.T) {
	t.Parallel()
	big := fmt.Sprintf(`{"object":"event","id":"event_01J0000000000000000000000D","event":"dsync.group.created","data":{"blob":%q},"created_at":"2026-01-01T00:00:00.004Z"}`,
		strings.Repeat("x", 2<<20))
	api := newAPI(t)
	require.NoError(t, api.Append([]byte(odd[0]), []byte(big)))
	url, js := newNATS(t)
	dir := t.TempDir()
	parse := func(more string) (*config.Config, error) {
		return format.Parse("", []byte(natsConfig(api.URL(), url, dir, more)), noEnv)
	}
	cfg, err := parse("")
	require.NoError(t, err)
	var r *app.Relay
	err = app.Serve(t.Context(), cfg, zap.NewNop(), app.Options{
		Reread: func() (*config.Config, error) { return parse("dead_letter: {topic: relay.dead_letter}") },
		Started: func(started *app.Relay) func() {
			r = started
			return func() { // no lane runs any more
				done, err := r.Reload(t.Context())
				require.NoError(t, err)
				require.Equal(t, []string{"nats was restarted from its position"}, done.Lanes)
				require.Eventually(t, func() bool { return messages(js, "WORKOS") == 2 }, patient, often)
			}
		},
	})
	require.Equal(t, exitOperator, exitCode(err), err)
	require.Equal(t, pipeline.Stopped, r.Status()[0].State)
	lanes, err := app.NewLanes(cfg, zap.NewNop())
	require.NoError(t, err)
	cp, err := checkpoint.ReadFile(dir, lanes[0].Identity())
	require.NoError(t, err)
	require.True(t, cp.Released)
	require.Equal(t, "event_01J0000000000000000000000D", cp.EventID)
}
