//go:build unix

package field

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"workos-relay/pipeline"
)

// modes runs a test in both modes of delivery.
func modes(t *testing.T, test func(t *testing.T, mode string)) {
	for _, mode := range []string{"at_least_once", "exactly_once"} {
		t.Run(mode, func(t *testing.T) { t.Parallel(); test(t, mode) })
	}
}

// progressIn is how soon a lane must have committed something under a limit that a smaller batch
// does not meet. The machine may be loaded, so the test waits longer than the manual promises.
// Without smaller batches a lane never gets on.
const progressIn = 2 * time.Minute

// committedSoon waits until the lane has committed more than before.
func committedSoon(t *testing.T, r *relay, before uint64) uint64 {
	t.Helper()
	deadline := time.Now().Add(progressIn)
	for {
		if n := r.Lane("kafka").Events; n > before {
			return n
		}
		require.True(t, time.Now().Before(deadline), "no progress beyond %d events: %s", before, r.Tail(3000))
		time.Sleep(often)
	}
}

// verify compares the last hours of events with what the topics hold.
func verify(t *testing.T, r *relay) (code int, stdout, stderr string) {
	t.Helper()
	return r.Run(t, "verify", "--since", "earliest", "--until", time.Now().Add(time.Minute).UTC().Format(time.RFC3339))
}

// TestKafkaSlowLink has 64 KB/s for events of 3 KB.
func TestKafkaSlowLink(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, mode string) {
		api := newAPI(t)
		appendEvents(t, api, "user.created", 3000, 3000)
		var wire kafkaWire
		bus := newKfake(t, wire.option())
		r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+mode+", compression: none"))
		wire.rate.Store(64 << 10)
		r.Start(t)
		n := committedSoon(t, r, 100)
		n = committedSoon(t, r, n)
		committedSoon(t, r, n)
		wire.rate.Store(0)
		r.Await(t, func() bool { return r.Lane("kafka").Events == 3000 }, "all events are committed")
		require.Equal(t, exitDone, r.Stop(t))
		code, out, errs := verify(t, r)
		require.Equal(t, exitDone, code, out+errs)
		if mode == "exactly_once" {
			require.Equal(t, 3000, bus.count(t))
		}
	})
}

// TestKafkaLinkBecomesSlow has relay in full swing when the link becomes slow.
func TestKafkaLinkBecomesSlow(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, mode string) {
		api := newAPI(t)
		appendEvents(t, api, "user.created", 3000, 3000)
		var wire kafkaWire
		bus := newKfake(t, wire.option())
		r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+mode+", compression: none"))
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("kafka").Events == 3000 }, "all events are committed")
		wire.rate.Store(64 << 10)
		appendEvents(t, api, "user.created", 3000, 3000)
		n := committedSoon(t, r, 3000)
		committedSoon(t, r, n)
		wire.rate.Store(0)
		r.Await(t, func() bool { return r.Lane("kafka").Events == 6000 }, "all events are committed")
		require.Equal(t, exitDone, r.Stop(t))
		code, out, errs := verify(t, r)
		require.Equal(t, exitDone, code, out+errs)
	})
}

// TestKafkaRequestLimit has something before the brokers that closes the connection on large
// requests, as Azure Event Hubs does, while the topics take large messages.
func TestKafkaRequestLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{1_046_528, 100_000} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			modes(t, func(t *testing.T, mode string) {
				api := newAPI(t)
				appendEvents(t, api, "user.created", 1000, 5000)
				var wire kafkaWire
				bus := newKfake(t, wire.option())
				wire.maxFrame.Store(limit)
				r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+mode+`, compression: none, create: {config: {max.message.bytes: "10485760"}}`))
				r.Start(t)
				r.Await(t, func() bool { return r.Lane("kafka").Events == 1000 }, "all events are committed")
				require.NotContains(t, r.Output(), "TLS")
				require.Less(t, wire.bytes.Load(), int64(3*1000*5000), "sent again and again")
				require.Equal(t, exitDone, r.Stop(t))
				code, out, errs := verify(t, r)
				require.Equal(t, exitDone, code, out+errs)
			})
		})
	}
}

