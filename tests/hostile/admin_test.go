//go:build linux

package hostile

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/tests/testkit"
)

const adminToken = "hostile-admin-token-0123456789"

// withToken starts a relay whose admin address asks for a token.
func withToken(t *testing.T) *testkit.Relay {
	t.Helper()
	address := testaddr.Free(t)
	r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(newAPI(t).URL(), "")+fmt.Sprintf("admin: {listen: %q, token: %s}\n", address, adminToken))
	r.Admin = address
	r.Start(t)
	require.Eventually(t, func() bool {
		return ask(t, r, "", http.MethodGet, "/readyz", "Host: relay.example").code == http.StatusOK
	}, patient, often)
	return r
}

// withoutToken starts a relay with the defaults.
func withoutToken(t *testing.T) *testkit.Relay {
	t.Helper()
	r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(newAPI(t).URL(), ""))
	r.Start(t)
	r.AwaitState(t, "out", pipeline.Running)
	r.Await(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, "relay is ready")
	return r
}

// answer is an answer over HTTP; code is 0 if there is none.
type answer struct {
	code   int
	header http.Header
	body   string
}

// ask sends a request as it is written, from a loopback address or from the usual one if from is
// empty, and reads one answer. Header lines are added as they are; a Host line is added unless
// there is one.
func ask(t *testing.T, r *testkit.Relay, from, method, target string, lines ...string) answer {
	t.Helper()
	head := append([]string{method + " " + target + " HTTP/1.1"}, lines...)
	if !strings.Contains(strings.ToLower(strings.Join(head, "\n")), "\nhost:") {
		head = append(head, "Host: "+r.Admin)
	}
	return exchange(t, r.Admin, from, strings.Join(append(head, "Connection: close"), "\r\n")+"\r\n\r\n")
}

// hangUpTime is shorter than the time after which relay hangs up on a client that has not sent its
// request.
const hangUpTime = 4 * time.Second

// exchange sends text to address and reads one answer. It tries again if there is none and that
// took so long that relay may have hung up before it had the request.
func exchange(t *testing.T, address, from, text string) (got answer) {
	t.Helper()
	for range 10 {
		began := time.Now()
		if got = exchangeOnce(t, address, from, text); got.code != 0 || time.Since(began) < hangUpTime {
			break
		}
	}
	return got
}

func exchangeOnce(t *testing.T, address, from, text string) answer {
	t.Helper()
	d := net.Dialer{Timeout: patient}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		return answer{}
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patient))
	_, _ = conn.Write([]byte(text)) // relay may have answered and closed before it has read everything
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return answer{}
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// TestProbesTellLittle asks the paths that answer everybody: under a name of somebody else's and
// without the token they say in a word whether relay lives and is ready. Details are for a sender
// who may read.
func TestProbesTellLittle(t *testing.T) {
	t.Parallel()
	bearer := "Authorization: Bearer " + adminToken
	t.Run("with a token", func(t *testing.T) {
		t.Parallel()
		r := withToken(t)
		for _, c := range []struct {
			path, line string
			want       string // the whole answer, in one line
		}{
			{"/readyz", "X: y", `{ "ready": true }`},
			{"/readyz", "Host: evil.example", `{ "ready": true }`},
			{"/readyz?verbose=1", "Authorization: Bearer wrong", `{ "ready": true }`},
			{"/healthz", "X: y", `{ "status": "ok" }`},
		} {
			got := ask(t, r, "", http.MethodGet, c.path, c.line)
			require.Equal(t, http.StatusOK, got.code, "%s %s", c.path, c.line)
			require.Equal(t, c.want, strings.Join(strings.Fields(got.body), " "), "%s %s", c.path, c.line)
		}
		require.Contains(t, ask(t, r, "", http.MethodGet, "/readyz", bearer).body, `"lane": "out"`)
		require.Contains(t, ask(t, r, "", http.MethodGet, "/healthz", bearer).body, `"version"`)
		for _, path := range []string{"/", "/metrics", "/api/v1/status", "/api/v1/stream"} {
			got := ask(t, r, "", http.MethodGet, path)
			require.Equal(t, http.StatusUnauthorized, got.code, path)
			require.NotContains(t, got.body, "out", path)
		}
		for _, path := range []string{"/livez", "/debug/pprof/", "/debug/vars", "/status", "/api/v1", "/readyz/", "//readyz", "/x/../readyz"} {
			got := ask(t, r, "", http.MethodGet, path)
			require.Equal(t, http.StatusNotFound, got.code, path)
			require.Empty(t, got.header.Get("Location"), path)
		}
		code, out, errs := r.Run(t, "status")
		require.Zero(t, code, out+errs)
		require.Contains(t, out, "out")
		require.Zero(t, r.Stop(t))
	})
	t.Run("on loopback", func(t *testing.T) {
		t.Parallel()
		r := withoutToken(t)
		require.Contains(t, ask(t, r, "", http.MethodGet, "/readyz").body, `"lane": "out"`)
		require.Contains(t, ask(t, r, "", http.MethodGet, "/readyz", "Host: localhost:1").body, `"lane": "out"`)
		for _, host := range []string{"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.", ""} {
			got := ask(t, r, "", http.MethodGet, "/readyz", "Host: "+host)
			require.Equal(t, http.StatusOK, got.code, host)
			require.Equal(t, `{ "ready": true }`, strings.Join(strings.Fields(got.body), " "), host)
			for _, path := range []string{"/", "/metrics", "/api/v1/status"} {
				require.Equal(t, http.StatusForbidden, ask(t, r, "", http.MethodGet, path, "Host: "+host).code, "%s %s", host, path)
			}
		}
		// The name in the request line counts, not that in the header.
		require.Equal(t, http.StatusForbidden, ask(t, r, "", http.MethodGet, "http://evil.example/api/v1/status", "Host: localhost").code)
		require.Zero(t, r.Stop(t))
	})
}

