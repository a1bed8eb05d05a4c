package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"workos-relay/internal/app"
	"workos-relay/internal/listener"
	"workos-relay/internal/retry"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

const (
	demoKey = "sk_demo"
	// demoEntities are the objects of the built-in API that --state keeps.
	demoEntities = "organization, user, organization_membership, connection, directory, directory_user, directory_group, directory_group_membership"
)

type demoCmd struct {
	Rate      float64       `help:"Average number of events per second that the built-in Events API makes." default:"20"`
	Backlog   int           `help:"Number of events that exist before relay starts. With --state at most 1000." default:"20000"`
	Listen    string        `help:"Address of the embedded NATS server; another port is used if this one is taken. One that other machines reach gets a token, which is shown." default:"127.0.0.1:4222"`
	Admin     string        `help:"Address of the status page, /healthz, /readyz and /metrics; another port is used if this one is taken, and none if it is empty." default:"127.0.0.1:8080"`
	API       string        `name:"api" help:"Address of the built-in Events API, so that other programs can use it. Default: a free port of this machine." placeholder:"ADDR"`
	Sink      string        `help:"A bus to use instead of the embedded NATS server: nats://HOST:PORT or kafka://HOST:PORT. The demo uses a new stream or topic prefix there, and leaves it." placeholder:"URL"`
	ConfigOut string        `help:"Write the configuration of the demo to a new file, for check, verify, replay, status and tail in another terminal. Default: a file in the directory of the demo." placeholder:"FILE"`
	State     bool          `help:"Let the built-in API have organizations, users, directories and groups too, and keep their current state on the bus: for snapshot, list, get and verify --state."`
	For       time.Duration `help:"Stop after this long. Default: when interrupted."`

	token string // of the embedded NATS server; empty if only this machine reaches it
	owned string // what the demo leaves on a bus of --sink; empty for the embedded server
}

