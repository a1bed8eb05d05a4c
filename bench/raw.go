package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/sink"
)

// The raw publishers are the ceiling of a bus: the messages that relay would send, from memory, in
// the bus's fastest durable way. They fetch, decode and route nothing, and keep no position.

const (
	rawAtomicBatch  = 1000 // messages, the most that JetStream takes in one
	rawAsyncPending = 4000 // messages without an acknowledgement
	rawTransaction  = 3000 // records
)

// onlyWithoutLatency is for what asks nothing of the Events API.
func onlyWithoutLatency(events int, latency time.Duration) int {
	if latency > 0 {
		return 0
	}
	return events
}

// raw publishes into a bus of the given delivery: atomic batches or transactions one after another
// for exactly_once, as fast as they are acknowledged for at_least_once.
func (l *lab) raw(name, delivery string, open func(context.Context, string) (bus, error)) rival {
	return rival{name: name, share: onlyWithoutLatency, run: func(ctx context.Context, _ string, events int) (c carried, err error) {
		b, err := open(ctx, delivery)
		if err != nil {
			return c, err
		}
		defer func() {
			var closeErr error
			c.bus, closeErr = b.close()
			err = errors.Join(err, closeErr)
		}()
		var done published
		p, err := startRole(ctx, &done, "raw", append([]string{"-delivery", delivery, "-events", strconv.Itoa(events)}, b.flags()...)...)
		if err != nil {
			return c, err
		}
		c.total = time.Since(p.started)
		if c.usage, err = p.stop(); err != nil {
			return c, err
		}
		c.cpu, c.rate = done.CPU, done.rate()
		if c.events, err = b.stored(ctx); err == nil && c.events != events {
			err = fmt.Errorf("%d events are stored, of %d that were acknowledged", c.events, events)
		}
		return c, err
	}}
}

// playRaw publishes as many messages as it is told.
func playRaw(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("raw", flag.ContinueOnError)
	delivery := flags.String("delivery", "", "")
	events := flags.Int("events", 0, "")
	server := flags.String("nats", "", "")
	stream := flags.String("stream", "", "")
	brokers := flags.String("kafka", "", "")
	prefix := flags.String("prefix", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	messages, topics, err := routed(ctx, *prefix)
	if err != nil {
		return err
	}
	next := func(i int) *sink.Message { return &messages[i%len(messages)] }
	var done published
	if *brokers != "" {
		done, err = rawIntoKafka(ctx, *brokers, *delivery, topics, *events, next)
	} else {
		done, err = rawIntoJetStream(ctx, *server, *stream, *delivery, topics, *events, next)
	}
	if err != nil {
		return err
	}
	return announce(done)
}

// measured is what publish costs, which publishes so many events.
func measured(events int, publish func() error) (published, error) {
	cpu, start := cpuTime(), time.Now()
	err := publish()
	return published{Events: events, Took: time.Since(start), CPU: cpuTime() - cpu}, err
}

func rawIntoJetStream(ctx context.Context, server, stream, delivery string, subjects []string, events int, next func(int) *sink.Message) (published, error) {
	nc, err := nats.Connect(server, nats.Timeout(answerTime))
	if err != nil {
		return published{}, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(answerTime), jetstream.WithPublishAsyncMaxPending(rawAsyncPending))
	if err != nil {
		return published{}, err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: stream, Subjects: subjects, AllowAtomicPublish: true}); err != nil {
		return published{}, fmt.Errorf("creating stream %s: %w", stream, err)
	}
	if delivery == exactlyOnce {
		return measured(events, func() error { return publishAtomicBatches(ctx, nc, events, next) })
	}
	return measured(events, func() error { return publishAsync(ctx, js, events, next) })
}

// natsMessage is m as relay sends it.
func natsMessage(m *sink.Message) *nats.Msg {
	out := &nats.Msg{Subject: m.Topic, Data: m.Body, Header: make(nats.Header, len(m.Headers)+3)}
	for _, h := range m.Headers {
		out.Header[h.Key] = []string{h.Value}
	}
	return out
}

// publishAtomicBatches commits one batch after another.
func publishAtomicBatches(ctx context.Context, nc *nats.Conn, events int, next func(int) *sink.Message) error {
	for sent := 0; sent < events; {
		id, size := "raw-"+strconv.Itoa(sent), min(rawAtomicBatch, events-sent)
		for n := 1; n <= size; n++ {
			m := natsMessage(next(sent))
			sent++
			m.Header["Nats-Batch-Id"], m.Header["Nats-Batch-Sequence"] = []string{id}, []string{strconv.Itoa(n)}
			if n < size {
				if err := nc.PublishMsg(m); err != nil {
					return err
				}
				continue
			}
			m.Header["Nats-Batch-Commit"] = []string{"1"}
			reply, err := nc.RequestMsgWithContext(ctx, m)
			if err != nil {
				return fmt.Errorf("committing a batch: %w", err)
			}
			if strings.Contains(string(reply.Data), `"error"`) {
				return fmt.Errorf("the server refused a batch: %s", reply.Data)
			}
		}
	}
	return nil
}

// publishAsync has many messages under way and waits for all acknowledgements at the end.
func publishAsync(ctx context.Context, js jetstream.JetStream, events int, next func(int) *sink.Message) error {
	for n := range events {
		if _, err := js.PublishMsgAsync(natsMessage(next(n)), jetstream.WithStallWait(answerTime)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func rawIntoKafka(ctx context.Context, brokers, delivery string, topics []string, events int, next func(int) *sink.Message) (published, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(2 * rawTransaction),
	}
	if delivery == exactlyOnce {
		opts = append(opts, kgo.TransactionalID(fmt.Sprintf("raw-%d", time.Now().UnixNano())))
	}
	c, err := kgo.NewClient(opts...)
	if err != nil {
		return published{}, err
	}
	defer c.Close()
	created, err := kadm.NewClient(c).CreateTopics(ctx, 6, 1, nil, topics...)
	if err = errors.Join(err, created.Error()); err != nil {
		return published{}, fmt.Errorf("creating topics: %w", err)
	}
	return measured(events, func() error {
		if delivery == exactlyOnce {
			return produceTransactions(ctx, c, events, next)
		}
		return produce(ctx, c, 0, events, next)
	})
}

// produceTransactions commits one transaction after another.
func produceTransactions(ctx context.Context, c *kgo.Client, events int, next func(int) *sink.Message) error {
	for sent := 0; sent < events; sent += rawTransaction {
		if err := c.BeginTransaction(); err != nil {
			return err
		}
		if err := produce(ctx, c, sent, min(rawTransaction, events-sent), next); err != nil {
			return err
		}
		if err := c.EndTransaction(ctx, kgo.TryCommit); err != nil {
			return err
		}
	}
	return nil
}

// produce sends the messages from the first one on, and waits until all are acknowledged.
func produce(ctx context.Context, c *kgo.Client, first, count int, next func(int) *sink.Message) error {
	failed := make(chan error, 1)
	for n := range count {
		c.Produce(ctx, kafkaRecord(next(first+n)), func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := c.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// kafkaRecord is m as relay sends it.
func kafkaRecord(m *sink.Message) *kgo.Record {
	headers := make([]kgo.RecordHeader, len(m.Headers))
	for i, h := range m.Headers {
		headers[i] = kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)}
	}
	return &kgo.Record{Topic: m.Topic, Key: m.Key, Value: m.Body, Headers: headers}
}
