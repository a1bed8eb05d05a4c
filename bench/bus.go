package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// bus is an empty bus, for one run.
type bus interface {
	// id is that of the relay; its position is kept under this name.
	id() string
	// sink is the entry under `sinks` of relay's configuration.
	sink() string
	// flags are those of the loop on Watermill.
	flags() []string
	// stored is how many events there are, as a consumer sees it.
	stored(ctx context.Context) (int, error)
	// countable reports whether stored may be asked while events come, and does not read all of
	// them.
	countable() bool
	// look is how often stored may be asked without getting in the way.
	look() time.Duration
	// close also tells what the bus's process has cost, where the bench started it.
	close() (usage, error)
}

// jetStream is a NATS server in a separate process.
type jetStream struct {
	url      string
	dir      string
	delivery string
	server   *process
	nc       *nats.Conn
	js       jetstream.JetStream
}

const (
	answerTime  = time.Minute // for a server that is busy with what is measured
	natsStream  = "WORKOS"
	atLeastOnce = "at_least_once"
	exactlyOnce = "exactly_once"
)

func (l *lab) newJetStream(ctx context.Context, delivery string, syncAlways bool) (bus, error) {
	b := &jetStream{dir: filepath.Join(l.dir, "nats"), delivery: delivery}
	var err error
	if b.server, err = startRole(ctx, &b.url, "nats", "-dir", b.dir, fmt.Sprintf("-sync-always=%t", syncAlways)); err != nil {
		return nil, err
	}
	b.nc, err = nats.Connect(b.url, nats.Timeout(answerTime))
	if err == nil {
		b.js, err = jetstream.New(b.nc, jetstream.WithDefaultTimeout(answerTime))
	}
	if err != nil {
		_, closeErr := b.close()
		return nil, errors.Join(err, closeErr)
	}
	return b, nil
}

func (b *jetStream) id() string { return "bench" }

func (b *jetStream) sink() string {
	return fmt.Sprintf("{name: bus, type: nats, url: %q, stream: %s, delivery: %s}", b.url, natsStream, b.delivery)
}

func (b *jetStream) flags() []string { return []string{"-nats", b.url, "-stream", natsStream} }

func (b *jetStream) countable() bool { return true }

func (b *jetStream) look() time.Duration { return 5 * time.Millisecond }

func (b *jetStream) stored(ctx context.Context) (int, error) {
	s, err := b.js.Stream(ctx, natsStream)
	if err == nil && b.delivery == exactlyOnce { // the position is a message too
		return b.storedBesidePosition(ctx, s)
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return int(s.CachedInfo().State.Msgs), nil
}

func (b *jetStream) storedBesidePosition(ctx context.Context, s jetstream.Stream) (int, error) {
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("relay.position.>"))
	if err != nil {
		return 0, err
	}
	n := info.State.Msgs
	for _, positions := range info.State.Subjects {
		n -= positions
	}
	return int(n), nil
}

func (b *jetStream) close() (usage, error) {
	if b.nc != nil {
		b.nc.Close()
	}
	u, err := b.server.stop()
	return u, errors.Join(err, os.RemoveAll(b.dir))
}

// kafkaCluster is kfake as its own process, or its own topics on a real broker.
type kafkaCluster struct {
	delivery string
	brokers  []string
	prefix   string
	server   *process // nil for a real broker
	client   *kgo.Client
	admin    *kadm.Client
}

// newKfake starts kfake.
func newKfake(ctx context.Context, delivery string) (*kafkaCluster, error) {
	b := &kafkaCluster{prefix: "bench.", delivery: delivery}
	var err error
	if b.server, err = startRole(ctx, &b.brokers, "kafka"); err != nil {
		return nil, err
	}
	return b.connect()
}

// realKafka uses the brokers of -kafka.
func (l *lab) realKafka(_ context.Context, delivery string) (*kafkaCluster, error) {
	b := &kafkaCluster{brokers: l.brokers, delivery: delivery, prefix: fmt.Sprintf("bench-%d.", time.Now().UnixNano())}
	return b.connect()
}

