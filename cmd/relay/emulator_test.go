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
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
	"workos-relay/source/lists"
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

// TestWorkOSEmulatorLists reads the lists of WorkOS's own emulator.
func TestWorkOSEmulatorLists(t *testing.T) {
	t.Parallel()
	cli := os.Getenv("RELAY_TEST_WORKOS_CLI")
	if cli == "" {
		t.Skip("RELAY_TEST_WORKOS_CLI is not set: run with RELAY_TEST_WORKOS_CLI=$(.ci/workos-cli), which needs Node 20.20 or newer and npm")
	}
	const key = "sk_test_default"
	seed := filepath.Join(t.TempDir(), "seed.json")
	require.NoError(t, os.WriteFile(seed, []byte(`{
		"organizations": [{"name": "Größe & Söhne ☃", "domains": [{"domain": "a.example.com"}, {"domain": "b.example.com"}]}, {"name": "Second"}],
		"connections": [{"name": "SSO", "organization": "Second"}],
		"permissions": [{"slug": "posts:read", "name": "Read"}], "roles": [{"slug": "editor", "name": "Editor", "permissions": ["posts:read"]}],
		"invitations": [{"email": "guest@example.com"}]}`), 0o600))
	endpoint := startEmulator(t, cli, "--seed", seed)
	for i := range 230 { // two full pages and a part of one
		post(t, endpoint, key, "/user_management/users", fmt.Sprintf(`{"email":"user%d@example.com"}`, i))
	}
	c := &lists.Client{Getter: &source.Getter{Client: &source.Client{APIKey: key, Endpoint: endpoint}}}
	read := func(entity string, parents ...string) (objects []lists.Object) {
		for p, err := range c.Pages(t.Context(), lists.Query{Entity: entity, Parents: parents}) {
			require.NoError(t, err, entity)
			require.False(t, p.Restarted)
			objects = append(objects, p.Objects...)
		}
		return objects
	}
	users, organizations := read("user"), read("organization")
	require.Len(t, users, 230)
	require.Len(t, organizations, 2)
	require.Contains(t, string(organizations[0].Raw)+string(organizations[1].Raw), "Größe & Söhne ☃")
	for _, org := range organizations {
		for _, u := range users[:3] {
			post(t, endpoint, key, "/user_management/organization_memberships", fmt.Sprintf(`{"user_id":%q,"organization_id":%q}`, u.ID, org.ID))
		}
	}
	for _, org := range organizations {
		members := read("organization_membership", org.ID)
		require.Len(t, members, 3)
		require.Contains(t, string(members[0].Raw), org.ID)
	}
	require.Len(t, read("organization_domain"), 2)
	require.Len(t, read("connection"), 1)
	require.Len(t, read("permission"), 1)
	require.NotEmpty(t, read("role"))
	require.Len(t, read("invitation"), 1)
	require.Empty(t, read("directory")) // the emulator makes none

	for _, o := range []lists.Object{users[7], organizations[0], read("connection")[0], read("invitation")[0], read("permission")[0]} {
		require.False(t, o.UpdatedAt.IsZero())
		got, err := c.Get(t.Context(), lists.Ref{Entity: o.Entity, Key: o.ID, Known: o.Data})
		require.NoError(t, err, o.Entity)
		require.JSONEq(t, string(o.Raw), string(got.Raw))
	}
	_, err := c.Get(t.Context(), lists.Ref{Entity: "user", Key: "user_unknown"})
	require.ErrorIs(t, err, lists.ErrNotFound)
}

// startEmulator starts the emulator on a free port and waits until it answers.
func startEmulator(t *testing.T, cli string, args ...string) (endpoint string) {
	t.Helper()
	_, port, err := net.SplitHostPort(freeAddress(t))
	require.NoError(t, err)
	var log output
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, cli, append([]string{"emulate", "--port", port, "--json"}, args...)...)
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
