package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/source/sourcetest"
)

// odd are events whose bytes are easily lost: big integers, unicode escaped and not, unknown
// fields, white space, duplicate names.
var odd = []string{
	`{"object":"event","id":"event_01J0000000000000000000000A","event":"user.created","data":{"object":"user","id":"user_1","n":12345678901234567890123,"f":1.0e+2},"created_at":"2026-01-01T00:00:00.001Z"}`,
	`{"object":"event","id":"event_01J0000000000000000000000B","event":"user.created","data":{"name":"Zo\u00eb ☃ \ud83d\ude00 ` + "\u00e9" + `"},"created_at":"2026-01-01T00:00:00.002Z","context":{"client_id":null}}`,
	"{\n  \"object\": \"event\",\t\"id\": \"event_01J0000000000000000000000C\", \"event\": \"user.created\",\n \"data\": { \"a\" : 1, \"a\" : 2 }, \"created_at\": \"2026-01-01T00:00:00.003Z\", \"x_new\": [ 1,2 ]}",
}

// P10: byte for byte.
func TestBytesOnTheBusAreThoseServed(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	for _, raw := range odd {
		require.NoError(t, api.Append([]byte(raw)))
	}
	url, js := newNATS(t)
	r := start(t, "run", "--config", writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), "")))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == len(odd) }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	for i, m := range stored(t, js, "WORKOS") {
		require.Equal(t, odd[i], string(m.Data))
		require.Equal(t, "user.created", m.Subject)
		require.Equal(t, "user.created", m.Header.Get("event-type"))
		require.NotContains(t, m.Header, "traceparent", "traces are off")
	}
}

func TestARestartGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 3000, Seed: 1}))
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	var pages int
	for _, n := range []int{3000, 3200} {
		if n > 3000 {
			for i := 3000; i < n; i++ {
				require.NoError(t, api.Append(fmt.Appendf(nil, `{"object":"event","id":"event_9%025d","event":"user.updated","data":{},"created_at":"2030-01-01T00:00:00Z"}`, i)))
			}
			pages = api.Count()
		}
		r := start(t, "run", "--config", config)
		require.Eventually(t, func() bool { return messages(js, "WORKOS") == n }, patient, often, &r.stderr)
		require.Equal(t, exitDone, r.stop(t), &r.stderr)
	}
	var ids []string
	for _, m := range stored(t, js, "WORKOS") {
		ids = append(ids, m.Header.Get("event-id"))
	}
	require.Equal(t, api.IDs(sourcetest.Filter{}), ids)
	for _, req := range api.Requests() {
		if pages--; pages >= 0 || req.Query().Get("after") != "" {
			continue
		}
		// Without a cursor it may only look whether the last event is still listed, at the instant
		// of that event.
		from, err := time.Parse(time.RFC3339, req.Query().Get("range_start"))
		require.NoError(t, err, "the second run must not begin at the beginning: %s", req.RawQuery)
		to, err := time.Parse(time.RFC3339, req.Query().Get("range_end"))
		require.NoError(t, err, "the second run must not begin at the beginning: %s", req.RawQuery)
		require.Less(t, to.Sub(from), time.Second)
	}
}

func TestMetricsAndReadiness(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 500, Seed: 1}))
	url, js := newNATS(t)
	addr := freeAddress(t)
	config := strings.Replace(natsConfig(api.URL(), url, t.TempDir(), ""), `listen: ""`, "listen: "+addr, 1)
	r := start(t, "run", "--config", writeConfig(t, config))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 500 }, patient, often, &r.stderr)
	require.Eventually(t, func() bool { code, _ := get(addr, "/readyz"); return code == http.StatusOK }, patient, often)
	require.Eventually(t, func() bool {
		_, body := get(addr, "/metrics")
		return strings.Contains(body, `relay_lag_seconds{lane="nats"} 0`)
	}, patient, often)
	_, body := get(addr, "/metrics")
	published := regexp.MustCompile(`relay_published_messages_total\{lane="nats"\} (\d+)`).FindStringSubmatch(body)
	require.Equal(t, "500", published[1])
	require.NotRegexp(t, testKey, strings.ReplaceAll(body, "\n", " "))
	checkMetrics(t, body)
	require.Equal(t, exitDone, r.stop(t))
}

