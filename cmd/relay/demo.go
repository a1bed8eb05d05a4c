package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/listener"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

const demoKey = "sk_demo"

type demoCmd struct {
	Rate    float64       `help:"Average number of events per second that the built-in Events API makes." default:"20"`
	Backlog int           `help:"Number of events that exist before relay starts." default:"20000"`
	Listen  string        `help:"Address of the embedded NATS server. One that other machines reach gets a token, which is shown." default:"127.0.0.1:4222"`
	Admin   string        `help:"Address of the status page, /healthz, /readyz and /metrics; another port is used if this one is taken, and none if it is empty." default:"127.0.0.1:8080"`
	For     time.Duration `help:"Stop after this long. Default: when interrupted."`

	token string // of the embedded NATS server; empty if only this machine reaches it
}

// Run carries generated events into an embedded NATS server in a temporary directory, and shows
// what flows.
func (c *demoCmd) Run(ctx context.Context, env *environment) (err error) {
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

	api := sourcetest.New(sourcetest.WithAPIKey(demoKey), sourcetest.WithLedger(0), sourcetest.WithPopulation(sourcetest.Population{Events: c.Backlog, Seed: 1}))
	if err := api.Start(""); err != nil { //nolint:contextcheck // Close ends it
		return fmt.Errorf("starting the built-in Events API: %w", err)
	}
	defer func() { err = errors.Join(err, api.Close()) }()

	if c.Admin, err = freeOr(ctx, c.Admin); err != nil {
		return app.Usage(fmt.Errorf("--admin: %w", err))
	}
	cfg, err := c.config(env.format, api.URL(), dir)
	if err != nil {
		return err
	}
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
		Started: func(r *app.Relay) func() { return c.show(ctx, env.stdout, api, r, counts) },
	})
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

// config returns the configuration of the demo. It does not wait for the disk, since nothing has to
// survive a power failure.
func (c *demoCmd) config(format *config.Format, endpoint, dir string) (*config.Config, error) {
	credentials := ""
	if _, _, err := net.SplitHostPort(c.Listen); err == nil && !listener.IsLoopback(c.Listen) {
		c.token = rand.Text()
		credentials = ", token: " + c.token
	}
	text := fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 250ms}
sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q, sync_always: false%s}}]
checkpoint: {dir: %q}
admin: {listen: %q, show_payloads: true}
`, endpoint, demoKey, c.Listen, credentials, dir, c.Admin)
	cfg, err := format.Parse("demo", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		return nil, app.Usage(fmt.Errorf("--listen or --admin: %w", err))
	}
	return cfg, nil
}

// show starts generating events and displaying what flows. The function that it returns stops both.
func (c *demoCmd) show(ctx context.Context, out io.Writer, api *sourcetest.Server, r *app.Relay, counts *flow) func() {
	c.introduce(out, api.URL(), r.EmbeddedURL())

	ctx, cancel := context.WithCancel(ctx)
	made, shown := make(chan error, 1), make(chan struct{})
	go func() {
		made <- api.Live(ctx, sourcetest.LiveConfig{Rate: c.Rate, Seed: uint64(time.Now().UnixNano())})
	}() //nolint:gosec // variety
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

func (c *demoCmd) introduce(out io.Writer, apiURL, natsURL string) {
	tail := "\n  go run ./cmd/relay tail --from-sink --events 'dsync.user.*'"
	if c.Listen != "127.0.0.1:4222" {
		tail = "\n  go run ./cmd/relay tail --from-sink --server " + natsURL + " --events 'dsync.user.*'"
	}
	if c.token != "" { // relay tail takes a token from a configuration only
		tail = ""
		natsURL = strings.Replace(natsURL, "//", "//"+c.token+"@", 1)
	}
	page := ""
	if c.Admin != "" {
		page = "\n  Status page  http://" + c.Admin + "/   (also /readyz and /metrics)"
	}
	fmt.Fprintf(out, `relay demo: made-up events from a built-in Events API flow into an embedded NATS JetStream server.
Nothing leaves this machine, and nothing stays on it. Stop with Ctrl-C.

  Events API   %s/events   (key %s)
  NATS         %s   (stream WORKOS, subjects like dsync.user.created)%s

Watch one topic from another terminal, with relay itself or with the NATS CLI:
%s
  nats --server %s subscribe --stream WORKOS --new 'dsync.user.>'

`, apiURL, demoKey, natsURL, page, tail, natsURL)
}
