//go:build linux

package hostile

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

const webhookSecret = "whsec_hostile"

// flood opens connections to address and sends text on each, as far as it is taken. They stay open until the test ends.
func flood(t *testing.T, address string, connections int, text string) {
	t.Helper()
	var group sync.WaitGroup
	places := make(chan struct{}, 32)
	for range connections {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address)
			if err != nil {
				return // the queue is full, which is a bound as well
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, _ = conn.Write([]byte(text))
		})
	}
	group.Wait()
}

// sendWebhook sends a signed webhook and returns the status, 0 if there is no answer.
func sendWebhook(t *testing.T, address string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	body := []byte(`{"id":"wh_1","event":"user.created","data":{}}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/workos/webhook", bytes.NewReader(body))
	require.NoError(t, err)
	req.Close = true
	req.Header.Set("WorkOS-Signature", sourcetest.SignWebhook(webhookSecret, time.Now(), body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// TestConnectionsCostLittle opens many connections to each HTTP listener of relay: with headers far too large, with headers that never
// end, and idle ones. Neither memory nor descriptors grow with them, lanes go on, and the other listener answers meanwhile.
func TestConnectionsCostLittle(t *testing.T) {
	t.Parallel()
	const connections = 800
	endless := "POST /workos/webhook HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Large: "+strings.Repeat("x", 65_000)+"\r\n", 16)
	for name, text := range map[string]string{
		"large headers":  endless,
		"half a request": "POST /workos/webhook HTTP/1.1\r\nHost: x\r\nX-A: b\r\n",
		"idle":           "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			webhooks := testaddr.Free(t)
			r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(api.URL(), fmt.Sprintf(", webhook: {listen: %q, secret: %s}", webhooks, webhookSecret)))
			r.Start(t)
			r.AwaitState(t, "out", pipeline.Running)
			require.Eventually(t, func() bool { return sendWebhook(t, webhooks) == http.StatusOK }, patient, often)
			before := peakMemory(t, r.Pid())
			flood(t, webhooks, connections, text)
			require.Eventually(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, patient, often, "probes are answered")
			require.Less(t, descriptors(t, r.Pid()), 400)
			require.Less(t, peakMemory(t, r.Pid())-before, 64<<20)
			require.Eventually(t, func() bool { return sendWebhook(t, webhooks) == http.StatusOK }, patient, often, "webhooks are taken again")

			flood(t, r.Admin, connections, strings.Replace(text, "POST /workos/webhook", "GET /readyz", 1))
			require.Equal(t, http.StatusOK, sendWebhook(t, webhooks), "the other listener answers")
			require.Less(t, descriptors(t, r.Pid()), 600)
			require.Less(t, peakMemory(t, r.Pid())-before, 64<<20)
			require.Eventually(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, patient, often, "probes are answered again")
			require.Zero(t, r.Stop(t))
		})
	}
}

// TestPathsAreNoPatterns starts relay with paths that the standard library would take for patterns, and reloads to another.
func TestPathsAreNoPatterns(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	for i, path := range []string{"/{", "/a b", "/{x...}", "/{x}/{x}", "//", "/../x"} {
		webhooks := testaddr.Free(t)
		config := func(path string) string {
			return stdoutConfig(api.URL(), fmt.Sprintf(", webhook: {listen: %q, secret: %s, path: %q}", webhooks, webhookSecret, path))
		}
		r := testkit.NewRelay(t, relayBinary, fmt.Sprintf("relay%d", i), config(path))
		r.Start(t)
		r.AwaitState(t, "out", pipeline.Running)
		require.NotContains(t, r.Output(), "panic", path)
		require.Equal(t, http.StatusNotFound, sendWebhook(t, webhooks), path)
		require.Zero(t, r.Stop(t))
	}
	webhooks := testaddr.Free(t)
	config := func(path string) string {
		return stdoutConfig(api.URL(), fmt.Sprintf(", webhook: {listen: %q, secret: %s, path: %q}", webhooks, webhookSecret, path))
	}
	r := testkit.NewRelay(t, relayBinary, "reloaded", config("/workos/webhook"))
	r.Start(t)
	r.AwaitState(t, "out", pipeline.Running)
	require.Equal(t, http.StatusOK, sendWebhook(t, webhooks))
	for _, path := range []string{"/{", "/a b"} {
		r.WriteConfig(t, strings.NewReplacer("/workos/webhook", path).Replace(config("/workos/webhook"))+fmt.Sprintf("checkpoint: {dir: %q}\nadmin: {listen: %q}\n", r.Dir, r.Admin))
		code, out, errs := r.Run(t, "reload")
		require.Zero(t, code, out+errs)
		require.Equal(t, http.StatusNotFound, sendWebhook(t, webhooks), path)
	}
	require.Zero(t, r.Stop(t))
}
