package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// table holds the present objects of one entity. A service that must remember it between two starts
// keeps it in its database, together with the place that it has read up to.
type table map[string]json.RawMessage

// set takes note of the newest version of an object, or of its removal if there is none.
func (t table) set(key string, object []byte) {
	if len(object) == 0 {
		delete(t, key)
		fmt.Printf("removed\t%s\n", key)
		return
	}
	t[key] = object
	fmt.Printf("set\t%s\t%s\n", key, object)
}

// followNATS reads the bucket of an entity, and then each change of it. A watch begins with the
// newest version of every key.
func followNATS(ctx context.Context) error {
	nc, err := nats.Connect(env("NATS_URL", nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	name := "STATE_" + env("ENTITY", "directory_user")
	bucket, err := js.KeyValue(ctx, name)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", name, err)
	}
	watch, err := bucket.WatchAll(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = watch.Stop() }()
	objects := table{}
	for {
		select {
		case entry, ok := <-watch.Updates():
			switch {
			case !ok:
				return errors.New("the watch has ended")
			case entry == nil: // what there was has come; changes follow
				log.Printf("%d objects", len(objects))
			case entry.Operation() == jetstream.KeyValuePut:
				objects.set(entry.Key(), entry.Value())
			default:
				objects.set(entry.Key(), nil)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// followKafka reads the state topic of an entity from its beginning. It belongs to no group: every
// instance of a service needs the whole table.
func followKafka(ctx context.Context) error {
	topic := env("PREFIX", "") + "state." + env("ENTITY", "directory_user")
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(env("KAFKA_BROKERS", "127.0.0.1:9092"), ",")...),
		kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // without this it would also see transactions that relay aborts
		kgo.KeepControlRecords(),                     // the last offset is often the mark of a transaction
	)
	if err != nil {
		return err
	}
	defer client.Close()
	left, err := unread(ctx, kadm.NewClient(client), topic)
	if err != nil {
		return fmt.Errorf("topic %s: %w", topic, err)
	}
	objects := table{}
	if len(left) == 0 {
		log.Print("0 objects")
	}
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			log.Printf("waiting: topic %s, partition %d: %v", topic, partition, err)
		})
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				objects.set(string(r.Key), r.Value)
			}
			if end, reading := left[r.Partition]; reading && r.Offset+1 >= end {
				if delete(left, r.Partition); len(left) == 0 {
					log.Printf("%d objects", len(objects))
				}
			}
		})
	}
}

// unread returns the end of each partition that holds anything. Kafka never compacts the last
// record of a partition away, so a reader comes to see it, or the mark of a transaction in its
// place.
func unread(ctx context.Context, admin *kadm.Client, topic string) (map[int32]int64, error) {
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	ends, err := admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(starts.Error(), ends.Error()); err != nil {
		return nil, err
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if start, _ := starts.Lookup(topic, o.Partition); o.Offset > start.Offset {
			left[o.Partition] = o.Offset
		}
	})
	return left, nil
}