// TestKafkaMessageOverRequestLimit has one event that is larger than any request may be: it is
// named, and goes to the dead letters.
func TestKafkaMessageOverRequestLimit(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, mode string) {
		api := newAPI(t)
		appendEvents(t, api, "user.created", 50, 100)
		ids := appendEvents(t, api, "user.updated", 1, 200_000)
		appendEvents(t, api, "user.created", 50, 100)
		var wire kafkaWire
		wire.maxFrame.Store(100_000)
		bus := newKfake(t, wire.option())
		r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+mode+", compression: none")+"dead_letter: {topic: dead}\n")
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("kafka").Events == 101 }, "all events are committed")
		letters := 0
		for at, records := range bus.read(t) {
			if !strings.HasPrefix(at, bus.Prefix+"dead/") {
				continue
			}
			for _, letter := range records {
				letters++
				text := fmt.Sprint(letter.Headers) + string(letter.Value)
				for _, h := range letter.Headers {
					text += string(h.Value)
				}
				require.Contains(t, text, "limits the size of a request")
				require.Contains(t, text, ids[0])
			}
		}
		require.Equal(t, 1, letters)
	})
}

// without returns the versions of a Kafka that does not know the requests.
func without(keys ...kmsg.Key) kfake.Opt {
	v := kversion.V3_9_0()
	for _, k := range keys {
		v.SetMaxKeyVersion(int16(k), -1)
	}
	return kfake.MaxVersions(v)
}

// TestKafkaWithoutRequests has clusters that do not know all requests. `relay check` says what
// relay does.
func TestKafkaWithoutRequests(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		missing []kmsg.Key
		mode    string
		says    string
	}{
		"no transactions":    {[]kmsg.Key{kmsg.AddPartitionsToTxn, kmsg.EndTxn}, "at_least_once", "AddPartitionsToTxn, EndTxn"},
		"no producer ids":    {[]kmsg.Key{kmsg.InitProducerID}, "at_least_once", "InitProducerId"},
		"no settings":        {[]kmsg.Key{kmsg.DescribeConfigs}, "exactly_once", "DescribeConfigs"},
		"none of all these":  {[]kmsg.Key{kmsg.DescribeConfigs, kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.EndTxn}, "at_least_once", "InitProducerId"},
		"no coordinators":    {[]kmsg.Key{kmsg.FindCoordinator}, "at_least_once", "FindCoordinator"},
		"no transaction end": {[]kmsg.Key{kmsg.EndTxn}, "at_least_once", "EndTxn"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 300, 100)
			bus := newKfake(t, without(tt.missing...))
			r := newRelay(t, "relay", bus.config(api.URL(), ""))
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "delivery: "+tt.mode)
			require.Contains(t, out, tt.says)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("kafka").Events == 300 }, "all events are committed")
			require.EqualValues(t, tt.mode, r.Lane("kafka").Mode)
			require.Contains(t, r.Output(), tt.says)
			require.NotContains(t, r.Output(), "TLS")
			require.Equal(t, exitDone, r.Stop(t))
			require.Equal(t, 300, bus.count(t))
			code, out, errs = r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "delivery: "+tt.mode)
		})
	}
}

// TestKafkaWithoutCreateTopics has topics that somebody else creates: the position's is missing.
func TestKafkaWithoutCreateTopics(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	appendEvents(t, api, "user.created", 300, 100)
	bus := newKfake(t, without(kmsg.CreateTopics))
	r := newRelay(t, "relay", bus.config(api.URL(), `, events: ["user.created"]`))
	code, out, errs := r.Check(t)
	require.Equal(t, exitFailed, code, out+errs)
	require.Contains(t, out, "create it with the tools of the cluster")
	require.NoError(t, bus.Fake.CreateTopic(bus.Prefix+"user.created", 3, nil))
	code, out, errs = r.Check(t)
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "delivery: at_least_once")
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("kafka").Events == 300 }, "all events are committed")
	require.EqualValues(t, "at_least_once", r.Lane("kafka").Mode)
}

