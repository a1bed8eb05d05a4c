//go:build linux

package hostile

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// frame is one unit of the NATS protocol: a line, and what follows it if that is a message.
type frame struct {
	line    string
	payload []byte
}

func readFrame(from *bufio.Reader) (frame, error) {
	line, err := from.ReadString('\n')
	if err != nil {
		return frame{}, err
	}
	f := frame{line: line}
	fields := strings.Fields(line)
	if len(fields) > 0 && slices.Contains([]string{"MSG", "HMSG", "PUB", "HPUB"}, fields[0]) {
		size, err := strconv.Atoi(fields[len(fields)-1])
		if err != nil {
			return frame{}, err
		}
		f.payload = make([]byte, size+2)
		_, err = io.ReadFull(from, f.payload)
		return f, err
	}
	return f, nil
}

// forger stands between relay and a NATS server. While it forges, it keeps messages from the server
// and answers them itself.
type forger struct {
	address, upstream string
	forge             atomic.Pointer[func(subject string) string] // the acknowledgement of a message that the server does not get; nil passes all
	forged            atomic.Int64
	// batches leaves messages alone that are no part of an atomic batch. The acknowledgement of a
	// position that moves by itself, such as a renewal of the lease, has nothing that could prove
	// it.
	batches bool
}

func newForger(t *testing.T, upstream string, batches bool) *forger {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &forger{address: ln.Addr().String(), upstream: strings.TrimPrefix(upstream, "nats://"), batches: batches}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.carry(t, client) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return f
}

func (f *forger) carry(t *testing.T, client net.Conn) {
	server, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.upstream)
	if err != nil {
		_ = client.Close()
		return
	}
	closeBoth := func() { _ = client.Close(); _ = server.Close() }
	defer closeBoth()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with carry
		select {
		case <-t.Context().Done():
			closeBoth()
		case <-stop:
		}
	}()
	var writing sync.Mutex // to client
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() {
		defer closeBoth()
		from := bufio.NewReader(server)
		for {
			in, err := readFrame(from)
			if err != nil {
				return
			}
			writing.Lock()
			_, err = io.WriteString(client, in.line+string(in.payload))
			writing.Unlock()
			if err != nil {
				return
			}
		}
	})
	from := bufio.NewReader(client)
	inboxes := map[string]string{} // prefix of replies -> subscription
	for {
		out, err := readFrame(from)
		if err != nil {
			closeBoth()
			return
		}
		fields := strings.Fields(out.line)
		if len(fields) > 2 && fields[0] == "SUB" {
			inboxes[strings.TrimSuffix(fields[1], ".*.*")] = fields[2]
		}
		if forge := f.forge.Load(); forge != nil && strings.HasSuffix(fields[0], "PUB") && !strings.HasPrefix(fields[1], "$JS") &&
			(!f.batches || bytes.Contains(out.payload, []byte("Nats-Batch-Id:"))) {
			f.answer(client, &writing, fields, inboxes, *forge)
			continue
		}
		if _, err := io.WriteString(server, out.line+string(out.payload)); err != nil {
			return
		}
	}
}

// answer acknowledges a message in place of the server, if it asks for that.
func (f *forger) answer(client io.Writer, writing *sync.Mutex, fields []string, inboxes map[string]string, forge func(string) string) {
	if len(fields) < 4 || fields[0] == "HPUB" && len(fields) < 5 {
		return
	}
	reply := fields[2]
	for prefix, id := range inboxes {
		if strings.HasPrefix(reply, prefix+".") {
			text := forge(fields[1])
			writing.Lock()
			_, _ = fmt.Fprintf(client, "MSG %s %s %d\r\n%s\r\n", reply, id, len(text), text)
			writing.Unlock()
			f.forged.Add(1)
		}
	}
}

