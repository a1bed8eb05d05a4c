//go:build linux

package hostile

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

const webhookSecret = "whsec_hostile"

// flood opens connections to address and sends text on each, as far as it is taken. They stay open
// until the test ends.
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

// sendWebhook sends a signed webhook and returns the status, 0 if there is no answer. It tries
// again as exchange does.
func sendWebhook(t *testing.T, address string) (code int) {
	t.Helper()
	for range 10 {
		began := time.Now()
		if code = sendWebhookOnce(t, address); code != 0 || time.Since(began) < hangUpTime {
			break
		}
	}
	return code
}

func sendWebhookOnce(t *testing.T, address string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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

// TestConnectionsCostLittle opens many connections to each HTTP listener of relay: with headers far
// too large, with headers that never end, and idle ones. Neither memory nor descriptors grow with
// them, lanes go on, and the other listener answers meanwhile.
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

// postWebhook sends a body with a signature header as they are, over its own connection, and
// returns the status; 0 if there is no
// answer.
func postWebhook(t *testing.T, address, signature, body string, lines ...string) int {
	t.Helper()
	head := append([]string{"POST /workos/webhook HTTP/1.1", "Host: x", "Connection: close", "WorkOS-Signature: " + signature, fmt.Sprintf("Content-Length: %d", len(body))}, lines...)
	return exchange(t, address, "", strings.Join(head, "\r\n")+"\r\n\r\n"+body).code
}

// TestReplayedWebhooksDoNotPoll sends one webhook again and again, with other headers too, and one
// of the future. The first leads to polls, the others to none. Webhooks that are new lead to a poll
// however many there are, but to no more than four per second.
func TestReplayedWebhooksDoNotPoll(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	var polls atomic.Int64
	target, err := url.Parse(api.URL())
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		polls.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	webhooks := testaddr.Free(t)
	r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 5m, webhook: {listen: %q, secret: %s}}\nsinks: [{name: out, type: stdout}]\n",
		front.URL, apiKey, webhooks, webhookSecret))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("out").AtTip }, "relay has read everything")
	counted := func(result string) (n int) {
		_, rest, ok := strings.Cut(r.Metrics(), `relay_webhook_requests_total{result="`+result+`"} `)
		require.True(t, ok)
		_, err := fmt.Sscan(rest, &n)
		require.NoError(t, err)
		return n
	}
	const body = `{"id":"wh_1","event":"user.created","data":{}}`
	quiet := func() { // the polls after a webhook go on for 20 s
		t.Helper()
		for last, since := polls.Load(), time.Now(); time.Since(since) < 25*time.Second; time.Sleep(often) {
			if n := polls.Load(); n != last {
				last, since = n, time.Now()
			}
		}
	}
	before := polls.Load()
	good := sourcetest.SignWebhook(webhookSecret, time.Now().Add(time.Minute), []byte(body))
	require.Equal(t, http.StatusOK, postWebhook(t, webhooks, good, body))
	stamp, v1, _ := strings.Cut(good, ", ")
	quiet()
	require.Greater(t, polls.Load()-before, int64(1), "a webhook is followed by more polls")
	require.LessOrEqual(t, polls.Load()-before, int64(9), "one webhook: eight polls, of which a slow machine merges some")
	before = polls.Load()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 100 {
				signature := []string{good, stamp + "," + v1, v1 + "," + stamp, stamp + ", v0=x, v1=" + strings.ToUpper(v1[3:])}[n%4]
				assert.Equal(t, http.StatusOK, postWebhook(t, webhooks, signature, body, fmt.Sprintf("X-Try: %d-%d", i, n)))
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, counted("accepted"))
	require.Equal(t, 800, counted("repeated"))
	time.Sleep(2 * time.Second)
	require.Equal(t, before, polls.Load(), "a replay leads to no poll")

	for _, at := range []time.Duration{-181 * time.Second, 5 * time.Minute, -time.Hour, 24 * time.Hour} { // time goes on until relay reads it
		require.Equal(t, http.StatusUnauthorized, postWebhook(t, webhooks, sourcetest.SignWebhook(webhookSecret, time.Now().Add(at), []byte(body)), body), at)
	}
	require.Equal(t, 4, counted("wrong_time"))
	require.Equal(t, before, polls.Load())

	// A flood of webhooks that are all new.
	began := time.Now()
	for n := range 200 {
		at := time.Now().Add(time.Duration(n) * time.Millisecond)
		require.Equal(t, http.StatusOK, postWebhook(t, webhooks, sourcetest.SignWebhook(webhookSecret, at, []byte(body)), body))
	}
	made := polls.Load() - before // by the end of flood
	flood := time.Since(began).Seconds()
	require.LessOrEqual(t, float64(made), 4*flood+2)
	require.NoError(t, api.Append([]byte(fmt.Sprintf(`{"object":"event","id":"event_last","event":"user.created","data":{"id":"user_1"},"created_at":%q}`, time.Now().UTC().Format(time.RFC3339Nano)))))
	at := time.Now()
	require.Equal(t, http.StatusOK, postWebhook(t, webhooks, sourcetest.SignWebhook(webhookSecret, at, []byte(body)), body))
	r.Await(t, func() bool { return r.Lane("out").Position.EventID == "event_last" }, "the last webhook leads to a poll")
	require.Zero(t, r.Stop(t))
}