// TestKafkaHangsUp has clusters that say they know a request, and close the connection on it.
func TestKafkaHangsUp(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		on   kmsg.Key
		mode string
	}{
		"settings":     {kmsg.DescribeConfigs, "exactly_once"},
		"producer id":  {kmsg.InitProducerID, ""},
		"transactions": {kmsg.AddPartitionsToTxn, "at_least_once"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 300, 100)
			bus := newKfake(t)
			bus.Fake.ControlKey(int16(tt.on), func(kmsg.Request) (kmsg.Response, error, bool) {
				bus.Fake.KeepControl()
				return nil, fmt.Errorf("not for you"), true
			})
			more := ""
			if tt.mode == "" {
				more = ", delivery: at_least_once"
			}
			r := newRelay(t, "relay", bus.config(api.URL(), more))
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("kafka").Events == 300 }, "all events are committed")
			require.NotContains(t, r.Output(), "TLS")
			if tt.mode != "" {
				require.EqualValues(t, tt.mode, r.Lane("kafka").Mode)
			}
		})
	}
}

// codecOnly answers produce requests with an error if a record batch has another codec than those.
func codecOnly(bus *kafka, answer *kerr.Error, allowed ...byte) {
	bus.Fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		bus.Fake.KeepControl()
		p := req.(*kmsg.ProduceRequest)
		refused := false
		for _, t := range p.Topics {
			for _, part := range t.Partitions {
				refused = refused || len(part.Records) > 22 && !strings.ContainsRune(string(allowed), rune(part.Records[22]&7))
			}
		}
		if !refused {
			return nil, nil, false
		}
		res := p.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range p.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic = t.Topic
			for _, part := range t.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.ErrorCode = part.Partition, answer.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			res.Topics = append(res.Topics, rt)
		}
		return res, nil, true
	})
}

// TestKafkaCodecRefused has clusters that do not take every codec.
func TestKafkaCodecRefused(t *testing.T) {
	t.Parallel()
	const none, gzip = 0, 1
	modes(t, func(t *testing.T, mode string) {
		for _, answer := range []*kerr.Error{kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType} {
			for takes, allowed := range map[string][]byte{"gzip": {none, gzip}, "none": {none}} {
				t.Run(fmt.Sprintf("%d takes %s", answer.Code, takes), func(t *testing.T) {
					t.Parallel()
					api := newAPI(t)
					appendEvents(t, api, "user.created", 300, 100)
					bus := newKfake(t)
					codecOnly(bus, answer, allowed...)
					r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+mode))
					r.Start(t)
					r.Await(t, func() bool { return r.Lane("kafka").Events == 300 }, "all events are committed")
					said := "the cluster refuses compression lz4, so relay uses compression: "
					if takes == "none" {
						said = "the cluster refuses compression gzip, so relay uses compression: "
					}
					require.Equal(t, 1, strings.Count(r.Output(), said+takes))
					code, out, errs := r.Check(t)
					require.Equal(t, exitDone, code, out+errs)
					require.Contains(t, out, "so relay uses compression: "+takes)
					require.Equal(t, exitDone, r.Stop(t))
					require.Equal(t, 300, bus.count(t))
				})
			}
		}
		t.Run("fixed", func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 300, 100)
			bus := newKfake(t)
			codecOnly(bus, kerr.UnsupportedForMessageFormat, none, gzip)
			r := newRelay(t, "relay", bus.config(api.URL(), ", compression: zstd, delivery: "+mode))
			r.Start(t)
			r.Says(t, "set compression: gzip or none")
			code, out, errs := r.Check(t)
			require.Equal(t, exitFailed, code, out+errs)
			require.Contains(t, out, "set compression: gzip or none")
		})
	})
}

// TestKafkaAway takes the brokers away in at_least_once: relay says so, and can be paused, moved
// and stopped.
func TestKafkaAway(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	appendEvents(t, api, "user.created", 300, 100)
	link := &kafkaWire{}
	bus := newKfake(t, link.option())
	r := newRelay(t, "relay", "shutdown_timeout: 10m\n"+bus.config(api.URL(), ", delivery: at_least_once"))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("kafka").Events == 300 }, "all events are committed")
	bus.Fake.Close()
	appendEvents(t, api, "user.created", 300, 100)
	r.AwaitState(t, "kafka", pipeline.Retrying)
	require.NotContains(t, r.Output(), "TLS")
	for range 3 {
		started := time.Now()
		code, out, errs := r.Run(t, "pause", "kafka") // fails if the lane is not at rest after 15 s
		require.Equal(t, exitDone, code, out+errs)
		t.Logf("pause took %s", time.Since(started))
		code, out, errs = r.Run(t, "resume", "kafka")
		require.Equal(t, exitDone, code, out+errs)
		time.Sleep(time.Second)
	}
	started := time.Now()
	require.Equal(t, exitDone, r.Stop(t))
	t.Logf("the stop took %s", time.Since(started))
	require.Less(t, time.Since(started), 2*time.Minute, "it does not use up shutdown_timeout")
}

