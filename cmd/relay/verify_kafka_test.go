package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/source/sourcetest"
)

// byPlace is what the partitions of a relay's topics hold.
type byPlace map[string][]*kgo.Record

// place is the partition that holds the event.
func (b byPlace) place(t *testing.T, id string) string {
	t.Helper()
	for place, records := range b {
		if slices.ContainsFunc(records, func(r *kgo.Record) bool { return recordHeader(r, "event-id") == id }) {
			return place
		}
	}
	require.Fail(t, "not there", id)
	return ""
}

// filled is a bus on the same brokers with the records in its own topics, each in the partition
// that it has here. Topics made again under the same names would be taken for the ones before by a
// broker that has not heard of it yet.
func (b *kafkaBus) filled(t *testing.T, partitions int32, records byPlace) *kafkaBus {
	t.Helper()
	own := newKafkaBus(t, b.brokers)
	var topics []string
	var again []*kgo.Record
	for _, list := range records {
		for _, r := range list {
			topic := own.prefix + strings.TrimPrefix(r.Topic, b.prefix)
			if !slices.Contains(topics, topic) {
				topics = append(topics, topic)
			}
			again = append(again, &kgo.Record{Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers})
		}
	}
	created, err := own.admin.CreateTopics(t.Context(), partitions, 1, nil, topics...)
	require.NoError(t, err)
	require.NoError(t, created.Error())
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond),
		kgo.UnknownTopicRetries(-1)) // a broker hears of a new topic in its own time
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.ProduceSync(t.Context(), again...).FirstErr())
	return own
}

func TestVerifyKafkaFindsEachDefect(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(300, 31))
	ids := api.IDs(sourcetest.Filter{})
	bus := newKafka(t)
	const partitions = 3
	configOf := func(t *testing.T, b *kafkaBus) string {
		return writeConfig(t, b.config("at_least_once", api.URL(), t.TempDir(), fmt.Sprintf("{partitions: %d}", partitions)))
	}
	code, _, stderr := do(t, "replay", "--since", spreadStart, "--until", spreadEnd, "--config", configOf(t, bus))
	require.Equal(t, exitDone, code, stderr)
	good := byPlace(bus.read(t))
	for _, records := range good { // as if the lane had published them
		for _, r := range records {
			r.Headers = slices.DeleteFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "relay-replay" })
		}
	}
	// the partition with the most, and three events in its middle
	var key string
	for k, records := range good {
		if len(records) > len(good[key]) {
			key = k
		}
	}
	middle := len(good[key]) / 2
	id := func(i int) string { return recordHeader(good[key][i], "event-id") }

	for name, c := range map[string]struct {
		damage func(b byPlace)
		want   map[string][]string
	}{
		"nothing": {func(byPlace) {}, map[string][]string{}},
		"missing": {func(b byPlace) { b[key] = slices.Delete(b[key], middle, middle+1) }, map[string][]string{"missing": {id(middle), "1"}}},
		"a copy":  {func(b byPlace) { b[key] = append(b[key], b[key][middle]) }, map[string][]string{"duplicate": {id(middle), "1"}}},
		"a copy in another partition": {func(b byPlace) {
			r := *b[key][middle]
			r.Partition = (r.Partition + 1) % partitions
			b["more"] = []*kgo.Record{&r}
		}, map[string][]string{"duplicate": {id(middle), "1"}}},
		"another topic": {func(b byPlace) {
			r := *b[key][middle]
			for _, other := range []string{"directory", "sessions"} {
				if r.Topic != bus.prefix+other {
					r.Topic = bus.prefix + other
					break
				}
			}
			b[key] = slices.Delete(b[key], middle, middle+1)
			b["more"] = []*kgo.Record{&r}
		}, map[string][]string{"misrouted": {id(middle), "1"}}},
		"a byte": {func(b byPlace) {
			r := *b[key][middle]
			r.Value = bytes.Clone(r.Value)
			r.Value[3] ^= 1
			b[key][middle] = &r
		}, map[string][]string{"altered": {id(middle), "1"}}},
		"two in the wrong order": {func(b byPlace) {
			b[key][middle], b[key][middle+1] = b[key][middle+1], b[key][middle]
		}, map[string][]string{"out of order": {id(middle), "1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			damaged := byPlace{}
			for k, records := range good {
				damaged[k] = slices.Clone(records)
			}
			c.damage(damaged)
			own := bus.filled(t, partitions, damaged)
			config := configOf(t, own)
			code, v := verified(t, config, "--strict")
			require.Equal(t, c.want, found(&v))
			if _, copied := c.want["duplicate"]; copied {
				code, v := verified(t, config)
				require.Equal(t, exitDone, code, "at_least_once allows copies")
				require.Equal(t, c.want, found(&v), "and they are reported")
			}
			require.Equal(t, len(ids), v.Events)
			if len(c.want) == 0 {
				require.Equal(t, exitDone, code)
				return
			}
			require.Equal(t, exitFailed, code)
			if name == "missing" {
				code, _, stderr := do(t, "verify", "--repair", "--since", spreadStart, "--until", spreadEnd, "--config", config)
				require.Equal(t, exitFailed, code)
				require.Contains(t, stderr, "--blindly", "no lane has ever run here")
				code, v = verified(t, config, "--repair", "--blindly")
				require.Equal(t, exitDone, code)
				require.Equal(t, 1, v.Repair.Published)
				code, v = verified(t, config)
				require.Equal(t, exitDone, code)
				require.Empty(t, found(&v))
				require.Equal(t, key, bus.prefix+strings.TrimPrefix(byPlace(own.read(t)).place(t, id(middle)), own.prefix))
			}
		})
	}
}