// checkMetrics checks a scrape with Prometheus's own tool, if that is available.
func checkMetrics(t *testing.T, scrape string) {
	t.Helper()
	tool := os.Getenv("RELAY_TEST_PROMTOOL")
	if tool == "" {
		return
	}
	cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
}

func get(addr, path string) (int, string) {
	resp, err := http.Get("http://" + addr + path)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// TestStopsThatOnlyAPersonCanDecide: each ends with exit code 3, a sentence that says what to do,
// and nothing published.
//
// P3: a checkpoint that is lost, corrupt or foreign.
func TestStopsThatOnlyAPersonCanDecide(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 300, Seed: 1}), sourcetest.WithLostCursor(sourcetest.LostBadRequest))
	url, js := newNATS(t)
	dir := t.TempDir()
	config := writeConfig(t, natsConfig(api.URL(), url, dir, ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 300 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t))
	file := filepath.Join(dir, "workos.nats.checkpoint")
	good, err := os.ReadFile(file)
	require.NoError(t, err)

	for name, c := range map[string]struct {
		damage func(t *testing.T)
		says   string
	}{
		"lost":      {func(t *testing.T) { require.NoError(t, os.Remove(file)) }, "relay checkpoint set"},
		"truncated": {func(t *testing.T) { require.NoError(t, os.WriteFile(file, good[:len(good)/2], 0o600)) }, "relay checkpoint set"},
		"empty":     {func(t *testing.T) { require.NoError(t, os.WriteFile(file, nil, 0o600)) }, "relay checkpoint set"},
		"cursor": {func(t *testing.T) {
			ids := api.IDs(sourcetest.Filter{})
			api.Expire(ids[len(ids)-1])
		}, "relay checkpoint set"},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(file, good, 0o600))
			c.damage(t)
			code, _, stderr := do(t, "run", "--config", config)
			require.Equal(t, exitOperator, code, stderr)
			require.Contains(t, stderr, c.says)
			require.Equal(t, 300, messages(js, "WORKOS"))
		})
	}
	require.NoError(t, os.WriteFile(file, good, 0o600))
	t.Run("foreign", func(t *testing.T) {
		other := newAPI(t)
		code, _, stderr := do(t, "run", "--config", writeConfig(t, natsConfig(other.URL(), url, dir, "")))
		require.Equal(t, exitOperator, code, stderr)
		require.Contains(t, stderr, api.URL())
		require.Contains(t, stderr, "relay checkpoint set")
	})
}

func TestASecondRelayOnTheSameFolderSaysSo(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 10, Seed: 1}))
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 10 }, patient, often, &r.stderr)
	code, _, stderr := do(t, "run", "--config", config)
	require.Equal(t, exitOperator, code)
	require.Contains(t, stderr, "another relay")
	require.Equal(t, exitDone, r.stop(t))
}

func TestAnEventTooLargeForTheBus(t *testing.T) {
	t.Parallel()
	big := fmt.Sprintf(`{"object":"event","id":"event_01J0000000000000000000000D","event":"dsync.group.created","data":{"blob":%q},"created_at":"2026-01-01T00:00:00.004Z"}`,
		strings.Repeat("x", 2<<20))
	after := `{"object":"event","id":"event_01J0000000000000000000000E","event":"user.created","data":{},"created_at":"2026-01-01T00:00:00.005Z"}`
	load := func(t *testing.T) *sourcetest.Server {
		api := newAPI(t)
		require.NoError(t, api.Append([]byte(odd[0]), []byte(big), []byte(after)))
		return api
	}
	t.Run("is parked if a dead letter topic is configured", func(t *testing.T) {
		api := load(t)
		url, js := newNATS(t)
		r := start(t, "run", "--config", writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), "dead_letter: {topic: relay.dead_letter}")))
		require.Eventually(t, func() bool { return messages(js, "WORKOS") == 3 }, patient, often, &r.stderr)
		require.Equal(t, exitDone, r.stop(t))
		got := stored(t, js, "WORKOS")
		require.Equal(t, []string{"user.created", "relay.dead_letter", "user.created"}, []string{got[0].Subject, got[1].Subject, got[2].Subject})
		var letter struct {
			EventID string `json:"event_id"`
			Reason  string `json:"reason"`
			Topic   string `json:"topic"`
		}
		require.NoError(t, json.Unmarshal(got[1].Data, &letter))
		require.Equal(t, "event_01J0000000000000000000000D", letter.EventID)
		require.Equal(t, "dsync.group.created", letter.Topic)
		require.Contains(t, letter.Reason, "max_payload")
	})
	t.Run("stops the lane if none is", func(t *testing.T) {
		api := load(t)
		url, js := newNATS(t)
		code, _, stderr := do(t, "run", "--config", writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), "")))
		require.Equal(t, exitOperator, code)
		require.Contains(t, stderr, "event_01J0000000000000000000000D")
		require.Equal(t, 1, messages(js, "WORKOS"), "what stands before it is published, it and what follows are not")
	})
}

