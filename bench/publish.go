package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/checkpoint"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// Publishing alone: the same pages into the same broker, by relay's sink and by others.

// published is what a publisher has done.
type published struct {
	Events int
	Took   time.Duration
	CPU    time.Duration
}

func publishToKafka(ctx context.Context, l *lab) error {
	if err := l.publishAll(ctx, "kfake", newKfake); err != nil || len(l.brokers) == 0 {
		return err
	}
	return l.publishAll(ctx, "Apache Kafka", l.realKafka)
}

// publishAll lets each publisher publish the same pages to a broker, one page after another, each
// acknowledged before the next.
func (l *lab) publishAll(ctx context.Context, broker string, open func(context.Context, string) (*kafkaCluster, error)) error {
	var variants [][2]string // publisher and codec
	for _, codec := range []string{"none", "lz4"} {
		for _, with := range []string{"relay", "writer", "franz"} {
			variants = append(variants, [2]string{with, codec})
		}
	}
	names := map[string]string{"relay": "relay's sink", "writer": "kafka.Writer", "franz": "franz-go, ProduceSync"}
	for _, page := range []int{100, 999} {
		results := make([][]published, len(variants))
		for range l.runs {
			for i, v := range variants {
				p, err := l.publishOnce(ctx, open, v[0], v[1], page)
				if err != nil {
					return fmt.Errorf("%s with %s: %w", names[v[0]], v[1], err)
				}
				progress("%-30s %-5s pages of %-4d %8.0f events/s", names[v[0]], v[1], page, p.rate())
				results[i] = append(results[i], p)
			}
		}
		t := l.report.table(fmt.Sprintf("Publishing pages of %d events to %s, %d events", page, broker, l.events/4),
			"No Events API: the same pages from memory, each acknowledged by all in-sync replicas before the next. kafka.Writer with BatchSize of a page, "+
				"BatchTimeout 1 ms and RequireAll; franz-go with its defaults (idempotent, acks all) and no linger.",
			"", "compression", "events/s", "CPU µs/event")
		for i, v := range variants {
			t.row(names[v[0]], v[1], thousands(middle(results[i], published.rate)), micros(middle(results[i], published.cpuPerEvent)))
		}
	}
	return nil
}

func (p published) rate() float64 { return float64(p.Events) / p.Took.Seconds() }

func (p published) cpuPerEvent() time.Duration { return p.CPU / time.Duration(p.Events) }

func (l *lab) publishOnce(ctx context.Context, open func(context.Context, string) (*kafkaCluster, error), with, codec string, page int) (p published, err error) {
	b, err := open(ctx, atLeastOnce)
	if err != nil {
		return p, err
	}
	defer func() {
		_, closeErr := b.close()
		err = errors.Join(err, closeErr)
	}()
	child, err := startRole(ctx, &p, "publish", "-with", with, "-codec", codec, "-page", strconv.Itoa(page),
		"-events", strconv.Itoa(l.events/4), "-prefix", b.prefix, "-brokers", strings.Join(b.brokers, ","))
	if err != nil {
		return p, err
	}
	_, err = child.stop()
	return p, err
}

type publisher func(ctx context.Context, page []sink.Message) error

