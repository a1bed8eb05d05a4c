//go:build linux

package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"

	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/tests/testkit"
)

// loud holds every kind of character that must reach no terminal and no log: C0 and C1 controls,
// DEL, overrides of direction, what has no width, line separators, tags, and bytes that are not
// UTF-8.
const loud = "loud\x1b[2J\x1b]0;title\x07\x00\x08\x7f\u009b31m\u0090\u202e\u2066\u200e\u061c\u200b\ufeff\u2028\u2029\U000e0041\xff\xc3\xed\xa0\x80"

// inJSON returns s as a JSON string that holds its bytes as they are, as far as JSON lets it, and
// lone surrogates as well.
func inJSON(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c == '"' || c == '\\':
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return `"` + b.String() + `\ud800\u001b\u202e"`
}

// longestLine bounds a line that relay shows, in bytes.
const longestLine = 4 << 10

// requirePrintable requires that a terminal can show text as it is, and that it has no line that is
// too long.
func requirePrintable(t *testing.T, what, text string, longest int) {
	t.Helper()
	require.True(t, utf8.ValidString(text), "%s is not UTF-8", what)
	for line := range strings.SplitSeq(text, "\n") {
		require.LessOrEqual(t, len(line), longest, "%s: %.200q", what, line)
		for _, r := range line {
			require.True(t, printable.Safe(r) || r == '\t' || r == utf8.RuneError, "%s has %q: %.300q", what, r, line)
		}
	}
}

// someCommands are those that show what a lane, a source and a bus say.
var someCommands = [][]string{{"status"}, {"check", "--timeout", "2s"}}

// allCommands are all that show anything from outside.
var allCommands = append([][]string{
	{"status", "--json"}, {"check", "--json", "--timeout", "2s"}, {"checkpoint", "show"}, {"checkpoint", "show", "--json"}, {"poll"}, {"reload"},
	{"replay", "--since", "earliest", "--until", "latest"}, {"verify", "--since", "earliest", "--until", "latest"}, {"help", "troubleshoot", loud}, {"types", loud},
}, someCommands...)