func TestWithoutAConfigurationFile(t *testing.T) {
	t.Chdir(t.TempDir())
	code, _, stderr := do(t, "run")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "WORKOS_API_KEY")
}

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"help":            {[]string{"--help"}, exitDone, ""},
		"nothing":         {nil, exitDone, ""},
		"unknown command": {[]string{"runn"}, exitUsage, "run"},
		"unknown flag":    {[]string{"run", "--nope"}, exitUsage, "--nope"},
		"log level":       {[]string{"--log-level", "loud", "version"}, exitUsage, "log-level"},
		"missing file":    {[]string{"run", "--config", "/nowhere/config.yaml"}, exitUsage, "/nowhere/config.yaml"},
		"version":         {[]string{"version"}, exitDone, ""},
		"bad since":       {[]string{"tail", "--since", "last tuesday"}, exitUsage, "last tuesday"},
		"set without":     {[]string{"checkpoint", "set"}, exitUsage, "event id"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			code, stdout, stderr := do(t, c.args...)
			require.Equal(t, c.code, code, stderr)
			if require.Contains(t, stderr, c.says); c.code == exitDone {
				require.NotEmpty(t, stdout)
			}
		})
	}
}

func TestAMistakeInTheConfigurationNamesItsPlace(t *testing.T) {
	t.Parallel()
	config := writeConfig(t, "source: {api_key: sk_secret_one}\nsinks:\n  - name: a\n    typ: nats\n")
	code, _, stderr := do(t, "--log-format", "console", "run", "--config", config)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, config+":4:5")
	require.Contains(t, stderr, `"type"`)
	require.NotContains(t, stderr, "sk_secret_one")
}