// playPublish publishes pages until enough events are published.
func playPublish(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("publish", flag.ContinueOnError)
	with := flags.String("with", "", "")
	codec := flags.String("codec", "", "")
	size := flags.Int("page", 0, "")
	events := flags.Int("events", 0, "")
	prefix := flags.String("prefix", "", "")
	brokers := flags.String("brokers", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	messages, topics, err := routed(ctx, *prefix)
	if err != nil {
		return err
	}
	// relay's sink makes the topics for all of them.
	s, err := kafka.New(kafka.Config{
		Brokers: split(*brokers), TopicPrefix: *prefix, Compression: *codec, ClientID: "bench", RequestTimeout: 10 * time.Second,
		TransactionTimeout: 15 * time.Second, Create: kafka.Create{Enabled: true, Partitions: 6, ReplicationFactor: 1},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Prepare(ctx, topics); err != nil {
		return err
	}
	publish := s.Publish
	switch *with {
	case "writer":
		w := newWriter(split(*brokers), *codec, *size)
		defer func() { err = errors.Join(err, w.Close()) }()
		publish = writeWith(w)
	case "franz":
		c, err := newFranz(split(*brokers), *codec)
		if err != nil {
			return err
		}
		defer c.Close()
		publish = produceWith(c)
	}
	if err := publish(ctx, messages[:*size]); err != nil { // connections, metadata, producer id
		return err
	}
	done, err := publishFor(ctx, publish, messages, *size, *events)
	if err != nil {
		return err
	}
	return announce(done)
}

// routed is events with their messages as relay makes them for Kafka, and every topic.
func routed(ctx context.Context, prefix string) (messages []sink.Message, topics []string, err error) {
	const events = 20_000
	api := sourcetest.New(sourcetest.WithPopulation(population(events)), sourcetest.WithLedger(0))
	types, err := source.Expand([]string{"*"})
	if err != nil {
		return nil, nil, err
	}
	r, err := router.New(router.Config{Relay: "bench", Prefix: prefix, Binding: router.Kafka})
	if err != nil {
		return nil, nil, err
	}
	stream := &source.Stream{Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: api.URL(), HTTPClient: api.Client()}, Events: types}
	for page, err := range stream.Pages(ctx, checkpoint.Position{}) {
		if err != nil {
			return nil, nil, err
		}
		for i := range page.Events {
			if messages, err = r.Append(messages, &page.Events[i]); err != nil {
				return nil, nil, err
			}
		}
		if page.Tip || len(messages) >= events {
			break
		}
	}
	return messages, r.Topics(types), nil
}

// publishFor publishes page after page of messages, from the start again at their end.
func publishFor(ctx context.Context, publish publisher, messages []sink.Message, size, events int) (published, error) {
	var done published
	cpu, start := cpuTime(), time.Now()
	for at := 0; done.Events < events; at += size {
		if at+size > len(messages) {
			at = 0
		}
		if err := publish(ctx, messages[at:at+size]); err != nil {
			return done, err
		}
		done.Events += size
	}
	done.Took, done.CPU = time.Since(start), cpuTime()-cpu
	return done, nil
}

func newWriter(brokers []string, codec string, page int) *kafkago.Writer {
	codecs := map[string]kafkago.Compression{"lz4": kafkago.Lz4}
	return &kafkago.Writer{
		Addr: kafkago.TCP(brokers...), Balancer: &kafkago.Murmur2Balancer{}, RequiredAcks: kafkago.RequireAll,
		BatchSize: page, BatchTimeout: time.Millisecond, Compression: codecs[codec], Transport: &kafkago.Transport{},
	}
}

func writeWith(w *kafkago.Writer) publisher {
	return func(ctx context.Context, page []sink.Message) error {
		out := make([]kafkago.Message, len(page))
		for i, m := range page {
			headers := make([]kafkago.Header, len(m.Headers))
			for k, h := range m.Headers {
				headers[k] = kafkago.Header{Key: h.Key, Value: []byte(h.Value)}
			}
			out[i] = kafkago.Message{Topic: m.Topic, Key: m.Key, Value: m.Body, Headers: headers}
		}
		return w.WriteMessages(ctx, out...)
	}
}

func newFranz(brokers []string, codec string) (*kgo.Client, error) {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "lz4": kgo.Lz4Compression()}
	return kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ProducerBatchCompression(codecs[codec]), kgo.ProducerLinger(0))
}

func produceWith(c *kgo.Client) publisher {
	return func(ctx context.Context, page []sink.Message) error {
		out := make([]*kgo.Record, len(page))
		for i := range page {
			out[i] = kafkaRecord(&page[i])
		}
		return c.ProduceSync(ctx, out...).FirstErr()
	}
}