// TestGuessesOfTheTokenAreSlow sends wrong tokens from one address, on probes too, as fast as it
// can. They are counted, and told of in few lines; the right token from another address is answered
// at once, and from this one soon after.
func TestGuessesOfTheTokenAreSlow(t *testing.T) {
	t.Parallel()
	r := withToken(t)
	began := time.Now()
	var mu sync.Mutex
	codes := map[int]int{}
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for n := range 20 {
				path, line := "/api/v1/status", fmt.Sprintf("Authorization: Bearer guess-%d-%d", i, n)
				if n%2 == 0 {
					path = "/readyz"
				}
				got := ask(t, r, "127.0.0.9", http.MethodGet, path, line)
				mu.Lock()
				codes[got.code]++
				mu.Unlock()
			}
		})
	}
	for range 5 {
		asked := time.Now()
		require.Equal(t, http.StatusOK, ask(t, r, "127.0.0.8", http.MethodGet, "/api/v1/status", "Authorization: Bearer "+adminToken).code)
		require.Less(t, time.Since(asked), patient)
	}
	group.Wait()
	took := time.Since(began).Seconds()
	require.Equal(t, 160, codes[http.StatusOK], "probes are answered: %v", codes)
	require.NotZero(t, codes[http.StatusTooManyRequests], codes)
	require.LessOrEqual(t, codes[http.StatusUnauthorized], int(10+2*took)+1, "%v in %.1f s", codes, took)
	require.Eventually(t, func() bool {
		return ask(t, r, "127.0.0.9", http.MethodGet, "/api/v1/status", "Authorization: Bearer "+adminToken).code == http.StatusOK
	}, patient, often)

	metrics := ask(t, r, "", http.MethodGet, "/metrics", "Authorization: Bearer "+adminToken).body
	counted := 0
	for _, reason := range []string{"wrong_credentials", "too_many_guesses"} {
		_, rest, ok := strings.Cut(metrics, `relay_admin_refused_total{reason="`+reason+`"} `)
		require.True(t, ok, metrics)
		var n int
		_, err := fmt.Sscan(rest, &n)
		require.NoError(t, err)
		counted += n
	}
	require.GreaterOrEqual(t, counted, 320)
	require.LessOrEqual(t, strings.Count(r.Output(), "refused access"), 8)
	require.Contains(t, r.Output(), "wrong_credentials")
	require.NotContains(t, r.Output(), "guess-")
	require.NotContains(t, r.Output(), adminToken)
	require.Zero(t, r.Stop(t))
}