func TestCheckpointCommands(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 300, Seed: 1}))
	ids := api.IDs(sourcetest.Filter{})
	url, js := newNATS(t)
	dir := t.TempDir()
	config := writeConfig(t, natsConfig(api.URL(), url, dir, ""))
	show := func() (row checkpointRow) {
		code, stdout, stderr := do(t, "checkpoint", "show", "--json", unhurried, "--config", config)
		require.Equal(t, exitDone, code, stderr)
		var rows []checkpointRow
		require.NoError(t, json.Unmarshal([]byte(stdout), &rows))
		require.Len(t, rows, 1)
		return rows[0]
	}
	require.Contains(t, show().Error, checkpoint.ErrNotFound.Error())

	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return show().EventID == ids[299] }, patient, often, &r.stderr)
	code, _, stderr := do(t, "checkpoint", "set", ids[10], "--config", config)
	require.Equal(t, exitOperator, code, "a running relay must not have its position moved from under it")
	require.Contains(t, stderr, "another relay")
	require.Equal(t, exitDone, r.stop(t))

	code, stdout, stderr := do(t, "checkpoint", "set", ids[10], "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stdout, ids[299], "it says where the lane stood before")
	require.Equal(t, ids[10], show().EventID)

	for to, want := range map[string]string{"2026-01-31T00:00:00Z": "2026-01-31", "latest": "20", "earliest": ""} {
		code, _, stderr = do(t, "checkpoint", "set", to, "--skip", "--config", config)
		require.Equal(t, exitDone, code, stderr)
		require.Empty(t, show().EventID)
		if want == "" {
			require.Nil(t, show().CreatedAt)
			continue
		}
		require.Contains(t, show().CreatedAt.String(), want)
	}

	t.Run("set mends a lost checkpoint, and the stream sees no more copies than that asks for", func(t *testing.T) {
		require.NoError(t, os.Remove(filepath.Join(dir, "workos.nats.checkpoint")))
		code, _, stderr := do(t, "checkpoint", "set", ids[299], "--config", config)
		require.Equal(t, exitOperator, code, stderr)
		require.Contains(t, stderr, "may skip events", "nothing tells what was published")
		code, _, stderr = do(t, "checkpoint", "set", ids[299], "--skip", "--config", config)
		require.Equal(t, exitDone, code, stderr)
		r := start(t, "run", "--config", config)
		requests := api.Count()
		require.Eventually(t, func() bool { return api.Count() > requests+3 }, patient, often, &r.stderr)
		require.Equal(t, exitDone, r.stop(t))
		require.Equal(t, 300, messages(js, "WORKOS"))
	})
	t.Run("set mends a corrupt checkpoint and keeps it", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "workos.nats.checkpoint"), []byte("garbage"), 0o600))
		code, stdout, stderr := do(t, "checkpoint", "set", ids[299], "--yes", "--config", config)
		require.Equal(t, exitDone, code, stderr)
		require.Contains(t, stdout, "is kept in")
		require.Equal(t, ids[299], show().EventID)
	})
	t.Run("reset", func(t *testing.T) {
		code, _, stderr := do(t, "checkpoint", "reset", "--config", config)
		require.Equal(t, exitDone, code, stderr)
		require.Empty(t, show().EventID)
	})
	t.Run("from another lane", func(t *testing.T) {
		two := writeConfig(t, strings.Replace(natsConfig(api.URL(), url, dir, ""), "sinks: [", "sinks: [{name: out, type: stdout}, ", 1))
		code, _, stderr := do(t, "checkpoint", "set", ids[42], "--lane", "nats", "--skip", "--config", two)
		require.Equal(t, exitDone, code, stderr)
		code, _, stderr = do(t, "checkpoint", "set", "--from", "nats", "--lane", "out", "--config", two)
		require.Equal(t, exitDone, code, stderr)
		code, stdout, stderr := do(t, "checkpoint", "show", "--lane", "out", unhurried, "--config", two)
		require.Equal(t, exitDone, code, stderr)
		require.Contains(t, stdout, ids[42])
	})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	url, js := newNATS(t)
	file := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	code, stdout, stderr := do(t, "check", "--timeout", "2m", "--verbose", "--config", file)
	require.Equal(t, exitDone, code, stderr+stdout)
	require.Contains(t, stdout, "dsync.user.created")
	code, stdout, stderr = do(t, "check", "--timeout", "2m", "--config", file)
	require.Equal(t, exitDone, code, stderr+stdout)
	require.NotContains(t, stdout, "dsync.user.created")
	require.Regexp(t, `creates  \d+ topics: stream WORKOS, replicas 1`, stdout)
	_, err := js.Stream(t.Context(), "WORKOS")
	require.Error(t, err, "a check changes nothing")

	wrong := natsConfig(api.URL(), "nats://127.0.0.1:1", t.TempDir(), "")
	wrong = strings.NewReplacer(testKey, "sk_test_wrong", "ack_timeout: "+patient.String(), "ack_timeout: 2s").Replace(wrong)
	code, stdout, stderr = do(t, "check", "--timeout", "1m", "--config", writeConfig(t, wrong))
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "2 faults")
	require.Contains(t, stdout, "401")
	require.Regexp(t, `no (connection to the NATS server|NATS server answers) at nats://127\.0\.0\.1:1`, stdout, "the second if not even a refusal has come")
	require.NotContains(t, stdout+stderr, "sk_test_wrong")

	silent := newAPI(t)
	silent.Fail(-1, sourcetest.Hang())
	code, stdout, stderr = do(t, "check", "--timeout", "2s", "--config", writeConfig(t, natsConfig(silent.URL(), "nats://127.0.0.1:1", t.TempDir(), "")))
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "2 faults")
	require.Equal(t, 2, strings.Count(stdout, "context deadline exceeded"), "source and sink have as long as it is told: %s", stdout)

	code, stdout, stderr = do(t, "check", "--timeout", "2m", "--json", "--config", writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), "")))
	require.Equal(t, exitDone, code, stderr)
	var found report
	require.NoError(t, json.Unmarshal([]byte(stdout), &found), stdout)
	require.Zero(t, found.Faults)
	require.Equal(t, checkFinding{About: "source", Level: levelOK, Text: "reached, the key is good, every type is accepted"}, found.Findings[1])
	require.True(t, slices.ContainsFunc(found.Findings, func(f checkFinding) bool {
		return f.About == "sink nats" && f.Level == levelCreates && f.Topic == "dsync.user.created"
	}), stdout)
}