// TestAForgedAcknowledgementMovesNothing keeps events from the stream and acknowledges them
// wrongly, in each mode of delivery. The position does not move, another lane goes on, and once the
// server gets the events they are there, in exactly_once each once.
func TestAForgedAcknowledgementMovesNothing(t *testing.T) {
	t.Parallel()
	forgeries := []string{
		`{"stream":"OTHER","seq":999999}`,
		`{"stream":"WORKOS","seq":999999,"domain":"elsewhere"}`,
		`{"stream":"WORKOS","seq":0}`,
		`{"stream":"WORKOS"}`,
		`{"stream":"WORKOS","seq":-1}`,
		`{"stream":"WORKOS","seq":"999999"}`,
		`{"stream":"WORKOS","seq":1e6}`,
		`{"stream":"WORKOS","seq":99999999999999999999999}`,
		`{"stream":"WORKOS","seq":999999`,
		`{"stream":"WORKOS","seq":999999}}`,
		`{"stream":"WORKOS","seq":999999} {"stream":"OTHER"}`,
		`{"stream":"WORKOS","seq":0,"seq":999999}`,
		`{"STREAM":"WORKOS","Seq":999999}`,
		`{"stream":"WORKOS","seq":0999999}`,
		`{"stream":"WORKOS","seq":999999,"error":{"code":503,"err_code":10077,"description":"no` + "\x1b[2J" + `space"}}`,
		`{"error":{}}`, `null`, `[]`, `""`, `{}`, "\x00", "+OK", "<html>", "\x1b[31mred",
		strings.Repeat("[", 100_000),
		`{"stream":"` + strings.Repeat("x", 900_000) + `","seq":1}`,
	}
	for mode, more := range map[string][]string{
		"at_least_once": nil,
		// Of a batch: that of one message alone, and of another batch.
		"exactly_once": {`{"stream":"WORKOS","seq":999999}`, `{"stream":"WORKOS","seq":999999,"batch":"another","count":2}`, `{"stream":"WORKOS","seq":1,"batch":"another","count":1}`},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			bus, js := newNATS(t)
			f := newForger(t, bus, mode == "exactly_once")
			r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 100ms}\ndelivery: %s\n"+
				"sinks: [{name: nats, type: nats, url: \"nats://%s\", ack_timeout: 300ms}, {name: out, type: stdout, delivery: at_least_once}]\n", api.URL(), apiKey, mode, f.address))
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("out").AtTip }, "both lanes work")
			for i, text := range append(forgeries, more...) {
				event := newEvent(i, "user.created", 0)
				forge := func(string) string { return text }
				before := f.forged.Load()
				f.forge.Store(&forge)
				require.NoError(t, api.Append([]byte(event.raw)))
				r.Await(t, func() bool { return f.forged.Load() > before }, "acknowledged as %.100q", text)
				r.Await(t, func() bool { return r.Lane("out").Position.EventID == event.id }, "the other lane goes on")
				require.Never(t, func() bool { return r.Lane("nats").Position.EventID == event.id }, 100*time.Millisecond, often, "%.100q", text)
				f.forge.Store(nil)
				r.Await(t, func() bool {
					if r.Lane("nats").State == pipeline.Stopped { // it asks for an operator
						r.Kill()
						r.Start(t)
					}
					return r.Lane("nats").Position.EventID == event.id
				}, "it goes on after %.100q", text)
			}
			published := uint64(len(forgeries) + len(more))
			if mode == "exactly_once" {
				require.Equal(t, published, subjects(js)["user.created"])
			}
			require.GreaterOrEqual(t, subjects(js)["user.created"], published)
			r.Kill()
		})
	}
}

// hostileServer starts a server that greets each client with greeting, answers PING once, and then
// lets attack write.
func hostileServer(t *testing.T, greeting func(io.Writer), attack func(io.Writer)) (address string) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = client.Close() }()
				defer closeWith(t, client)()
				greeting(client)
				lines := bufio.NewReader(client)
				for {
					line, err := lines.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "PING") {
						break
					}
				}
				_, _ = io.WriteString(client, "PONG\r\n")
				attack(client)
				_, _ = io.Copy(io.Discard, client) // until relay hangs up
			})
		}
	})
	return ln.Addr().String()
}