// TestRequestsThatAreNoWebhooks sends what the webhook address does not take. Each is refused,
// relay goes on, and nothing wakes it.
func TestRequestsThatAreNoWebhooks(t *testing.T) {
	t.Parallel()
	webhooks := testaddr.Free(t)
	r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(newAPI(t).URL(), fmt.Sprintf(", webhook: {listen: %q, secret: %s}", webhooks, webhookSecret)))
	r.Start(t)
	r.AwaitState(t, "out", pipeline.Running)
	require.Eventually(t, func() bool { return sendWebhook(t, webhooks) == http.StatusOK }, patient, often)
	const body = "{}"
	signed := "WorkOS-Signature: " + sourcetest.SignWebhook(webhookSecret, time.Now(), []byte(body))
	length := "Content-Length: 2"
	for _, c := range []struct {
		line  string
		lines []string
		code  int
	}{
		{"GET /workos/webhook", []string{signed}, 405},
		{"HEAD /workos/webhook", []string{signed}, 405},
		{"OPTIONS /workos/webhook", nil, 405},
		{"TRACE /workos/webhook", nil, 405},
		{"POST /workos/webhook/", []string{signed, length}, 404},
		{"POST //workos/webhook", []string{signed, length}, 404},
		{"POST /workos//webhook", []string{signed, length}, 404},
		{"POST /x/../workos/webhook", []string{signed, length}, 404},
		{"POST /x/%2e%2e/workos/webhook", []string{signed, length}, 404},
		{"POST /", []string{signed, length}, 404},
		{"POST /metrics", []string{signed, length}, 404},
		{"POST /workos/webhook", []string{length}, 401},
		{"POST /workos/webhook", []string{"WorkOS-Signature: ", length}, 401},
		{"POST /workos/webhook", []string{"WorkOS-Signature: " + strings.Repeat("v1=00,", 1000), length}, 401},
		{"POST /workos/webhook", []string{"WorkOS-Signature: t=1, v1=00", signed, length}, 401},
		{"POST /workos/webhook", []string{signed, length, "Content-Length: 3"}, 400},
		{"POST /workos/webhook", []string{signed, "Content-Length: -2"}, 400},
		{"POST /workos/webhook", []string{signed, "Transfer-Encoding: gzip"}, 501},
		{"POST /workos/webhook", []string{signed, length, "Host: y"}, 400},
		{"POST /workos/webhook", []string{signed, length, "X: " + strings.Repeat("x", 20_000)}, 431},
		{"POST /workos/webhook", []string{signed, "Content-Length: 999999999999"}, 413},
	} {
		got := exchange(t, webhooks, "", c.line+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+strings.Join(c.lines, "\r\n")+"\r\n\r\n"+body+strings.Repeat(" ", 5<<20*btoi(c.code == 413)))
		require.Equal(t, c.code, got.code, "%s %.80q", c.line, c.lines)
		require.Empty(t, got.header.Get("Location"))
	}
	require.Contains(t, r.Metrics(), `relay_webhook_requests_total{result="accepted"} 1`)
	require.Equal(t, http.StatusOK, sendWebhook(t, webhooks))
	require.Zero(t, r.Stop(t))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestPathsAreNoPatterns starts relay with paths that the standard library would take for patterns,
// and reloads to another.
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