func TestTypes(t *testing.T) {
	t.Chdir(t.TempDir())
	code, stdout, stderr := do(t, "types", "--json")
	require.Equal(t, exitDone, code, stderr)
	var rows []typeRow
	require.NoError(t, json.Unmarshal([]byte(stdout), &rows))
	require.GreaterOrEqual(t, len(rows), 111)
	code, stdout, _ = do(t, "types")
	require.Equal(t, exitDone, code)
	require.Contains(t, stdout, "dsync.user.created")
}

func TestTail(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 200, Seed: 1}))
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))

	r := start(t, "tail", "--since", "earliest", "--config", config)
	require.Eventually(t, func() bool { return strings.Count(r.stdout.String(), "\n") == 200 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t))
	want := r.stdout.String()
	for line := range strings.Lines(want) {
		require.True(t, json.Valid([]byte(line)))
	}

	relay := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 200 }, patient, often, &relay.stderr)
	require.Equal(t, exitDone, relay.stop(t))
	r = start(t, "tail", "--from-sink", "--since", "earliest", "--config", config)
	require.Eventually(t, func() bool { return strings.Count(r.stdout.String(), "\n") == 200 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t))
	require.Equal(t, want, r.stdout.String())

	users := len(api.IDs(sourcetest.Filter{Types: []string{"dsync.user.created"}}))
	require.Positive(t, users)
	r = start(t, "tail", "--from-sink", "--since", "earliest", "--events", "dsync.user.created", "--config", config)
	require.Eventually(t, func() bool { return strings.Count(r.stdout.String(), "\n") == users }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t))
}

func TestDemo(t *testing.T) {
	t.Parallel()
	admin := freeAddress(t)
	r := start(t, "demo", "--backlog", "3000", "--rate", "200", "--listen", freeAddress(t), "--admin", admin)
	require.Eventually(t, func() bool { return strings.Contains(r.stdout.String(), "lag none") }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Contains(t, r.stdout.String(), "tail --from-sink")
	require.Contains(t, r.stdout.String(), "http://"+admin+"/ ")
	for line := range strings.Lines(r.stderr.String()) { // a NATS server tells of what took it seconds, as on a slow disk, and relay too
		require.Regexp(t, `nats-server.* (took too long|Readloop processing time): | WARN .*will try again.*(deadline exceeded|i/o timeout|not acknowledged)`, line)
	}
}

func TestDemoWithoutAStatusPage(t *testing.T) {
	t.Parallel()
	r := start(t, "demo", "--backlog", "0", "--listen", freeAddress(t), "--admin", "")
	require.Eventually(t, func() bool { return strings.Contains(r.stdout.String(), "tail --from-sink") }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.NotContains(t, r.stdout.String(), "Status page")
}

// TestTwoLanesDoNotHoldEachOtherBack: one bus is down from the start, the other gets everything.
func TestTwoLanesDoNotHoldEachOtherBack(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 500, Seed: 1}))
	url, js := newNATS(t)
	config := strings.Replace(natsConfig(api.URL(), url, t.TempDir(), ""), "sinks: [",
		`sinks: [{name: down, type: nats, url: "nats://127.0.0.1:1"}, {name: kafka, type: kafka, brokers: ["127.0.0.1:1"]}, `, 1)
	r := start(t, "run", "--config", writeConfig(t, config))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 500 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
}

// TestGroupsCountTopics: a pattern is not a topic, so it is named and not counted.
func TestGroupsCountTopics(t *testing.T) {
	t.Parallel()
	for text, topics := range map[string][]string{
		"workos.a: one replica":                         {"workos.a"},
		"2 topics: one replica":                         {"workos.a", "workos.b"},
		"3 topics and each by.*: one replica":           {"workos.a", "by.*", "workos.b", "workos.c"},
		"each by.*: one replica":                        {"by.*"},
		"1 topic, each by.* and each of.>: one replica": {"of.>", "workos.a", "by.*"},
	} {
		var g groups
		for _, topic := range topics {
			g.add(levelWarning, topic, "one replica", "")
		}
		require.Len(t, g, 1)
		require.Equal(t, text, g[0].String())
	}
}