// closeWith closes conn when the test ends, until the function that it returns is called.
func closeWith(t *testing.T, conn io.Closer) (leave func()) {
	stop := make(chan struct{})
	go func() {
		select {
		case <-t.Context().Done():
			_ = conn.Close()
		case <-stop:
		}
	}()
	return func() { close(stop) }
}

// repeat writes text again and again, up to size bytes and as long as somebody reads.
func repeat(to io.Writer, text string, size int) {
	piece := []byte(strings.Repeat(text, max(1, (64<<10)/len(text))))
	for ; size > 0; size -= len(piece) {
		if _, err := to.Write(piece); err != nil {
			return
		}
	}
}

// TestAHostileNATSServer answers relay with what no NATS server sends. relay goes on in bounded
// memory, its other lane works, the log stays short, and nothing of it reaches a terminal as it is.
func TestAHostileNATSServer(t *testing.T) {
	t.Parallel()
	const much = 192 << 20
	info := func(more string) func(io.Writer) {
		return func(w io.Writer) {
			_, _ = fmt.Fprintf(w, `INFO {"server_id":"X","server_name":"x","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576,"jetstream":true%s}`+"\r\n", more)
		}
	}
	send := func(text string) func(io.Writer) {
		return func(w io.Writer) { _, _ = io.WriteString(w, text) }
	}
	again := func(text string) func(io.Writer) { return func(w io.Writer) { repeat(w, text, much) } }
	nothing := func(io.Writer) {}
	servers := make([]string, 20_000)
	for i := range servers {
		servers[i] = fmt.Sprintf(`"127.0.0.1:%d"`, i+1)
	}
	for name, c := range map[string]struct{ greeting, attack func(io.Writer) }{
		"an endless greeting":               {func(w io.Writer) { _, _ = io.WriteString(w, "INFO {"); repeat(w, "x", much) }, nothing},
		"endless without a line":            {again("x"), nothing},
		"a greeting that is not JSON":       {send("INFO nothing\r\n"), nothing},
		"a greeting with 20,000 servers":    {info(`,"connect_urls":[` + strings.Join(servers, ",") + `]`), again(`INFO {"connect_urls":[` + strings.Join(servers, ",") + "]}\r\n")},
		"max_payload -1":                    {info(`,"max_payload":-1`), nothing},
		"max_payload 0":                     {info(`,"max_payload":0`), nothing},
		"a message of 2^62 bytes":           {info(""), send("MSG a 1 4611686018427387904\r\nx")},
		"a message of 10^9 bytes":           {info(""), func(w io.Writer) { _, _ = io.WriteString(w, "MSG a 1 1000000000\r\n"); repeat(w, "x", much) }},
		"a message with headers, of 2^62":   {info(""), send("HMSG a 1 12 4611686018427387904\r\nx")},
		"headers longer than the message":   {info(""), send("HMSG a 1 4611686018427387904 12\r\nx")},
		"a size that wraps":                 {info(""), send("MSG a 1 18446744073709551621\r\nhello\r\n")},
		"a negative size":                   {info(""), send("MSG a 1 -5\r\nhello\r\n")},
		"a message without a size":          {info(""), send("MSG\r\nMSG a\r\nMSG a b c d e\r\n")},
		"an endless line":                   {info(""), again("-ERR x")},
		"endless messages to nobody":        {info(""), again("MSG _INBOX.x.1 99 5\r\nhello\r\n")},
		"endless answers to no request":     {info(""), again("MSG _INBOX.x.1.1 1 1000\r\n" + strings.Repeat("x", 1000) + "\r\n")},
		"endless large answers":             {info(""), again("MSG _INBOX.x.1.1 1 1000000\r\n" + strings.Repeat("x", 1_000_000) + "\r\n")},
		"endless errors that do not end it": {info(""), again("-ERR 'Permissions Violation for Publish to \"\x1b[2Ja\"'\r\n")},
		"an error with control characters":  {info(""), send("-ERR '\x1b]0;owned\x07\x1b[2J\u009b31m " + strings.Repeat("long ", 5000) + "'\r\n")},
		"greetings that never end":          {info(""), again(`INFO {"server_id":"Y","max_payload":1}` + "\r\n")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireBounded(t, "nats://"+hostileServer(t, c.greeting, c.attack))
		})
	}
}

