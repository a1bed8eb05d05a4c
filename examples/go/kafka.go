package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consumeKafka reads committed messages only and commits their offsets after they have been
// handled.
func consumeKafka(ctx context.Context, l *resultLog) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(env("KAFKA_BROKERS", "127.0.0.1:9092"), ",")...),
		kgo.ConsumerGroup(env("CONSUMER", "example-go")), // the position is kept on the cluster under this name
		kgo.ConsumeTopics(env("TOPIC", "dsync.user.created")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // relay's exactly_once is a transaction: without this its aborted attempts come, too
		kgo.DisableAutoCommit(),                      // a timer would commit what has not been handled yet
		kgo.BlockRebalanceOnPoll(),                   // partitions change hands between two batches only
		kgo.SessionTimeout(10*time.Second),           // for so long a consumer that died keeps its partitions
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance() // leaves the group, so that others take the partitions over at once
	for {
		fetches := client.PollRecords(ctx, 100)
		if ctx.Err() != nil { // stopped
			return nil
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Printf("waiting: topic %s, partition %d: %v", topic, partition, err)
		})
		records := fetches.Records()
		for _, r := range records {
			// After an error nothing more is committed, and the process, started again, goes on
			// from the last commit.
			if err := l.handle(header(r, "event-id"), r.Value); err != nil {
				return fmt.Errorf("topic %s, partition %d, offset %d: %w", r.Topic, r.Partition, r.Offset, err)
			}
		}
		if err := client.CommitRecords(context.WithoutCancel(ctx), records...); err != nil { // they come again, and are known by their ids
			log.Printf("not committed: %v", err)
		}
		client.AllowRebalance()
	}
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}
