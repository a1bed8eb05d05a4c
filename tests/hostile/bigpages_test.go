//go:build linux

package hostile

import (
	"bufio"
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/pipeline"
	"workos-relay/tests/testkit"
)

// bigAPI is an Events API with a backlog of events that it makes up as they are asked for, so that
// it holds none. It is strict about cursors and ranges.
type bigAPI struct {
	events int                            // in the backlog, 10 s apart
	value  func(n int, w *bufio.Writer)   // writes what event n has in its payload, a JSON value
	pace   time.Duration                  // pause after every 64 KiB of a page; 0 for none
	delay  time.Duration                  // before an answer begins
	excess int                            // events of a page, even if fewer are asked for
	gzip   bool                           // compress pages
	http2  bool                           // over TLS, so that all responses come by one connection
	before func(http.ResponseWriter) bool // answers in place of the API if it returns true; nil for never

	begin  time.Time
	url    string
	env    []string     // of a relay that is to trust it
	pages  atomic.Int64 // sent whole
	most   atomic.Int64 // requests under way at once, at most
	active atomic.Int64
}

// serveBig starts the API.
func serveBig(t testing.TB, api *bigAPI) *bigAPI {
	t.Helper()
	api.begin = time.Now().Add(-time.Duration(api.events)*10*time.Second - time.Hour).UTC().Truncate(time.Second)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(api.serve))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	if srv.EnableHTTP2 = api.http2; api.http2 {
		srv.StartTLS()
		file := filepath.Join(t.TempDir(), "ca.pem")
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
		api.env = []string{"SSL_CERT_FILE=" + file}
	} else {
		srv.Start()
	}
	api.url = srv.URL
	return api
}

func (a *bigAPI) at(n int) time.Time { return a.begin.Add(time.Duration(n) * 10 * time.Second) }

// index returns the first event that is not before the time written.
func (a *bigAPI) index(text string, otherwise int) int {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return otherwise
	}
	n := int(at.Sub(a.begin) / (10 * time.Second))
	if a.at(n).Before(at) {
		n++
	}
	return max(n, 0)
}

func (a *bigAPI) serve(w http.ResponseWriter, r *http.Request) {
	a.most.Store(max(a.most.Load(), a.active.Add(1)))
	defer a.active.Add(-1)
	if a.before != nil && a.before(w) {
		return
	}
	time.Sleep(a.delay)
	q := r.URL.Query()
	from := a.index(q.Get("range_start"), 0)
	to := min(a.index(q.Get("range_end"), a.events), a.events)
	if id, ok := strings.CutPrefix(q.Get("after"), "event_"); ok {
		n, _ := strconv.Atoi(id)
		from = n + 1
	}
	limit, _ := strconv.Atoi(q.Get("limit"))
	to = min(to, from+max(limit, a.excess))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Request-Id", "req_big")
	var out io.Writer = &paced{w: w, pace: a.pace}
	if a.gzip {
		w.Header().Set("Content-Encoding", "gzip")
		z, _ := gzip.NewWriterLevel(out, gzip.BestSpeed)
		defer func() { _ = z.Close() }()
		out = z
	}
	b := bufio.NewWriterSize(out, 64<<10)
	_, _ = io.WriteString(b, `{"object":"list","data":[`)
	for n := from; n < to; n++ {
		if n > from {
			_ = b.WriteByte(',')
		}
		_, _ = fmt.Fprintf(b, `{"object":"event","id":"event_%026d","event":"user.created","created_at":%q,"data":`, n, a.at(n).Format(time.RFC3339))
		a.value(n, b)
		if _, err := b.WriteString("}"); err != nil {
			return
		}
	}
	_, _ = io.WriteString(b, `],"list_metadata":{"before":null,"after":null}}`)
	if b.Flush() == nil {
		a.pages.Add(1)
	}
}

// paced writes with pauses.
type paced struct {
	w    http.ResponseWriter
	pace time.Duration
}

