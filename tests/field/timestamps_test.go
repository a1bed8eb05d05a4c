//go:build unix

package field

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/router"
	"workos-relay/source/sourcetest"
)

// agedEvents adds events of user.created with these ages, oldest first, and returns their ids. Each
// has pad bytes of text.
func agedEvents(t testing.TB, api *sourcetest.Server, pad int, ages ...time.Duration) (ids []string) {
	t.Helper()
	for _, age := range ages {
		at := time.Now().Add(-age).UTC()
		id := fmt.Sprintf("event_%020d", at.UnixNano())
		require.NoError(t, api.Append(fmt.Appendf(nil, `{"object":"event","id":%q,"event":"user.created","data":{"id":"user_1","pad":%q},"created_at":%q}`,
			id, padding(1, pad), at.Format("2006-01-02T15:04:05.000Z"))))
		ids = append(ids, id)
	}
	return ids
}

// agesFrom returns n ages in equal steps, from the oldest on.
func agesFrom(oldest time.Duration, n int) (ages []time.Duration) {
	for i := range n {
		ages = append(ages, oldest-oldest/time.Duration(n)*time.Duration(i))
	}
	return ages
}

// onlyUsers lets the configuration read events of one type.
func onlyUsers(config string) string {
	return strings.Replace(config, "source: {", "source: {events: [user.created], ", 1)
}

// of returns the records whose topic begins with prefix.
func of(all map[string][]*kgo.Record, prefix string) (records []*kgo.Record) {
	for _, some := range all {
		for _, r := range some {
			if strings.HasPrefix(r.Topic, prefix) {
				records = append(records, r)
			}
		}
	}
	return records
}

func headerOf(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// requireTimes requires that records carry the time of their event, or that of publishing.
func requireTimes(t testing.TB, records []*kgo.Record, n int, ofEvent bool) {
	t.Helper()
	require.Len(t, records, n)
	for _, r := range records {
		created, err := time.Parse(time.RFC3339Nano, headerOf(r, router.HeaderCreatedAt))
		require.NoError(t, err)
		if ofEvent {
			require.Equal(t, created.UnixMilli(), r.Timestamp.UnixMilli(), "%s", r.Topic)
		} else {
			require.Less(t, time.Since(r.Timestamp), time.Hour, "%s", r.Topic)
		}
	}
}

// TestTimeOfRecords: a record has the time of its event in both modes, if that is configured.
// verify and replay work as before; a dead letter has the time of publishing.
func TestTimeOfRecords(t *testing.T) {
	t.Parallel()
	t.Run("fake", func(t *testing.T) { t.Parallel(); testTimeOfRecords(t, newKfake(t)) })
	t.Run("real", func(t *testing.T) { t.Parallel(); testTimeOfRecords(t, realKafka(t)) })
}

func testTimeOfRecords(t *testing.T, bus *kafka) {
	api := newAPI(t)
	agedEvents(t, api, 10, agesFrom(80*24*time.Hour, 30)...)
	agedEvents(t, api, 200_000, 50*time.Hour) // not for the topics of "once"
	agedEvents(t, api, 10, agesFrom(48*time.Hour, 10)...)
	sink := func(name, more string) string {
		return fmt.Sprintf("  - {name: %s, type: kafka, brokers: [%s], topic_prefix: %s%s., compression: none, %s}\n", name, strings.Join(bus.Brokers, ", "), bus.Prefix, name, more)
	}
	r := newRelay(t, "relay", fmt.Sprintf("id: %s\n", bus.ID)+onlyUsers(sourceConfig(api.URL()))+"dead_letter: {topic: letters}\nsinks:\n"+
		sink("once", "timestamp: event, create: {config: {retention.ms: \"-1\", max.message.bytes: \"100000\"}}")+
		sink("least", "timestamp: event, delivery: at_least_once, create: {config: {retention.ms: \"-1\"}}")+
		sink("plain", "create: {config: {retention.ms: \"-1\"}}"))
	code, out, stderr := r.Check(t)
	require.Zero(t, code, out+stderr)
	require.NotContains(t, out+stderr, "timestamp: event")
	r.Start(t)
	var all map[string][]*kgo.Record
	r.Await(t, func() bool { all = bus.read(t); return len(of(all, bus.Prefix)) == 3*41 }, "every event is published")
	requireTimes(t, of(all, bus.Prefix+"once.user."), 40, true)
	requireTimes(t, of(all, bus.Prefix+"once.letters"), 1, false)
	requireTimes(t, of(all, bus.Prefix+"least."), 41, true)
	requireTimes(t, of(all, bus.Prefix+"plain."), 41, false)
	require.NotContains(t, r.Output(), "timestamp: event")
	month := time.Now().Add(-30 * 24 * time.Hour).UTC().Format(time.RFC3339)
	for _, lane := range []string{"once", "least", "plain"} {
		for _, args := range [][]string{{"verify", "--since", "earliest"}, {"verify", "--since", month}, {"replay", "--since", month}} { // by time, it finds its place in the topics by time
			code, out, stderr = r.Run(t, append(args, "--lane", lane, "--until", "latest")...)
			require.Zero(t, code, lane+out+stderr)
		}
	}
	all = bus.read(t)
	once := of(all, bus.Prefix+"once.user.")
	require.Greater(t, len(once), 40)
	requireTimes(t, once, len(once), true)
	least := of(all, bus.Prefix+"least.")
	requireTimes(t, least, len(least), true)
	require.Equal(t, exitDone, r.Stop(t))
}

// TestTimeThatABrokerRefuses: the topic does not permit times as old as the events are. check and
// run warn of it; nothing is published or lost, and events flow once the topic permits it.
func TestTimeThatABrokerRefuses(t *testing.T) {
	t.Parallel()
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		bus := newKfake(t)
		var permitted atomic.Bool
		bus.Fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			bus.Fake.KeepControl()
			if permitted.Load() {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			refused := false
			for _, topic := range req.(*kmsg.ProduceRequest).Topics {
				rt := kmsg.NewProduceResponseTopic()
				rt.Topic = topic.Topic
				for _, p := range topic.Partitions {
					rp := kmsg.NewProduceResponseTopicPartition()
					rp.Partition = p.Partition
					if strings.Contains(topic.Topic, "user.created") {
						rp.ErrorCode, refused = kerr.InvalidTimestamp.Code, true
					}
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil, refused
		})
		testTimeRefused(t, bus, "create.config has no retention.ms", func() { permitted.Store(true) })
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		bus := realKafka(t)
		hour, forever := "3600000", "9223372036854775807"
		_, err := bus.Admin.CreateTopic(t.Context(), 1, 1, map[string]*string{beforeMax: &hour}, bus.Prefix+"user.created")
		require.NoError(t, err)
		testTimeRefused(t, bus, beforeMax+" is 1h0m0s, so the brokers refuse older events", func() {
			answers, err := bus.Admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: beforeMax, Value: &forever}, {Name: "retention.ms", Value: &forever}}, bus.Prefix+"user.created")
			require.NoError(t, err)
			for _, a := range answers {
				require.NoError(t, a.Err)
			}
		})
	})
}