// TestOnlyRequestsThatAreUnderstoodAreCarriedOut sends bodies, queries, paths and methods that are
// nearly right. Each is refused with the fault named, and neither the position nor the state of the
// lane changes.
func TestOnlyRequestsThatAreUnderstoodAreCarriedOut(t *testing.T) {
	t.Parallel()
	r := withoutToken(t)
	require.Eventually(t, func() bool { return r.Lane("out").AtTip }, patient, often)
	before := r.Lane("out")
	const checkpoint, relayHeader = "/api/v1/lanes/out/checkpoint", "Relay-Request: 1"
	put := func(contentType, body string) answer {
		return exchange(t, r.Admin, "", fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			checkpoint, r.Admin, relayHeader, contentType, len(body), body))
	}
	for body, fault := range map[string]string{
		`{"to":"earliest","to":"latest"}`:       "duplicate member /to",
		`{"to":"latest","skip":true,"skip":1}`:  "duplicate member /skip",
		`{"to":"latest"}{"to":"earliest"}`:      "after top-level value",
		`{"to":"latest"} x`:                     "after top-level value",
		`{"to":"latest","force":true}`:          "unknown member /force",
		`{"TO":"latest"}`:                       "unknown member /TO",
		`{"to":["latest"]}`:                     "/to",
		`{"to":null}`:                           "one of to, from and reset",
		`["latest"]`:                            "not a JSON object",
		`"latest"`:                              "not a JSON object",
		`to=latest`:                             "not a JSON object",
		``:                                      "not a JSON object",
		"{\"to\":\"latest\xff\"}":               "UTF-8",
		`{"to":"\ud800"}`:                       "",
		`{"to":"` + strings.Repeat("x", 1<<16):  "too large",
		strings.Repeat(`{"to":`, 600):           "",
		`{"to":"latest","reset":true}`:          "one of to, from and reset",
		"\ufeff" + `{"to":"latest"}`:            "not a JSON object",
		`{"to":"latest",}`:                      "",
		`{"to":"latest"/*comment*/}`:            "",
		`{'to':'latest'}`:                       "",
		`{"to":"a time that nobody understands`: "not as expected",
	} {
		got := put("", body)
		require.Equal(t, http.StatusBadRequest, got.code, "%.60q: %s", body, got.body)
		require.Contains(t, got.body, fault, "%.60q", body)
		require.Less(t, len(got.body), 1000, "%.60q", body)
	}
	for _, contentType := range []string{"text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application/json\r\nContent-Type: text/plain"} {
		got := put("Content-Type: "+contentType+"\r\n", `{"to":"latest"}`)
		require.Equal(t, http.StatusBadRequest, got.code, contentType)
		require.Contains(t, got.body, "send the header Content-Type: application/json")
	}
	for _, c := range []struct {
		method, target string
		code           int
		lines          []string
	}{
		{"POST", "/api/v1/pause?lanes=other", 400, []string{relayHeader}},
		{"POST", "/api/v1/pause?lane=out&x", 400, []string{relayHeader}},
		{"POST", "/api/v1/pause?lane=%zz", 400, []string{relayHeader}},
		{"POST", "/api/v1/pause?lane=", 404, []string{relayHeader}},
		{"POST", "//api/v1/pause", 404, []string{relayHeader}},
		{"POST", "/api/v1/pause/", 404, []string{relayHeader}},
		{"POST", "/api/v1/./pause", 404, []string{relayHeader}},
		{"POST", "/api/v1/x/../pause", 404, []string{relayHeader}},
		{"POST", "/%2e%2e/api/v1/pause", 404, []string{relayHeader}},
		{"POST", "/api%2fv1%2fpause", 404, []string{relayHeader}},
		{"PUT", "/api/v1/pause", 405, []string{relayHeader}},
		{"POST", checkpoint, 405, []string{relayHeader}},
		{"PATCH", checkpoint, 405, []string{relayHeader}},
		{"TRACE", "/api/v1/status", 405, nil},
		{"CONNECT", "/api/v1/status", 405, nil},
		{"pause", "/api/v1/pause", 405, []string{relayHeader}},
		{"GET", "/api/v1/pause", 405, []string{relayHeader, "X-HTTP-Method-Override: POST"}},
		{"POST", "/api/v1/pause", 403, nil},
		{"POST", "/api/v1/pause", 403, []string{relayHeader, "Origin: null"}},
		{"POST", "/api/v1/pause", 403, []string{relayHeader, "Origin: https://evil.example"}},
		{"POST", "/api/v1/pause", 403, []string{relayHeader, "Sec-Fetch-Site: same-site"}},
		{"POST", "/api/v1/pause", 403, []string{relayHeader, "Host: evil.example"}},
		{"POST", "/api/v1/pause", 400, []string{relayHeader, "Host: localhost", "Host: evil.example"}},
		{"POST", "/api/v1/pause", 400, []string{relayHeader, "Content-Length: 0", "Content-Length: 5"}},
		{"POST", "/api/v1/pause", 400, []string{relayHeader, "Content-Length: +0"}},
		{"POST", "/api/v1/pause", 501, []string{relayHeader, "Transfer-Encoding: gzip, chunked"}},
		{"POST", "/api/v1/pause", 501, []string{relayHeader, "Transfer-Encoding: xchunked"}},
		{"POST", "/api/v1/pause", 400, []string{relayHeader, "X y: z"}},
		{"POST", "/api/v1/pause", 400, []string{relayHeader, "Space : y"}},
		{"POST", "/api/v1/pause", 431, []string{relayHeader, "X: " + strings.Repeat("x", 20_000)}},
		{"POST", "/api/v1/pause?lane=" + strings.Repeat("x", 20_000), 431, []string{relayHeader}},
	} {
		got := ask(t, r, "", c.method, c.target, c.lines...)
		require.Equal(t, c.code, got.code, "%s %.80s %.80q: %s", c.method, c.target, c.lines, got.body)
		require.Empty(t, got.header.Get("Location"))
		require.Less(t, len(got.body), 1000)
	}
	// A second request in the body of a first is not carried out, however the length is given.
	smuggled := fmt.Sprintf("POST /api/v1/pause HTTP/1.1\r\nHost: %s\r\n%s\r\nContent-Length: 0\r\n\r\n", r.Admin, relayHeader)
	for _, lines := range []string{
		fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked", len(smuggled)+5),
		"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
		"Transfer-Encoding:\x0bchunked",
	} {
		exchange(t, r.Admin, "", fmt.Sprintf("POST /api/v1/poll HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n0\r\n\r\n%s", r.Admin, lines, strings.Replace(smuggled, relayHeader, "X: y", 1)))
	}
	r.AwaitState(t, "out", pipeline.Running) // nothing has ended a pause
	require.Equal(t, before.Position, r.Lane("out").Position)

	// What is right is done.
	require.Equal(t, http.StatusOK, ask(t, r, "", "POST", "/api/v1/pause?lane=out", relayHeader, "Content-Length: 0").code)
	r.AwaitState(t, "out", pipeline.Paused)
	require.Equal(t, http.StatusOK, put("Content-Type: application/json\r\n", `{"to":"latest"}`).code)
	require.Zero(t, r.Stop(t))
}