// Run carries generated events into an embedded NATS server in a temporary directory, or onto the
// bus of --sink, and shows what flows.
func (c *demoCmd) Run(ctx context.Context, env *environment) (err error) {
	ctx, stop := env.whileRead(ctx)
	defer stop()
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	if !(c.Rate > 0) || c.Backlog < 0 {
		return app.Usage(errors.New("--rate must be positive and --backlog not negative"))
	}
	dir, err := os.MkdirTemp("", "relay-demo-")
	if err != nil {
		return fmt.Errorf("creating a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	api := c.newAPI()
	if err := api.Start(c.API); err != nil { //nolint:contextcheck // Close ends it
		return app.Usage(fmt.Errorf("--api: starting the built-in Events API: %w; write host:port, with a port that is free", err))
	}
	defer func() { err = errors.Join(err, api.Close()) }()

	if c.Admin, err = freeOr(ctx, c.Admin); err != nil {
		return app.Usage(fmt.Errorf("--admin: %w", err))
	}
	if c.Sink == "" {
		if c.Listen, err = freeOr(ctx, c.Listen); err != nil {
			return app.Usage(fmt.Errorf("--listen: %w", err))
		}
	}
	text, err := c.text(api.URL(), dir)
	if err != nil {
		return app.Usage(err)
	}
	cfg, err := env.format.Parse("demo", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		return app.Usage(fmt.Errorf("--listen, --admin or --sink: %w", err))
	}
	file := c.ConfigOut
	if file == "" {
		file = filepath.Join(dir, "config.yaml")
	}
	if err := writeOut(file, text); err != nil {
		return app.Usage(fmt.Errorf("--config-out: %w", err))
	}
	defer removeIf(file, text)
	format := "console" // on a pipe, too: what the demo prints is for people
	if env.logging.chosen.Format == "json" {
		format = "json"
	}
	log, err := env.newLoggerAs(env.stderr, format, env.logging.level)
	if err != nil {
		return err
	}
	counts := newFlow()
	return app.Serve(ctx, cfg, log, app.Options{
		Observe: counts.observe,
		Started: func(r *app.Relay) func() { return c.show(ctx, env.stdout, api, r, counts, file) },
	})
}

// newAPI returns the Events API of the demo with its backlog. With --state it has objects, and the
// events tell of their changes.
func (c *demoCmd) newAPI() *sourcetest.Server {
	opts := []sourcetest.Option{sourcetest.WithAPIKey(demoKey), sourcetest.WithLedger(0)}
	if !c.State {
		return sourcetest.New(append(opts, sourcetest.WithPopulation(sourcetest.Population{Events: c.Backlog, Seed: 1}))...)
	}
	api := sourcetest.New(append(opts, sourcetest.WithWorld(sourcetest.WorldConfig{
		Seed: 1, Organizations: 12, Users: 300, Connections: 8, Directories: 8, DirectoryUsers: 800, Groups: 5, GroupMembers: 12,
	}))...)
	for range min(c.Backlog, 1000) { // each may make an organization or a directory with lists to read
		api.World().ChangeTold()
	}
	return api
}

// live lets events happen until ctx ends.
func (c *demoCmd) live(ctx context.Context, api *sourcetest.Server) error {
	if !c.State {
		return api.Live(ctx, sourcetest.LiveConfig{Rate: c.Rate, Seed: uint64(time.Now().UnixNano())}) //nolint:gosec // variety
	}
	gap := max(time.Duration(float64(time.Second)/c.Rate), time.Millisecond)
	for retry.Sleep(ctx, gap) == nil {
		api.World().ChangeTold()
	}
	return nil
}

// freeOr returns addr. If addr is in use, it returns the same host with a free port.
func freeOr(ctx context.Context, addr string) (string, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, nil //nolint:nilerr // what is wrong with it is told where the configuration is checked
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		l, err = lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return "", fmt.Errorf("cannot listen on %q: %w", addr, err)
	}
	return l.Addr().String(), l.Close()
}

// writeOut writes a file that does not exist yet and that only its owner can read: the
// configuration may hold a token.
func writeOut(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the operator names it
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s exists already, and the demo overwrites nothing: name another file", path)
	case errors.As(err, &at):
		return fmt.Errorf("cannot create %s: %w; name a file in a directory that you may write to", path, at.Err)
	case err != nil:
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// removeIf removes a file that still holds text: a configuration of a demo that is over leads
// nowhere.
func removeIf(path, text string) {
	if now, err := os.ReadFile(path); err == nil && string(now) == text { //nolint:gosec // the demo wrote it
		_ = os.Remove(path)
	}
}

// text returns the configuration of the demo. The embedded server does not wait for the disk, since
// nothing has to survive a power failure. On a bus of --sink every name is new, so that no other
// relay and no earlier demo is met.
func (c *demoCmd) text(endpoint, dir string) (string, error) {
	id := "demo"
	var entry, state string
	if c.State {
		state = ", state: {entities: [" + demoEntities + "], snapshot: first_start}"
	}
	switch scheme, rest, _ := strings.Cut(c.Sink, "://"); {
	case c.Sink == "":
		credentials := ""
		if _, _, err := net.SplitHostPort(c.Listen); err == nil && !listener.IsLoopback(c.Listen) {
			c.token = rand.Text()
			credentials = ", token: " + c.token
		}
		entry = fmt.Sprintf("{name: nats, type: nats, url: embedded, embedded: {listen: %q, sync_always: false%s}%s}", c.Listen, credentials, state)
	case scheme == "kafka":
		id = "demo-" + strings.ToLower(rand.Text()[:8])
		c.owned = "topics " + id + ".* and relay.position." + id + ".kafka"
		entry = fmt.Sprintf("{name: kafka, type: kafka, brokers: [%s], topic_prefix: %s.%s}", quotedList(rest), id, state)
	case scheme == "nats", scheme == "tls", scheme == "ws", scheme == "wss":
		id = "demo-" + strings.ToLower(rand.Text()[:8])
		c.owned = "stream " + id
		if c.State {
			c.owned += " and buckets " + id + "_STATE_*"
		}
		entry = fmt.Sprintf("{name: nats, type: nats, url: %q, stream: %s, topic_prefix: %s.%s}", c.Sink, id, id, state)
	default:
		return "", errors.New("--sink: the address begins with none of nats://, tls:// and kafka://; write for example nats://127.0.0.1:4222 or kafka://127.0.0.1:9092")
	}
	return fmt.Sprintf(`# The configuration of a relay demo. It works as long as the demo runs.
id: %s
source: {endpoint: %q, api_key: %s, poll_interval: 250ms}
sinks: [%s]
checkpoint: {dir: %q}
admin: {listen: %q, show_payloads: true}
`, id, endpoint, demoKey, entry, dir, c.Admin), nil
}

// quotedList writes words that commas separate as the elements of a YAML list.
func quotedList(words string) string {
	list := strings.Split(strings.TrimSuffix(words, "/"), ",")
	for i, w := range list {
		list[i] = strconv.Quote(strings.TrimSpace(w))
	}
	return strings.Join(list, ", ")
}

// show starts generating events and displaying what flows. The function that it returns stops both.
func (c *demoCmd) show(ctx context.Context, out io.Writer, api *sourcetest.Server, r *app.Relay, counts *flow, file string) func() {
	c.introduce(out, api.URL(), r.EmbeddedURL(), file)

	ctx, cancel := context.WithCancel(ctx)
	made, shown := make(chan error, 1), make(chan struct{})
	go func() { made <- c.live(ctx, api) }()
	go func() {
		defer close(shown)
		counts.display(ctx, out, isTerminal(out), func() pipeline.Status { return r.Status()[0] })
	}()
	return func() {
		cancel()
		if err := <-made; err != nil {
			fmt.Fprintf(out, "the built-in Events API stopped: %v\n", err)
		}
		<-shown
	}
}

func (c *demoCmd) introduce(out io.Writer, apiURL, natsURL, file string) {
	bus, into, stays := "NATS         "+natsURL+"   (stream WORKOS, subjects like dsync.user.created)", "an embedded NATS JetStream server", "nothing stays on it"
	watch := ""
	if c.token != "" {
		natsURL = strings.Replace(natsURL, "//", "//"+c.token+"@", 1)
		bus = "NATS         " + natsURL + "   (stream WORKOS, subjects like dsync.user.created)"
	}
	if c.Sink == "" {
		watch = "\n  nats --server " + natsURL + " subscribe --stream WORKOS --new 'dsync.user.>'"
	} else {
		bus, into, stays = "Bus          "+c.Sink+"   ("+c.owned+")", "a bus of yours", "on the bus stays: "+c.owned
	}
	page := ""
	if c.Admin != "" {
		page = "\n  Status page  http://" + c.Admin + "/   (also /readyz and /metrics)"
	}
	relay := programName(os.Args[0])
	var commands strings.Builder
	lines := []string{"tail --from-sink --events 'dsync.user.*'", "status --watch", "pause", "resume", "verify --since earliest --until latest"}
	if c.State {
		lines = []string{"tail --from-sink --events 'state.*'", "status --watch", "list organization", "snapshot", "verify --state"}
	}
	for _, line := range lines {
		if c.Admin == "" && slices.Contains([]string{"status --watch", "pause", "resume", "snapshot"}, line) {
			continue // it asks the admin address
		}
		commands.WriteString("\n  " + relay + " " + line)
	}
	fmt.Fprintf(out, `relay demo: made-up events from a built-in Events API flow into %s.
No event comes from WorkOS, and %s. Stop with Ctrl-C.

  Events API   %s/events   (key %s)
  %s%s

Try it from another terminal, with relay itself or with the tools of the bus:

  export RELAY_CONFIG=%s%s%s

`, into, stays, apiURL, demoKey, bus, page, shellWord(file), commands.String(), watch)
}

// programName returns how to call this program again, for a hint: as it was typed, or by go run if
// go run has built it.
func programName(typed string) string {
	if strings.Contains(filepath.ToSlash(typed), "/go-build") {
		return "go run ./cmd/relay"
	}
	return shellWord(typed)
}

// shellWord quotes a word for a shell if it has to be quoted.
func shellWord(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
