package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

const apiKey = "sk_bench"

// population is the events that are carried: lifelike, about 0.9 kB each, the same in every run.
func population(events int) sourcetest.Population {
	return sourcetest.Population{Events: events, Seed: 1, InMemory: true}
}

// play plays a role: it prints one line of JSON when it is ready, or done, and ends with its
// standard input.
func play(ctx context.Context, role string, args []string) error {
	roles := map[string]func(context.Context, []string) error{
		"api": playAPI, "nats": playNATS, "kafka": playKafka, "fetch": playFetch, "publish": playPublish, "raw": playRaw,
	}
	f := roles[role]
	if f == nil {
		return fmt.Errorf("there is no role %q", role)
	}
	return f(ctx, args)
}

// announce prints what the parent waits for, and returns when the parent wants the end.
func announce(v any) error {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// playAPI is the Events API.
func playAPI(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("api", flag.ContinueOnError)
	events := flags.Int("events", 0, "")
	latency := flags.Duration("latency", 0, "")
	days := flags.Int("uneven-days", 0, "spread the events unevenly over so many days, and make them as they are asked for")
	live := flags.Float64("live", 0, "events/s that happen, on average")
	hook := flags.String("webhook", "", "tell of each that happens there")
	dirs := flags.Int("directories", 0, "directories that its lists have")
	users := flags.Int("directory-users", 0, "users of the directories, which are made as they are asked for")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p := population(*events)
	if *days > 0 {
		p.InMemory, p.Profile = false, sourcetest.UnevenProfile(*events, time.Duration(*days)*24*time.Hour, 1)
	}
	api := sourcetest.New(sourcetest.WithAPIKey(apiKey), sourcetest.WithPopulation(p),
		sourcetest.WithLatency(*latency, 0), sourcetest.WithRetention(0), sourcetest.WithLedger(0),
		sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 1, Organizations: min(*dirs, 10), Directories: *dirs, DirectoryUsers: *users}))
	if err := api.Start(""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, api.Close()) }()
	if *live > 0 {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		running.Go(func() { happen(ctx, api, *live, *hook) })
		defer func() { cancel(); running.Wait() }()
	}
	return announce(api.URL())
}

// playNATS is a NATS server that stores in files.
func playNATS(_ context.Context, args []string) error {
	flags := flag.NewFlagSet("nats", flag.ContinueOnError)
	dir := flags.String("dir", "", "")
	always := flags.Bool("sync-always", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: *dir, SyncAlways: *always, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return err
	}
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(answerTime) {
		return errors.New("the NATS server does not become ready")
	}
	return announce(srv.ClientURL())
}

// playKafka is kfake, which keeps everything in memory.
func playKafka(context.Context, []string) error {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		return err
	}
	defer c.Close()
	return announce(c.ListenAddrs())
}

// fetched is what the bare loop has done.
type fetched struct {
	Events int
	Took   time.Duration
}

// playFetch is the bare loop: it fetches page after page and throws them away.
func playFetch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fetch", flag.ContinueOnError)
	endpoint := flags.String("api", "", "")
	events := flags.Int("events", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	types, err := source.Expand([]string{"*"})
	if err != nil {
		return err
	}
	query := url.Values{"events": {strings.Join(types, ",")}, "limit": {"100"}, "order": {"asc"}}
	var page bytes.Buffer
	var done fetched
	start := time.Now()
	for done.Events < *events {
		page.Reset()
		if err := fetch(ctx, *endpoint+"/events?"+query.Encode(), &page); err != nil {
			return err
		}
		done.Events += min(100, *events-done.Events)
		query.Set("after", cursor(page.Bytes()))
	}
	done.Took = time.Since(start)
	return announce(done)
}

func fetch(ctx context.Context, address string, page *bytes.Buffer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := page.ReadFrom(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the Events API answers %s: %s", resp.Status, page)
	}
	return nil
}

// cursor finds the id to go on from at the end of a page, without decoding it; "" on the last page.
func cursor(page []byte) string {
	const name = `"after":"`
	at := bytes.LastIndex(page, []byte(name))
	if at < 0 {
		return ""
	}
	rest := page[at+len(name):]
	return string(rest[:max(0, bytes.IndexByte(rest, '"'))])
}