// TestASlowBodyIsGivenUp sends the body of a request byte by byte.
func TestASlowBodyIsGivenUp(t *testing.T) {
	t.Parallel()
	r := withoutToken(t)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.Admin)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "PUT /api/v1/lanes/out/checkpoint HTTP/1.1\r\nHost: %s\r\nRelay-Request: 1\r\nContent-Length: 1000\r\n\r\n{", r.Admin)
	require.NoError(t, err)
	go func() {
		for ctx.Err() == nil {
			if _, err := conn.Write([]byte(" ")); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	_ = conn.SetReadDeadline(time.Now().Add(patient))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		require.Equal(t, http.StatusBadRequest, resp.StatusCode)
		_ = resp.Body.Close()
	}
	require.NoError(t, ctx.Err(), "relay gives up before the client does")
	require.Zero(t, r.Stop(t))
}

// TestOneClientDoesNotHoldAllStreams opens as many live streams as it can from one address and does
// not read them. Another address gets its own, and relay holds little for those that do not read.
func TestOneClientDoesNotHoldAllStreams(t *testing.T) {
	t.Parallel()
	r := withoutToken(t)
	before := peakMemory(t, r.Pid())
	for range 8 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
		conn, err := d.DialContext(t.Context(), "tcp", r.Admin)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		_, err = fmt.Fprintf(conn, "GET /api/v1/stream HTTP/1.1\r\nHost: %s\r\n\r\n", r.Admin)
		require.NoError(t, err)
		status := make([]byte, len("HTTP/1.1 200"))
		_, err = io.ReadFull(conn, status)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200", string(status))
	}
	for range 40 {
		refused := ask(t, r, "127.0.0.9", http.MethodGet, "/api/v1/stream")
		require.Equal(t, http.StatusTooManyRequests, refused.code)
		require.Contains(t, refused.body, "8 pages are live already from 127.0.0.9/32")
		require.Equal(t, "10", refused.header.Get("Retry-After"))
	}
	require.Equal(t, http.StatusOK, ask(t, r, "127.0.0.8", http.MethodHead, "/api/v1/stream").code)
	require.Equal(t, http.StatusOK, ask(t, r, "127.0.0.9", http.MethodGet, "/api/v1/status").code, "reading is still possible")
	time.Sleep(3 * time.Second) // some updates
	require.Less(t, peakMemory(t, r.Pid())-before, 32<<20)
	require.Zero(t, r.Stop(t))
}