func (b *kafkaCluster) connect() (*kafkaCluster, error) {
	var err error
	// Without the age a topic that was just created would be seen only after seconds.
	if b.client, err = kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.MetadataMinAge(b.look()/2)); err != nil {
		_, closeErr := b.close()
		return nil, errors.Join(err, closeErr)
	}
	b.admin = kadm.NewClient(b.client)
	return b, nil
}

// id is its own name: a real broker keeps the positions of other runs.
func (b *kafkaCluster) id() string { return strings.TrimSuffix(b.prefix, ".") }

func (b *kafkaCluster) sink() string {
	return fmt.Sprintf("{name: bus, type: kafka, brokers: [%s], topic_prefix: %q, delivery: %s}", strings.Join(b.brokers, ", "), b.prefix, b.delivery)
}

func (b *kafkaCluster) flags() []string {
	return []string{"-kafka", strings.Join(b.brokers, ","), "-prefix", b.prefix}
}

func (b *kafkaCluster) look() time.Duration {
	if b.server == nil { // it must answer for hundreds of partitions
		return 100 * time.Millisecond
	}
	return 20 * time.Millisecond
}

// countable holds where offsets are events: transactions take offsets for the marks at their ends,
// too.
func (b *kafkaCluster) countable() bool { return b.delivery != exactlyOnce }

func (b *kafkaCluster) stored(ctx context.Context) (int, error) {
	topics, err := b.topics(ctx)
	if err != nil || len(topics) == 0 {
		return 0, err
	}
	if !b.countable() {
		return b.readCommitted(ctx, topics)
	}
	ends, err := b.admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return 0, err
	}
	n := 0
	ends.Each(func(o kadm.ListedOffset) { n += int(max(0, o.Offset)) })
	return n, nil
}

// readCommitted reads all that is committed and counts it.
func (b *kafkaCluster) readCommitted(ctx context.Context, topics []string) (int, error) {
	ends, err := b.admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return 0, err
	}
	type partition struct {
		topic  string
		number int32
	}
	left := map[partition]int64{}
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			if from[o.Topic] == nil {
				from[o.Topic] = map[int32]kgo.Offset{}
			}
			from[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
			left[partition{o.Topic, o.Partition}] = o.Offset
		}
	})
	// The marks of transactions are kept, so that the end of each partition is seen. kfake loses
	// track of aborted transactions if a fetch meets its limit, hence these limits.
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumePartitions(from), kgo.FetchMaxBytes(1<<30), kgo.BrokerMaxReadBytes(1<<30),
		kgo.FetchMaxPartitionBytes(1<<30), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return 0, err
	}
	defer client.Close()
	n := 0
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return n, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				n++
			}
			if at := (partition{r.Topic, r.Partition}); r.Offset+1 >= left[at] {
				delete(left, at)
			}
		})
	}
	return n, nil
}

func (b *kafkaCluster) topics(ctx context.Context) ([]string, error) {
	all, err := b.admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	var own []string
	for _, name := range all.Names() {
		if strings.HasPrefix(name, b.prefix) {
			own = append(own, name)
		}
	}
	return own, nil
}

// position is the topic of the position, if there is one.
func (b *kafkaCluster) position(ctx context.Context) ([]string, error) {
	name := "relay.position." + b.id() + ".bus"
	all, err := b.admin.ListTopics(ctx)
	if err != nil || !all.Has(name) {
		return nil, err
	}
	return []string{name}, nil
}

func (b *kafkaCluster) close() (u usage, err error) {
	if b.server == nil && b.admin != nil {
		err = b.deleteTopics()
	}
	if b.client != nil {
		b.client.Close()
	}
	if b.server != nil {
		u, err = b.server.stop()
	}
	return u, err
}

func (b *kafkaCluster) deleteTopics() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	own, err := b.topics(ctx)
	if err != nil || len(own) == 0 {
		return err
	}
	position, err := b.position(ctx)
	if err != nil {
		return err
	}
	own = append(own, position...)
	deleted, err := b.admin.DeleteTopics(ctx, own...)
	return errors.Join(err, deleted.Error())
}