func (p *paced) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if p.pace > 0 {
		_ = http.NewResponseController(p.w).Flush()
		time.Sleep(p.pace)
	}
	return n, err //nolint:wrapcheck // of the connection
}

// text4k is what large payloads consist of.
var text4k = strings.Repeat("relay carries personal data. ", 142)[:4<<10]

// filled writes an object with so many KiB of text.
func filled(w *bufio.Writer, kib int) {
	_, _ = w.WriteString(`{"id":"user_1","x":"`)
	for range kib / 4 {
		if _, err := w.WriteString(text4k); err != nil {
			return
		}
	}
	_, _ = w.WriteString(`"}`)
}

// bigConfig is a configuration with so many lanes, which publish nothing.
func bigConfig(api string, lanes int, more string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "source: {endpoint: %q, api_key: %s, poll_interval: 200ms, rate_limit: 10000%s}\nroutes: [{events: [\"*\"], drop: true}]\nsinks:\n", api, apiKey, more)
	for i := range lanes {
		fmt.Fprintf(&b, "  - {name: out%d, type: stdout}\n", i)
	}
	return b.String()
}

// mostMemory is what docs/operate.md says that relay takes at most.
func mostMemory(lanes int) int { return lanes*(64+8)<<20 + (8+32+30)<<20 }

// mostForOne is what docs/operate.md says that a single event of some bytes takes at most, with one
// lane: five times its size in place of what readers hold.
func mostForOne(size int) int { return 5*size + (8+8+32+30)<<20 }

// TestLargePagesKeepToTheMemory reads a backlog whose pages are small at first, so that all readers
// set out, and then nearly as large as a response may be: as fast as it can, slowly from all
// readers at once, and compressed. The kernel's peak stays below what the manual says, and reading
// goes on.
//
// P12: pages, not the backlog alone.
func TestLargePagesKeepToTheMemory(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		api   *bigAPI
		lanes int
	}{
		"fast, one lane":        {&bigAPI{}, 1},
		"fast, three lanes":     {&bigAPI{}, 3},
		"trickle, three lanes":  {&bigAPI{pace: 10 * time.Millisecond}, 3},
		"compressed, one lane":  {&bigAPI{gzip: true}, 1},
		"over HTTP/2, one lane": {&bigAPI{http2: true}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const small = 20_000
			api := tc.api
			api.delay = 30 * time.Millisecond // so that readers have something to wait for
			api.events, api.value = 400_000, func(n int, w *bufio.Writer) {
				if n < small {
					filled(w, 0)
				} else {
					filled(w, 296)
				}
			}
			serveBig(t, api)
			r := testkit.NewRelay(t, relayBinary, "relay", bigConfig(api.url, tc.lanes, ""), api.env...)
			r.Start(t)
			r.Await(t, func() bool {
				for i := range tc.lanes {
					if r.Lane(fmt.Sprintf("out%d", i)).Events < small+200 {
						return false
					}
				}
				return true
			}, "every lane reads large pages")
			require.GreaterOrEqual(t, api.most.Load(), int64(3), "several readers were at work at once")
			require.Less(t, peakMemory(t, r.Pid()), mostMemory(tc.lanes))
			require.Zero(t, r.Stop(t))
		})
	}
}

// TestLargePagesAreDelivered publishes pages of 30 MB on NATS and on Kafka, with what users get by
// default.
func TestLargePagesAreDelivered(t *testing.T) {
	t.Parallel()
	const events = 350
	for _, kind := range []string{"nats", "kafka"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			api := serveBig(t, &bigAPI{events: events, value: func(_ int, w *bufio.Writer) { filled(w, 296) }})
			config := fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms}\nsinks:\n", api.url, apiKey)
			if kind == "nats" {
				url, _ := newNATS(t)
				config += fmt.Sprintf("  - {name: nats, type: nats, url: %q}\n", url)
			} else {
				c, err := kfake.NewCluster(kfake.NumBrokers(1))
				require.NoError(t, err)
				t.Cleanup(c.Close)
				config += fmt.Sprintf("  - {name: kafka, type: kafka, brokers: [%q]}\n", c.ListenAddrs()[0])
			}
			r := testkit.NewRelay(t, relayBinary, "relay", config, api.env...)
			r.Start(t)
			// Events does not count those of a commit that is given up for the sake of the lease
			// and yet takes place, as commits of this size may be on a slow machine.
			last := fmt.Sprintf("event_%026d", events-1)
			r.Await(t, func() bool { return r.Lane(kind).Position.EventID == last && r.Lane(kind).AtTip }, "all are published")
			require.Less(t, peakMemory(t, r.Pid()), mostMemory(1)+8<<20)
			require.Zero(t, r.Stop(t))
		})
	}
}