// TestKafkaSilent has a network that swallows everything for a while: relay says so, and can be
// paused, although a request takes much longer than a pause may. Afterwards nothing is missing, and
// nothing is stored twice, in either mode.
func TestKafkaSilent(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, mode string) {
		api := newAPI(t)
		appendEvents(t, api, "user.created", 300, 100)
		var wire kafkaWire
		bus := newKfake(t, wire.option())
		r := newRelay(t, "relay", bus.config(api.URL(), ", request_timeout: 40s, delivery: "+mode))
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("kafka").Events == 300 }, "all events are committed")
		wire.silent.Store(true)
		appendEvents(t, api, "user.created", 300, 100)
		started := time.Now()
		r.AwaitState(t, "kafka", pipeline.Retrying)
		t.Logf("retrying after %s", time.Since(started))
		require.Less(t, time.Since(started), 2*time.Minute)
		require.NotContains(t, r.Output(), "TLS")
		started = time.Now()
		code, out, errs := r.Run(t, "pause", "kafka") // fails if the lane is not at rest after 15 s
		require.Equal(t, exitDone, code, out+errs)
		t.Logf("pause took %s", time.Since(started))
		code, out, errs = r.Run(t, "resume", "kafka")
		require.Equal(t, exitDone, code, out+errs)
		wire.silent.Store(false)
		r.Await(t, func() bool { return r.Lane("kafka").Events == 600 }, "all events are committed")
		require.Equal(t, exitDone, r.Stop(t))
		require.Equal(t, 600, bus.count(t))
	})
}

// quotaAdmin sets a quota of the default user, as kafka-configs does.
func quotaAdmin(t *testing.T, bus *kafka, clientID, key string, value float64) {
	t.Helper()
	name := clientID
	entry := kadm.AlterClientQuotaEntry{
		Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &name}},
		Ops:    []kadm.AlterClientQuotaOp{{Key: key, Value: value}},
	}
	res, err := bus.Admin.AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{entry})
	require.NoError(t, err)
	for _, r := range res {
		require.NoError(t, r.Err)
	}
}

// TestKafkaQuota holds relay to a quota of bytes, and to one of requests, on an Apache Kafka.
func TestKafkaQuota(t *testing.T) {
	t.Parallel()
	for key, value := range map[string]float64{"producer_byte_rate": 50_000, "request_percentage": 0.5} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			modes(t, func(t *testing.T, mode string) {
				bus := realKafka(t)
				api := newAPI(t)
				appendEvents(t, api, "user.created", 1500, 3000)
				clientID := bus.ID
				quotaAdmin(t, bus, clientID, key, value)
				r := newRelay(t, "relay", bus.config(api.URL(), fmt.Sprintf(`, delivery: %s, compression: none, client_id: %s, events: ["user.created"]`, mode, clientID)))
				r.Start(t)
				r.Says(t, "first start") // making topics is the broker's work, and no batch
				n := committedSoon(t, r, 0)
				n = committedSoon(t, r, n)
				committedSoon(t, r, n)
				quotaAdmin(t, bus, clientID, key, 1e9)
				r.Await(t, func() bool { return r.Lane("kafka").Events == 1500 }, "all events are committed")
				require.Equal(t, exitDone, r.Stop(t))
				code, out, errs := verify(t, r)
				require.Equal(t, exitDone, code, out+errs)
				ends, err := bus.Admin.ListEndOffsets(t.Context(), bus.Prefix+"user.created")
				require.NoError(t, err)
				stored := int64(0)
				ends.Each(func(o kadm.ListedOffset) { stored += o.Offset })
				t.Logf("%d offsets for 1500 events", stored)
				require.Less(t, stored, int64(2*1500), "aborted copies")
			})
		})
	}
}