// requireBounded runs relay with a lane to a hostile NATS server and another one.
func requireBounded(t *testing.T, url string) {
	t.Helper()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 5, Seed: 1}))
	r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms}\n"+
		"sinks: [{name: nats, type: nats, url: %q, ack_timeout: 1s}, {name: out, type: stdout}]\n", api.URL(), apiKey, url))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("out").AtTip }, "the other lane works")
	time.Sleep(4 * time.Second) // meanwhile relay connects several times
	require.NoError(t, api.Append([]byte(newEvent(900, "user.created", 0).raw)))
	r.Await(t, func() bool { return r.Lane("out").Events == 6 }, "the other lane goes on")
	require.Zero(t, r.Lane("nats").Events)
	require.Less(t, peakMemory(t, r.Pid()), 150<<20)
	text := r.Output()
	require.NotContains(t, text, "panic")
	require.NotContains(t, text, "\x1b")
	require.False(t, regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f]`).MatchString(text))
	require.Less(t, len(text), 256<<10, "the log stays short")
	r.Kill()
}

// upgrade answers the handshake of a websocket. A hostile server goes on as it likes.
func upgrade(t *testing.T, more func(io.Writer)) (address string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // of RFC 6455
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
			base64.StdEncoding.EncodeToString(sum[:]))
		more(conn)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// TestAHostileWebsocket is TestAHostileNATSServer for a websocket.
func TestAHostileWebsocket(t *testing.T) {
	t.Parallel()
	const much = 768 << 20
	frame := func(first byte, payload string) string {
		return string([]byte{first, 127, 0, 0, 0, 0}) + string(binary.BigEndian.AppendUint32(nil, uint32(len(payload)))) + payload //nolint:gosec // small
	}
	const data, continued, final, compressed = 0x02, 0x00, 0x80, 0x40
	piece := strings.Repeat("x", 64<<10)
	zeros := func() string {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestCompression)
		for range much / len(piece) {
			_, _ = io.WriteString(w, piece)
		}
		_ = w.Flush()
		return b.String()
	}()
	again := func(before, text string) func(io.Writer) {
		return func(w io.Writer) { _, _ = io.WriteString(w, before); repeat(w, text, much) }
	}
	info := frame(data|final, `INFO {"server_id":"X","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576,"jetstream":true}`+"\r\n") + frame(data|final, "PONG\r\n")
	for name, more := range map[string]func(io.Writer){
		"an endless header":            again("X: ", "x"),
		"endless headers":              again("", "X: x\r\n"),
		"an endless greeting":          again("\r\n"+frame(data, "INFO {"), frame(continued, piece)),
		"an endless line":              again("\r\n"+info, frame(data|final, "-ERR "+piece)),
		"a frame of 2^62 bytes":        again("\r\n"+info+string([]byte{data | final, 127, 0x40, 0, 0, 0, 0, 0, 0, 0}), piece),
		"a message of 10^9 bytes":      again("\r\n"+info+frame(data, "MSG a 1 1000000000\r\n"), frame(continued, piece)),
		"a frame that inflates":        again("\r\n"+info+frame(data|final|compressed, zeros), frame(data|final|compressed, zeros)),
		"a greeting that inflates":     again("\r\n"+frame(data|final|compressed, zeros), "\x89\x00"),
		"endless pings":                again("\r\n"+info, string([]byte{0x89, 1, 'x'})),
		"endless frames of nothing":    again("\r\n"+info+frame(data, ""), frame(continued, "")),
		"frames that are not possible": again("\r\n"+info, "\xff\xff\x0b\x03"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireBounded(t, "ws://"+upgrade(t, more))
		})
	}
}
