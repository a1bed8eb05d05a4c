package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
)

const webhookSecret = "whsec_bench"

// liveRate is how many events/s happen at the tip, on average, each by itself.
const liveRate = 20

// happen lets events happen until ctx ends, and tells hook of each once the API shows it.
func happen(ctx context.Context, api *sourcetest.Server, rate float64, hook string) {
	var told sync.WaitGroup
	defer told.Wait()
	for n := uint64(1); ; n++ {
		select {
		case <-time.After(time.Duration(rand.ExpFloat64() / rate * float64(time.Second))):
		case <-ctx.Done():
			return
		}
		if err := api.Live(ctx, sourcetest.LiveConfig{Rate: 1e6, Seed: n, Max: 1}); err != nil {
			panic(err) // the generator of events is at fault
		}
		if hook != "" {
			told.Go(func() { tell(ctx, hook) })
		}
	}
}

// tell sends a signed webhook. While relay does not listen yet it is lost, as it would be at
// WorkOS.
func tell(ctx context.Context, hook string) {
	body := []byte(`{"event":"user.updated"}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook, bytes.NewReader(body))
	if err != nil {
		panic(err) // the address is at fault
	}
	req.Header.Set("WorkOS-Signature", sourcetest.SignWebhook(webhookSecret, time.Now(), body))
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}

// tipRow is one row of the part tip.
type tipRow struct {
	name     string
	delivery string
	webhook  bool
	kafka    bool
}

// waitAtTip measures how long an event takes from when it happens until a consumer of the bus has
// it.
func waitAtTip(ctx context.Context, l *lab) error {
	samples := 500
	rows := []tipRow{
		{"JetStream, at_least_once, polled", atLeastOnce, false, false},
		{"JetStream, at_least_once, webhook", atLeastOnce, true, false},
		{"JetStream, exactly_once, webhook", exactlyOnce, true, false},
		{"kfake, at_least_once, webhook", atLeastOnce, true, true},
		{"kfake, exactly_once, webhook", exactlyOnce, true, true},
	}
	if l.quick {
		samples, rows = 50, rows[:3]
	}
	t := l.report.table("End to end at the tip",
		fmt.Sprintf("From created_at of an event, when the Events API shows it, until a consumer has it: %d events a second on average, API latency 0, the defaults of poll_interval and poll_fastest, %d events. "+
			"The consumer of JetStream reads the stream, that of Kafka what is committed.", liveRate, samples),
		"", "p50", "p99", "most")
	for _, row := range rows {
		took, err := l.tip(ctx, row, samples)
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		slices.Sort(took)
		p50, p99, most := took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
		progress("%-45s p50 %s p99 %s", row.name, span(p50), span(p99))
		t.row(row.name, span(p50), span(p99), span(most))
	}
	return nil
}

func (l *lab) tip(ctx context.Context, row tipRow, samples int) (took []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute+time.Duration(samples)*3*time.Second/liveRate)
	defer cancel()
	var b bus
	if row.kafka {
		b, err = newKfake(ctx, row.delivery)
	} else {
		b, err = l.newJetStream(ctx, row.delivery, false)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		_, closeErr := b.close()
		err = errors.Join(err, closeErr)
	}()
	port, err := testaddr.Find(ctx)
	if err != nil {
		return nil, err
	}
	address := testaddr.On(port)
	source, hook := "", ""
	if row.webhook {
		source = fmt.Sprintf(", webhook: {listen: %q, secret: %s}", address, webhookSecret)
		hook = "http://" + address + "/workos/webhook"
	}
	var api string
	server, err := startRole(ctx, &api, "api", "-events", "100", "-live", fmt.Sprint(liveRate), "-webhook", hook)
	if err != nil {
		return nil, err
	}
	defer func() {
		_, stopErr := server.stop()
		err = errors.Join(err, stopErr)
	}()
	r, err := l.newRelay(ctx, relayConfig{id: b.id(), api: api, sink: b.sink(), source: source})
	if err != nil {
		return nil, err
	}
	defer func() {
		_, stopErr := r.stop()
		err = errors.Join(err, stopErr)
	}()
	if _, err := r.ready(ctx); err != nil {
		return nil, err
	}
	consume := consumeNATS
	if row.kafka {
		consume = consumeKafka
	}
	const warmUp = 20 // the consumer's own start
	seen := 0
	err = consume(ctx, b, func(createdAt string) bool {
		now := time.Now()
		at, parseErr := time.Parse(time.RFC3339, createdAt)
		if parseErr != nil || at.Before(r.started) { // a position, or one that was there before
			return true
		}
		if seen++; seen > warmUp {
			took = append(took, now.Sub(at))
		}
		return len(took) < samples
	})
	return took, err
}

// createdAtHeader is when the event of a message happened.
const createdAtHeader = "event-created-at"

// consumeNATS gives the header of each message that comes from now on to each, until that returns
// false.
func consumeNATS(ctx context.Context, b bus, each func(createdAt string) bool) error {
	stream, err := b.(*jetStream).js.Stream(ctx, natsStream)
	if err != nil {
		return err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		m, err := messages.Next()
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		if !each(m.Headers().Get(createdAtHeader)) {
			return nil
		}
	}
}

// consumeKafka is consumeNATS for what is committed to Kafka.
func consumeKafka(ctx context.Context, b bus, each func(createdAt string) bool) error {
	k := b.(*kafkaCluster)
	topics, err := k.topics(ctx)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(k.brokers...), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		enough := false
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if strings.EqualFold(h.Key, createdAtHeader) {
					enough = enough || !each(string(h.Value))
				}
			}
		})
		if enough {
			return nil
		}
	}
}