// TestOddEvents publishes an event between others whose payload is unusual, and large as a response
// may be.
func TestOddEvents(t *testing.T) {
	t.Parallel()
	repeated := func(before, text string, n int, after string) func(w *bufio.Writer) {
		return func(w *bufio.Writer) {
			_, _ = w.WriteString(before)
			for range n {
				if _, err := w.WriteString(text); err != nil {
					return
				}
			}
			_, _ = w.WriteString(after)
		}
	}
	for name, odd := range map[string]func(w *bufio.Writer){
		"a large text":              repeated(`{"x":"`, text4k, 20<<8, `"}`),
		"a million small elements":  repeated(`{"x":[`, `{},`, 1<<20, `{}]}`),
		"a giant number":            repeated(`{"x":1`, `0123456789`, 2<<20, `}`),
		"a name a million times":    repeated(`{`, `"x":{"y":1},`, 1<<20, `"x":{"y":1}}`),
		"a long name":               repeated(`{"`, `\u0078`, 1<<20, `":1}`),
		"nested as deep as allowed": func(w *bufio.Writer) { repeated(`{"x":`, `[`, 9_000, ``)(w); repeated(``, `]`, 9_000, `}`)(w) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const events, at = 30, 10
			api := serveBig(t, &bigAPI{events: events, value: func(n int, w *bufio.Writer) {
				if n == at {
					odd(w)
				} else {
					filled(w, 4)
				}
			}})
			config := fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms}\nroutes: [{events: [\"*\"], redact: [data.secret.y]}]\nsinks: [{name: out, type: stdout}]\n", api.url, apiKey)
			r := testkit.NewRelay(t, relayBinary, "relay", config)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("out").Events == events && r.Lane("out").AtTip }, "all are published")
			require.Less(t, peakMemory(t, r.Pid()), mostForOne(20<<20))
			require.Zero(t, r.Stop(t))
		})
	}
}