// requireQuiet requires that everything that the relay shows, running and in these commands, is
// printable.
func requireQuiet(t *testing.T, r *testkit.Relay, commands [][]string) {
	t.Helper()
	requirePrintable(t, "the log", r.Output(), longestLine)
	for _, path := range []string{"/api/v1/status", "/readyz", "/metrics", "/", "/api/v1/stream"} {
		text := read(t, "http://"+r.Admin+path)
		require.NotEmpty(t, text, path)
		requirePrintable(t, path, text, 1<<20) // a page has its script in a line
	}
	for _, args := range commands {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a source that refuses everything ends no replay
		cmd := exec.CommandContext(ctx, relayBinary, append([]string{"--config", r.Config}, args...)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		if args[0] == "help" || args[0] == "types" {
			cmd.Args[len(cmd.Args)-1] = strings.ReplaceAll(args[len(args)-1], "\x00", "") // no argument can hold it
		}
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		cancel()
		require.NotContains(t, errs.String(), "panic: runtime", args)
		requirePrintable(t, strings.Join(args, " ")+": standard output", out.String(), longestLine)
		requirePrintable(t, strings.Join(args, " ")+": standard error", errs.String(), longestLine)
	}
}

// read returns what an address answers; of the stream of the page, which does not end, what comes
// within two seconds after its beginning.
func read(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/html, */*")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err, url)
	defer func() { _ = resp.Body.Close() }()
	if !strings.HasSuffix(url, "/stream") {
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err, url)
		return string(text)
	}
	first := make([]byte, 1)
	_, err = io.ReadFull(resp.Body, first)
	require.NoError(t, err, url)
	time.AfterFunc(2*time.Second, cancel)
	rest, _ := io.ReadAll(resp.Body)
	return string(append(first, rest...))
}

// serveLoud starts an Events API whose answers are written by answer.
func serveLoud(t *testing.T, answer http.HandlerFunc) (url string) {
	t.Helper()
	srv := httptest.NewServer(answer)
	t.Cleanup(srv.Close)
	return srv.URL
}

// page is a list of events as a hostile API writes it.
func page(events ...string) string {
	return `{"object":"list","data":[` + strings.Join(events, ",") + `],"list_metadata":{"before":` + inJSON(loud) + `,"after":` + inJSON(loud) + `}}`
}

// loudEvent is an event with the id and type given, and text in every other field.
func loudEvent(n int, eventType, text string) hostileEvent {
	e := newEvent(n, eventType, 60-n)
	at, _, _ := strings.Cut(e.raw[strings.Index(e.raw, `"created_at":`)+len(`"created_at":`):], "}")
	s := inJSON(text)
	return hostileEvent{e.id, fmt.Sprintf(`{"object":"event","id":%q,"event":%q,"data":{"id":%s,"object":%s,"organization_id":%s,"directory_id":%s,"email":%s,%s:1},`+
		`"context":{"actor":{"id":%s,"name":%s}},"created_at":%s}`, e.id, eventType, s, s, s, s, s, s, s, s, at)}
}

// TestTextOfAnswers lets the Events API refuse everything with text in every part of its answer,
// and send pages with text in every field. Nothing that relay shows holds any of it raw.
func TestTextOfAnswers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(loud, 20_000) // 1 MB
	header := func(s string) string {
		return strings.NewReplacer("\x00", "", "\x08", "").Replace(s[:min(len(s), 60_000)])
	}
	refuse := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack() // net/http would not write such headers
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nX-Request-Id: %s\r\nContent-Type: %s\r\nLocation: http://%s/\r\nRetry-After: 0\r\nDate: %s\r\nServer: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
				status, header(loud), header(loud), header(loud), header(loud), header(loud), header(loud), len(body), body)
		}
	}
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Request-Id", "req_1")
			_, _ = io.WriteString(w, body)
		}
	}
	shaped := func(text string) string {
		s := inJSON(text)
		return fmt.Sprintf(`{"message":%s,"code":%s,"error":%s,"error_description":%s,"errors":[%s,{"code":%s,"field":%s,"message":%s}]}`, s, s, s, s, s, s, s, s)
	}
	at := time.Now().UTC().Format(time.RFC3339)
	event := func(id, eventType, created string) string {
		return fmt.Sprintf(`{"object":"event","id":%s,"event":%s,"data":{},"created_at":%s}`, id, eventType, created)
	}
	for name, api := range map[string]http.HandlerFunc{
		"400":                    refuse(400, shaped(loud)),
		"401":                    refuse(401, shaped(loud)),
		"404 with no JSON":       refuse(404, loud),
		"422 long":               refuse(422, shaped(long)),
		"500 long with no JSON":  refuse(500, long),
		"redirect":               refuse(302, ""),
		"headers only":           refuse(503, ""),
		"broken status line":     func(w http.ResponseWriter, _ *http.Request) { raw(w, "HTTP/9"+loud+"\r\n\r\n") },
		"broken header":          func(w http.ResponseWriter, _ *http.Request) { raw(w, "HTTP/1.1 200 OK\r\n"+loud+"\r\n\r\n") },
		"not JSON":               answer(loud),
		"not JSON long":          answer(long),
		"not JSON inside":        answer(`{"object":"list","data":[{"id":` + loud + `}]}`),
		"other object":           answer(`{"object":` + inJSON(loud) + `,"data":[]}`),
		"names":                  answer(`{` + inJSON(long) + `:{]`),
		"id":                     answer(page(event(inJSON(loud), `"user.created"`, `"`+at+`"`))),
		"long id":                answer(page(event(inJSON(long), `"user.created"`, `"`+at+`"`))),
		"type":                   answer(page(event(`"event_1"`, inJSON(loud), `"`+at+`"`))),
		"time":                   answer(page(event(`"event_1"`, `"user.created"`, inJSON(loud[:20])))),
		"long time":              answer(page(event(`"event_1"`, `"user.created"`, inJSON(long)))),
		"invisible but printing": answer(page(event("\"event_\u3164\ufe0f\"", "\"user.\u3164\"", `"`+at+`"`))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := serveLoud(t, api)
			format := "console"
			if len(name)%2 == 0 {
				format = "json"
			}
			r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(url, ""))
			r.SetArgs("--log-level", "debug", "--log-format", format, "run", "--config", r.Config)
			r.Start(t)
			r.Await(t, func() bool { l := r.Lane("out"); return l.Reason != "" || l.Events > 0 || l.LastPoll != nil }, "relay has something to say")
			commands := someCommands
			if name == "422 long" {
				commands = allCommands
			}
			requireQuiet(t, r, commands)
			if r.Runs() {
				r.Stop(t)
			}
			requirePrintable(t, "the log", r.Output(), longestLine)
		})
	}
}

// raw answers with bytes as they are.
func raw(w http.ResponseWriter, text string) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
}

// TestTextOfEvents carries events with such text in every field to a NATS server. Bodies arrive
// byte for byte, headers hold nothing that a bus or a terminal would trip over, and relay shows
// nothing raw: neither in its log, status and page nor with tail on a terminal. With tail into a
// pipe the bytes are those of the event.
func TestTextOfEvents(t *testing.T) {
	t.Parallel()
	events := []hostileEvent{
		loudEvent(1, "user.created", loud), loudEvent(2, "dsync.user.created", "\u202e\xff"), loudEvent(3, "organization.updated", "\r\nNats-Rollup: all\r\n\r\n"),
		loudEvent(4, "user.updated", strings.Repeat(loud, 3000)), loudEvent(5, "connection.activated", strings.Repeat("\u009b", 200)),
	}
	url := serveAnything(t, events, 0)
	for _, encoding := range []string{"raw", "cloudevents", "cloudevents_structured"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			bus, js := newNATS(t)
			r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms}\nencoding: %s\nheaders: {actor: true}\n"+
				"dead_letter: {topic: relay.dead_letter}\nadmin: {listen: %q, show_payloads: true}\nsinks: [{name: nats, type: nats, url: %q}]\n", url, apiKey, encoding, "127.0.0.1:0", bus))
			r.WriteConfig(t, strings.Replace(readFile(t, r.Config), "127.0.0.1:0", r.Admin, 1))
			r.SetArgs("--log-level", "debug", "run", "--config", r.Config)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("nats").Position.EventID == events[4].id }, "every event is settled")
			requireQuiet(t, r, allCommands)
			seen := requireHeaders(t, js)
			require.GreaterOrEqual(t, seen, 5)
			require.Contains(t, read(t, "http://"+r.Admin+"/"), `\u202e`, "the page shows that there is something")
			for _, args := range [][]string{
				{"tail", "--since", "earliest"}, {"tail", "--since", "earliest", "--envelope"},
				{"tail", "--from-sink", "--since", "earliest"}, {"tail", "--from-sink", "--since", "earliest", "--envelope"},
			} {
				text := onTerminal(t, r, len(events), args...)
				requirePrintable(t, strings.Join(args, " "), text, 1<<30)
				for line := range strings.Lines(text) {
					require.True(t, json.Valid([]byte(line)), "%q", line)
				}
			}
			require.Zero(t, r.Stop(t))
			requirePrintable(t, "the log", r.Output(), longestLine)
			if encoding == "raw" {
				require.Contains(t, piped(t, r, len(events), "tail", "--since", "earliest"), events[0].raw+"\n", "byte for byte")
			}
		})
	}
}

// TestStandardOutputOnATerminal runs a relay whose sink is standard output, which is a terminal
// once and a pipe once.
func TestStandardOutputOnATerminal(t *testing.T) {
	t.Parallel()
	events := []hostileEvent{loudEvent(1, "user.created", loud), loudEvent(2, "user.updated", "\u202e\xff\u009b")}
	url := serveAnything(t, events, 0)
	r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(url, ""))
	requirePrintable(t, "a terminal", onTerminal(t, r, 2, "run"), 1<<30)
	r = testkit.NewRelay(t, relayBinary, "relay", stdoutConfig(url, ""))
	require.Equal(t, events[0].raw+"\n"+events[1].raw+"\n", piped(t, r, 2, "run"))
}

// requireHeaders requires that every message of the stream has headers that are printable and
// short, and returns how many there are.
func requireHeaders(t *testing.T, js jetstream.JetStream) (messages int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	s, err := js.Stream(ctx, "WORKOS")
	require.NoError(t, err)
	info, err := s.Info(ctx)
	require.NoError(t, err)
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil || strings.HasPrefix(m.Subject, "relay.position.") {
			continue
		}
		messages++
		for key, values := range m.Header {
			for _, value := range values {
				requirePrintable(t, "header "+key, value, 2000)
				require.NotContains(t, value, "\n")
			}
			require.NotEqual(t, "Nats-Rollup", key)
		}
	}
	return messages
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// onTerminal runs a command whose standard output is a terminal until that has shown as many lines,
// and returns them.
func onTerminal(t *testing.T, r *testkit.Relay, lines int, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err, "the test needs pseudo terminals")
	defer func() { _ = master.Close() }()
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)) //nolint:gosec // a file descriptor fits
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)                       //nolint:gosec // a file descriptor fits
	require.NoError(t, err)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	text := linesOf(t, r, slave, master, lines, args...)
	return strings.ReplaceAll(text, "\r\n", "\n") // which the terminal makes of a line feed
}

// piped is onTerminal with a pipe.
func piped(t *testing.T, r *testkit.Relay, lines int, args ...string) string {
	t.Helper()
	in, out, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _ = in.Close() }()
	return linesOf(t, r, out, in, lines, args...)
}

// linesOf runs a command that writes to out, reads lines from in, and then ends the command. It
// closes out.
func linesOf(t *testing.T, r *testkit.Relay, out, in *os.File, lines int, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), relayBinary, append([]string{"--config", r.Config}, args...)...)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &errs
	require.NoError(t, cmd.Start())
	require.NoError(t, out.Close())
	ended := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		select {
		case <-ended:
		case <-time.After(patient):
			_ = in.Close()
		}
	})
	var text strings.Builder
	for from := bufio.NewReader(in); lines > 0; lines-- {
		line, err := from.ReadString('\n')
		text.WriteString(line)
		if err != nil {
			break
		}
	}
	close(ended)
	_ = cmd.Process.Signal(os.Interrupt)
	group.Go(func() { _, _ = io.Copy(io.Discard, in) }) // nobody is held up by a full terminal
	_ = cmd.Wait()
	_ = in.Close()
	group.Wait()
	require.Zero(t, lines, "%q\n%s", text.String(), errs.String())
	requirePrintable(t, "standard error", errs.String(), longestLine)
	return text.String()
}

// loudNATS is a NATS server that answers everything with an error.
type loudNATS struct {
	refuse func(subject string) string // the line or the JSON that answers a request; a line begins with -ERR
	info   string                      // text in its greeting
}

// start makes it listen, and returns its address.
func (s *loudNATS) start(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			go s.serve(conn)
		}
	}()
	return "nats://" + l.Addr().String()
}

func (s *loudNATS) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	name, _ := json.Marshal(s.info)
	_, _ = fmt.Fprintf(conn, `INFO {"server_id":%s,"server_name":%s,"version":"2.12.1","proto":1,"headers":true,"jetstream":true,"max_payload":1048576,"domain":%s}`+"\r\n", name, name, name)
	from := bufio.NewReader(conn)
	sids := map[string]string{}
	for {
		line, err := from.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "PING":
			_, _ = io.WriteString(conn, "PONG\r\n")
		case "CONNECT":
			if refusal := s.refuse(""); refusal != "" {
				_, _ = io.WriteString(conn, refusal+"\r\n")
				return
			}
		case "SUB":
			sids[strings.TrimRight(words[1], "*.>")] = words[len(words)-1]
		case "PUB", "HPUB":
			size, _ := strconv.Atoi(words[len(words)-1])
			if _, err := io.CopyN(io.Discard, from, int64(size)+2); err != nil {
				return
			}
			refusal := s.refuse(words[1])
			if strings.HasPrefix(refusal, "-ERR") {
				_, _ = io.WriteString(conn, refusal+"\r\n")
				continue
			}
			for prefix, sid := range sids {
				if strings.HasPrefix(words[2], prefix) {
					_, _ = fmt.Fprintf(conn, "MSG %s %s %d\r\n%s\r\n", words[2], sid, len(refusal), refusal)
				}
			}
		}
	}
}

// TestTextOfNATS connects relay to NATS servers whose errors and greetings hold such text.
func TestTextOfNATS(t *testing.T) {
	t.Parallel()
	line := strings.NewReplacer("\x00", "").Replace(loud)
	api := func(text string) func(string) string {
		return func(subject string) string {
			if subject == "" {
				return ""
			}
			return fmt.Sprintf(`{"type":%s,"stream":%s,"domain":%s,"error":{"code":500,"err_code":10999,"description":%s}}`, inJSON(text), inJSON(text), inJSON(text), inJSON(text))
		}
	}
	for name, s := range map[string]*loudNATS{
		"refused":         {refuse: func(string) string { return "-ERR 'Authorization Violation " + line + "'" }},
		"other error":     {refuse: func(string) string { return "-ERR '" + line + strings.Repeat("x", 3000) + "'" }},
		"no greeting":     {refuse: func(string) string { return line }},
		"API error":       {refuse: api(loud), info: loud},
		"API error, long": {refuse: api(strings.Repeat(loud, 10_000)), info: strings.Repeat("x\x1b", 10_000)},
		"denied": {refuse: func(subject string) string {
			if subject == "" {
				return ""
			}
			return `-ERR 'Permissions Violation for Publish to "` + line + strings.Repeat("x", 2000) + `"'`
		}},
		"no JSON": {refuse: func(subject string) string {
			if subject == "" {
				return ""
			}
			return loud
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s}\nsinks: [{name: nats, type: nats, url: %q, ack_timeout: 2s}]\n",
				serveAnything(t, []hostileEvent{newEvent(1, "user.created", 1)}, 0), apiKey, s.start(t)))
			r.SetArgs("--log-level", "debug", "run", "--config", r.Config)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("nats").Reason != "" }, "the lane says what is wrong")
			requireQuiet(t, r, someCommands)
			if r.Runs() {
				r.Kill()
			}
			requirePrintable(t, "the log", r.Output(), longestLine)
		})
	}
}

// TestTextOfKafka lets a Kafka cluster refuse to create topics in such words, and give such values
// for settings and addresses.
func TestTextOfKafka(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"short": loud, "long": strings.Repeat(loud, 500)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
			require.NoError(t, err)
			t.Cleanup(cluster.Close)
			cluster.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				asked := req.(*kmsg.CreateTopicsRequest)
				resp := asked.ResponseKind().(*kmsg.CreateTopicsResponse)
				for i := range asked.Topics {
					topic := kmsg.NewCreateTopicsResponseTopic()
					topic.Topic, topic.ErrorCode, topic.ErrorMessage = asked.Topics[i].Topic, kerr.PolicyViolation.Code, &text
					resp.Topics = append(resp.Topics, topic)
				}
				return resp, nil, true
			})
			r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s}\nsinks: [{name: kafka, type: kafka, brokers: [%q]}]\n",
				serveAnything(t, []hostileEvent{newEvent(1, "user.created", 1)}, 0), apiKey, cluster.ListenAddrs()[0]))
			r.SetArgs("--log-level", "debug", "run", "--config", r.Config)
			r.Start(t)
			// A lane that stopped ends relay a moment later.
			require.Eventually(t, func() bool { return !r.Runs() || r.Lane("kafka").State == pipeline.Retrying }, patient, often)
			if r.Runs() {
				requireQuiet(t, r, someCommands)
				r.Kill()
			}
			require.Contains(t, r.Output(), `loud\u001b`)
			requirePrintable(t, "the log", r.Output(), longestLine)
		})
	}
}

// TestTextOfConfiguration gives relay configurations, files and flags that hold such text.
func TestTextOfConfiguration(t *testing.T) {
	t.Parallel()
	line := strings.NewReplacer("\x00", "", "\xff", "", "\xc3", "", "\xed\xa0\x80", "").Replace(loud)
	quoted := strconv.QuoteToASCII(line) // escapes, as YAML has them too
	long := strconv.QuoteToASCII(strings.Repeat(line, 2000))
	for name, text := range map[string]string{
		"value":   "source: {poll_interval: " + quoted + "}\n",
		"long":    "source: {poll_interval: " + long + ", events: [" + long + "]}\n",
		"key":     quoted + ": 1\n",
		"names":   "id: " + quoted + "\nsinks: [{name: " + quoted + ", type: " + quoted + "}]\n",
		"raw":     "source: {endpoint: \"" + line + "\"}\n",
		"bytes":   "source: {endpoint: \"\xff\xfe\"}\n",
		"routes":  "routes: [{events: [user.created], topic: " + quoted + ", key: " + quoted + ", redact: [" + quoted + "]}]\n",
		"files":   "source: {api_key_file: " + quoted + "}\nsinks: [{name: n, type: nats, tls: {ca_file: " + quoted + "}}]\n",
		"address": "admin: {listen: " + quoted + "}\nsinks: [{name: k, type: kafka, brokers: [" + quoted + "]}]\n",
		"env":     "source: {endpoint: \"${" + line + "}\"}\n",
		"no YAML": "\x1b[2J: [\u202e\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testkit.NewRelay(t, relayBinary, "relay", text)
			for _, args := range [][]string{{"check", "--timeout", "2s"}, {"run"}, {"status"}, {"types"}, {"tail", "--since", line}, {"replay", "--since", line, "--until", line}, {line}} {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				cmd := exec.CommandContext(ctx, relayBinary, append([]string{"--config", r.Config}, args...)...)
				cmd.Env = append(os.Environ(), "WORKOS_API_KEY="+apiKey)
				cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
				cmd.Dir = r.Dir + ".."
				require.NoError(t, os.MkdirAll(cmd.Dir, 0o700))
				out, _ := cmd.CombinedOutput()
				cancel()
				requirePrintable(t, strings.Join(args, " "), string(out), longestLine)
				require.NotContains(t, string(out), "goroutine ")
			}
		})
	}
}
