package main

import (
	"bytes"
	"slices"
	"testing"

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

// refill makes the topics anew with the records, each in the partition that it has.
func (b *kafkaBus) refill(t *testing.T, records byPlace) {
	t.Helper()
	topics, err := b.admin.ListTopics(t.Context())
	require.NoError(t, err)
	count := map[string]int32{}
	for key := range records {
		if len(records[key]) > 0 {
			name := records[key][0].Topic
			count[name] = int32(len(topics[name].Partitions))
		}
	}
	for name, partitions := range count {
		_, err := b.admin.DeleteTopics(t.Context(), name)
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, err := b.admin.CreateTopic(t.Context(), partitions, 1, nil, name)
			return err == nil
		}, patient, often)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	for _, list := range records {
		for _, r := range list {
			again := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
			require.NoError(t, client.ProduceSync(t.Context(), again).FirstErr())
		}
	}
}

func TestVerifyKafkaFindsEachDefect(t *testing.T) {
	api := newAPI(t, spread(300, 31))
	ids := api.IDs(sourcetest.Filter{})
	bus := newKafka(t)
	config := writeConfig(t, bus.config("at_least_once", api.URL(), t.TempDir(), "{partitions: 3}"))
	code, _, stderr := do(t, "replay", "--since", spreadStart, "--until", spreadEnd, "--config", config)
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
			r.Partition = (r.Partition + 1) % 3
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
			bus.refill(t, damaged)
			code, v := verified(t, config)
			require.Equal(t, c.want, found(&v))
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
				again := newKafkaBus(t, bus.brokers) // this one's metadata is older than the topics
				again.prefix = bus.prefix
				require.Equal(t, key, byPlace(again.read(t)).place(t, id(middle)))
			}
		})
	}
}

// TestVerifyKafkaReadsOnlyWhatIsCommitted: records of a transaction that was aborted are none, whatever their headers say.
func TestVerifyKafkaReadsOnlyWhatIsCommitted(t *testing.T) {
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
	code, _, stderr = do(t, "replay", "--since", "2026-11-01T07:00:00Z", "--until", spreadEnd, "--config", config)
	require.Equal(t, exitDone, code, stderr)

	code, v := verified(t, config)
	require.Equal(t, exitFailed, code)
	require.Equal(t, len(first), v.Altered.Count, "one committed transaction, of the three")
	v.Altered.Count = 0
	require.Empty(t, found(&v))
}

func TestVerifyKafkaSaysWhatRetentionTook(t *testing.T) {
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