// TestVerifyKafkaReadsOnlyWhatIsCommitted: records of a transaction that was aborted do not count,
// with any headers.
func TestVerifyKafkaReadsOnlyWhatIsCommitted(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(200, 32))
	bus := newKafka(t)
	config := writeConfig(t, bus.config("at_least_once", api.URL(), t.TempDir(), "{partitions: 1}"))
	code, _, stderr := do(t, "replay", "--since", spreadStart, "--until", "2026-11-01T07:00:00Z", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	first := bus.read(t)

	client, err := kgo.NewClient(kgo.SeedBrokers(bus.brokers...), kgo.TransactionalID(bus.prefix+"tx"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit, kgo.TryAbort} {
		require.NoError(t, client.BeginTransaction())
		for _, records := range first {
			r := &kgo.Record{Topic: records[0].Topic, Value: []byte("{}"), Headers: slices.DeleteFunc(slices.Clone(records[0].Headers),
				func(h kgo.RecordHeader) bool { return h.Key == "relay-replay" })}
			require.NoError(t, client.ProduceSync(t.Context(), r).FirstErr())
		}
		require.NoError(t, client.EndTransaction(t.Context(), end))
	}
	requireEnded(t, bus)
	code, _, stderr = do(t, "replay", "--since", "2026-11-01T07:00:00Z", "--until", spreadEnd, "--config", config)
	require.Equal(t, exitDone, code, stderr)

	code, v := verified(t, config)
	require.Equal(t, exitFailed, code)
	require.Equal(t, len(first), v.Altered.Count, "one committed transaction, of the three")
	v.Altered.Count = 0
	require.Empty(t, found(&v))
}

// requireEnded waits until the brokers have written down how the last transactions ended: until
// then a reader sees nothing behind them.
func requireEnded(t *testing.T, b *kafkaBus) {
	t.Helper()
	require.Eventually(t, func() bool {
		all, err := b.offsets(t.Context())
		if err != nil || all.Error() != nil {
			return false
		}
		seen, err := b.admin.ListCommittedOffsets(t.Context(), slices.Collect(maps.Keys(all))...)
		if err != nil || seen.Error() != nil {
			return false
		}
		ended := true
		all.Each(func(o kadm.ListedOffset) { ended = ended && seen[o.Topic][o.Partition].Offset == o.Offset })
		return ended
	}, patient, often)
}

func TestVerifyKafkaSaysWhatRetentionTook(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(200, 33))
	bus := newKafka(t)
	config := writeConfig(t, bus.config("at_least_once", api.URL(), t.TempDir(), "{partitions: 1}"))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return bus.count(0) == 200 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	cut := kadm.Offsets{}
	gone := 0
	for _, records := range bus.read(t) {
		n := int64(len(records) / 2)
		cut.Add(kadm.Offset{Topic: records[0].Topic, At: n, LeaderEpoch: -1})
		gone += int(n)
	}
	_, err := bus.admin.DeleteRecords(t.Context(), cut)
	require.NoError(t, err)
	code, v := verified(t, config)
	require.Equal(t, exitDone, code)
	require.Empty(t, found(&v))
	require.Equal(t, gone, v.Expired)
	require.NotEmpty(t, v.Trimmed)
}