const beforeMax = "message.timestamp.before.max.ms"

func testTimeRefused(t *testing.T, bus *kafka, atFirst string, permit func()) {
	api := newAPI(t)
	ids := agedEvents(t, api, 10, agesFrom(60*24*time.Hour, 12)...)
	r := newRelay(t, "relay", onlyUsers(bus.config(api.URL(), ", timestamp: event")))
	code, out, stderr := r.Check(t)
	require.Zero(t, code, out+stderr)
	shown := strings.Join(strings.Fields(out+stderr), " ")
	require.Equal(t, 1, strings.Count(shown, "timestamp: event, topic "+bus.Prefix+"user.created: "+atFirst), shown)

	r.Start(t)
	r.Says(t, "refuses the time of an event as too old or too new; raise message.timestamp.before.max.ms of the topic")
	r.Await(t, func() bool {
		return strings.Contains(r.Lane("kafka").Action, "set timestamp: publish for this sink")
	}, "status says what to do")
	require.Empty(t, of(bus.read(t), bus.Prefix))
	code, out, stderr = r.Check(t)
	require.Zero(t, code, out+stderr)
	shown = strings.Join(strings.Fields(out+stderr), " ")
	require.Contains(t, shown, "retention.ms is 7 days and counts from the time of the event")
	require.Equal(t, 1, strings.Count(r.Output(), "retention.ms is 7 days and counts from"), "run warns once")

	permit()
	r.Await(t, func() bool { return len(of(bus.read(t), bus.Prefix)) >= len(ids) }, "events flow once the topic permits it")
	var got []string
	for _, record := range of(bus.read(t), bus.Prefix) {
		got = append(got, headerOf(record, router.HeaderID))
	}
	slices.Sort(got)
	require.Equal(t, ids, got, "each once")
	require.Equal(t, exitDone, r.Stop(t))
}
