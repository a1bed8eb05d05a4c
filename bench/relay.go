package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/testaddr"
)

// relayProcess is `relay run` in its own process.
type relayProcess struct {
	*process
	admin string // its address
}

// relayConfig is what relay is told apart from its defaults.
type relayConfig struct {
	id     string
	api    string
	source string // more keys of `source`, each with a comma before it
	sink   string
}

// newRelay starts relay with its own directory. The limit of requests is WorkOS's and not the
// machine's, unless source says otherwise.
func (l *lab) newRelay(ctx context.Context, c relayConfig) (*relayProcess, error) {
	dir, err := os.MkdirTemp(l.dir, "relay-")
	if err != nil {
		return nil, err
	}
	return l.newRelayIn(ctx, dir, c)
}

func (l *lab) newRelayIn(ctx context.Context, dir string, c relayConfig) (*relayProcess, error) {
	port, err := testaddr.Find(ctx)
	if err != nil {
		return nil, err
	}
	address := testaddr.On(port)
	if c.source == "" {
		c.source = ", rate_limit: 10000"
	}
	config := fmt.Sprintf("id: %s\nsource: {endpoint: %q, api_key: %s%s}\nsinks: [%s]\ncheckpoint: {dir: %q}\nadmin: {listen: %q}\n",
		c.id, c.api, apiKey, c.source, c.sink, dir, address)
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p, err := startRelay(ctx, l.relay, file, l.relayEnv)
	if err != nil {
		return nil, err
	}
	return &relayProcess{process: p, admin: "http://" + address}, nil
}

// get returns what the admin address answers. While relay does not listen yet there is an error.
func (r *relayProcess) get(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.admin+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// committed is how many events relay says it has committed; 0 while it does not listen yet.
func (r *relayProcess) committed(ctx context.Context) (int, error) {
	_, body, err := r.get(ctx, "/api/v1/status")
	if err != nil {
		return 0, r.alive(ctx)
	}
	var s admin.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return 0, fmt.Errorf("the status of relay is %q: %w", body, err)
	}
	if len(s.Lanes) == 0 {
		return 0, fmt.Errorf("the status of relay has no lane: %q", body)
	}
	return int(s.Lanes[0].Events), nil //nolint:gosec // as many as the bench has made
}

// allocations is how many objects relay has allocated so far; 0 if it does not tell.
func (r *relayProcess) allocations(ctx context.Context) uint64 {
	_, body, err := r.get(ctx, "/metrics")
	if err != nil {
		return 0
	}
	const name = "\ngo_memstats_mallocs_total "
	_, rest, _ := bytes.Cut(body, []byte(name))
	value, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.ParseFloat(string(value), 64)
	return uint64(n)
}

// ready waits until /readyz says so and returns how long that took from the start of the process.
func (r *relayProcess) ready(ctx context.Context) (time.Duration, error) {
	const look = time.Millisecond
	for {
		status, _, err := r.get(ctx, "/readyz")
		if err == nil && status == http.StatusOK {
			return time.Since(r.started), nil
		}
		if err := r.alive(ctx); err != nil {
			return 0, err
		}
		time.Sleep(look)
	}
}

// alive returns an error once relay has ended, or ctx.
func (r *relayProcess) alive(ctx context.Context) error {
	select {
	case <-r.exited:
		return errors.Join(errors.New("relay has ended"), r.err)
	default:
		return ctx.Err()
	}
}