// TestEventsThatCannotBeRead: what is not an event, or nested without measure, costs little. The
// lane says where it stands and why, and goes on once the API sends something else.
func TestEventsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]struct{ value, says string }{
		"nested too deep":   {strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), "depth"},
		"broken":            {strings.Repeat(`{"x":`, 1_000_000), "cannot be decoded"},
		"a number too many": {"1} , {}, {", `no "id"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const events, at = 30, 10
			var healed atomic.Bool
			api := serveBig(t, &bigAPI{events: events, value: func(n int, w *bufio.Writer) {
				if n == at && !healed.Load() {
					_, _ = w.WriteString(bad.value)
				} else {
					filled(w, 4)
				}
			}})
			r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(api.url, ""))
			r.Start(t)
			r.Await(t, func() bool {
				l := r.Lane("out")
				return l.State == pipeline.Retrying && strings.Contains(l.Reason, bad.says) && strings.Contains(l.Reason, "req_big")
			}, "the lane says where it stands and why")
			require.Less(t, peakMemory(t, r.Pid()), 100<<20)
			healed.Store(true)
			r.Await(t, func() bool { return r.Lane("out").Events == events && r.Lane("out").AtTip }, "all are published")
			require.Zero(t, r.Stop(t))
		})
	}
}

// TestBodiesWithoutEnd answers the first requests of three lanes with bodies that never end, each
// in another way, and then as an Events API
// does.
func TestBodiesWithoutEnd(t *testing.T) {
	t.Parallel()
	endless := func(w io.Writer, text string) {
		for {
			if _, err := io.WriteString(w, text); err != nil {
				return
			}
		}
	}
	compressed := func(w http.ResponseWriter, status int, begin, text string) {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, begin)
		endless(z, text)
	}
	zeros := strings.Repeat("0", 64<<10)
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter)
		times  int64
		most   int
	}{
		"an error":               {func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable); endless(w, text4k) }, 6, 100 << 20},
		"a compressed error":     {func(w http.ResponseWriter) { compressed(w, http.StatusBadGateway, "", zeros) }, 6, 100 << 20},
		"a list":                 {func(w http.ResponseWriter) { endless(w, `{"object":"list","data":[`+zeros) }, 3, mostMemory(3)},
		"a compressed list":      {func(w http.ResponseWriter) { compressed(w, http.StatusOK, `{"object":"list","data":["`, zeros) }, 3, mostMemory(3)},
		"events without measure": {func(w http.ResponseWriter) { endless(w, `{"object":"list","data":[`+strings.Repeat(`{},`, 1<<20)) }, 3, mostMemory(3)},
		"a header":               {func(w http.ResponseWriter) { w.Header()["X-Large"] = []string{strings.Repeat("x", 8<<20)} }, 6, 100 << 20},
		"more than it announces": {func(w http.ResponseWriter) { w.Header().Set("Content-Length", "99999999999"); endless(w, zeros) }, 3, 100 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const events = 30
			var left atomic.Int64
			left.Store(tc.times)
			api := serveBig(t, &bigAPI{events: events, value: func(_ int, w *bufio.Writer) { filled(w, 4) }, before: func(w http.ResponseWriter) bool {
				if left.Add(-1) < 0 {
					return false
				}
				tc.answer(w)
				return true
			}})
			r := testkit.NewRelay(t, relayBinary, "relay", bigConfig(api.url, 3, ""))
			r.Start(t)
			r.Await(t, func() bool {
				for _, lane := range []string{"out0", "out1", "out2"} {
					if r.Lane(lane).Events < events {
						return false
					}
				}
				return true
			}, "every lane goes on")
			require.Less(t, peakMemory(t, r.Pid()), tc.most)
			require.Zero(t, r.Stop(t))
		})
	}
}

// TestMoreEventsThanAskedFor: the API sends all that it has in one page. All are published, once
// each and in order, memory stays bounded, and the log says what is wrong with the response.
func TestMoreEventsThanAskedFor(t *testing.T) {
	t.Parallel()
	t.Run("3000", func(t *testing.T) {
		t.Parallel()
		const events = 3000
		api := serveBig(t, &bigAPI{events: events, excess: events, value: func(_ int, w *bufio.Writer) { filled(w, 0) }})
		r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(api.url, ""))
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("out").Events == events && r.Lane("out").AtTip }, "all are published")
		require.Contains(t, r.Output(), "although 100 were asked for")
		require.Contains(t, r.Output(), "req_big")
		n := 0
		for line := range strings.Lines(r.Output()) {
			if _, rest, ok := strings.Cut(line, `"object":"event","id":"event_`); ok {
				id, _, _ := strings.Cut(rest, `"`)
				require.Equal(t, fmt.Sprintf("%026d", n), id)
				n++
			}
		}
		require.Equal(t, events, n)
		require.Zero(t, r.Stop(t))
	})
	t.Run("400000", func(t *testing.T) {
		t.Parallel()
		api := serveBig(t, &bigAPI{events: 400_000, excess: 400_000, value: func(_ int, w *bufio.Writer) { filled(w, 0) }})
		r := testkit.NewRelay(t, relayBinary, "relay", bigConfig(api.url, 1, ""))
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("out0").Events > 2000 }, "the lane goes on")
		require.Contains(t, r.Output(), "although 100 were asked for")
		require.Less(t, peakMemory(t, r.Pid()), mostMemory(1))
		require.Zero(t, r.Stop(t))
	})
}
