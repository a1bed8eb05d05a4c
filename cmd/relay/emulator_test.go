package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWorkOSEmulator carries what WorkOS's own emulator makes into JetStream. RELAY_TEST_WORKOS_CLI
// names the program `workos` of the npm package of that name; .ci/workos-cli installs it.
func TestWorkOSEmulator(t *testing.T) {
	t.Parallel()
	cli := os.Getenv("RELAY_TEST_WORKOS_CLI")
	if cli == "" {
		t.Skip("RELAY_TEST_WORKOS_CLI is not set: run with RELAY_TEST_WORKOS_CLI=$(.ci/workos-cli), which needs Node 20.20 or newer and npm")
	}
	const key = "sk_test_default" // the emulator's only one
	endpoint := startEmulator(t, cli)
	post(t, endpoint, key, "/organizations", `{"name":"Größe & Söhne ☃"}`)
	for i := range 120 { // more than a page
		post(t, endpoint, key, "/user_management/users", fmt.Sprintf(`{"email":"user%d@example.com"}`, i))
	}

	url, js := newNATS(t)
	config := writeConfig(t, fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, event_list: brackets, poll_interval: 200ms, events: [organization.created, user.created]}
sinks: [{name: nats, type: nats, url: %q}]
checkpoint: {dir: %q}
admin: {listen: ""}
delivery: at_least_once
`, endpoint, key, url, t.TempDir()))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 121 }, patient, often, &r.stderr)
	post(t, endpoint, key, "/organizations", `{"name":"Second"}`)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 122 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)

	got := stored(t, js, "WORKOS")
	require.Equal(t, "organization.created", got[0].Subject)
	require.Contains(t, string(got[0].Data), "Größe & Söhne ☃")
	for _, m := range got[1:121] {
		require.Equal(t, "user.created", m.Subject)
	}
	require.Contains(t, string(got[121].Data), "Second")
}

// startEmulator starts the emulator on a free port and waits until it answers.
func startEmulator(t *testing.T, cli string) (endpoint string) {
	t.Helper()
	_, port, err := net.SplitHostPort(freeAddress(t))
	require.NoError(t, err)
	var log output
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, cli, "emulate", "--port", port, "--json")
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // reports the kill
	})
	endpoint = "http://127.0.0.1:" + port
	require.Eventually(t, func() bool {
		code, _ := get(strings.TrimPrefix(endpoint, "http://"), "/health")
		return code == http.StatusOK
	}, patient, often, &log)
	return endpoint
}

func post(t *testing.T, endpoint, key, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint+path, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Less(t, resp.StatusCode, 300, string(answer))
}
