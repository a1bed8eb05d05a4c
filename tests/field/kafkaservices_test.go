//go:build unix

package field

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// named are the warnings of `relay check` and the log of a running relay, by which relay names what
// a cluster cannot do.
const (
	namedTransactions = "delivery: at_least_once, since the bus cannot do exactly_once: "
	namedProducerID   = "the cluster gives relay no producer id"
	namedSettings     = "relay cannot see the settings of topics"
	namedCreation     = "relay cannot create topics on this cluster"
	namedCodec        = "the cluster refuses compression "
)

// warnings returns what stands behind a mark in each line of text that has it: for the output of
// check and for a log, whose lines end with fields.
func warnings(text, mark string) (found []string) {
	for line := range strings.Lines(text) {
		if at := strings.Index(line, mark); at >= 0 {
			warning, _, _ := strings.Cut(strings.TrimSpace(line[at:]), " {\"lane\"")
			found = append(found, strings.TrimSpace(warning))
		}
	}
	return found
}

// requireNamedOnce requires that the log names each of marks once, and nothing else of what relay
// can name, and that check has said it in the same words.
func requireNamedOnce(t *testing.T, check, log string, marks ...string) {
	t.Helper()
	for _, mark := range []string{namedTransactions, namedProducerID, namedSettings, namedCreation, namedCodec} {
		said := warnings(log, mark)
		wanted := 0
		for _, m := range marks {
			if m == mark {
				wanted = 1
			}
		}
		require.Len(t, said, wanted, "%s\n%s", mark, log)
		if wanted > 0 {
			require.Equal(t, said, warnings(check, mark), "%s\n%s", check, log)
		}
	}
}

// hangUp lets the cluster close the connection on requests of a kind that match.
func hangUp(bus *kafka, key kmsg.Key, match func(kmsg.Request) bool) {
	bus.Fake.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
		bus.Fake.KeepControl()
		if match != nil && !match(req) {
			return nil, nil, false
		}
		return nil, errors.New("not for you"), true
	})
}

// refuseCreation answers each request to create a topic with an error.
func refuseCreation(bus *kafka, answer *kerr.Error) {
	bus.Fake.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		bus.Fake.KeepControl()
		q := req.(*kmsg.CreateTopicsRequest)
		res := q.ResponseKind().(*kmsg.CreateTopicsResponse)
		for _, t := range q.Topics {
			rt := kmsg.NewCreateTopicsResponseTopic()
			rt.Topic, rt.ErrorCode = t.Topic, answer.Code
			res.Topics = append(res.Topics, rt)
		}
		return res, nil, true
	})
}

// showSettings lets the cluster show only some settings of topics, or an error in their place.
func showSettings(bus *kafka, answer *kerr.Error, shown ...string) {
	bus.Fake.ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
		bus.Fake.KeepControl()
		q := req.(*kmsg.DescribeConfigsRequest)
		res := q.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, asked := range q.Resources {
			r := kmsg.NewDescribeConfigsResponseResource()
			r.ResourceType, r.ResourceName = asked.ResourceType, asked.ResourceName
			if answer != nil {
				r.ErrorCode = answer.Code
			}
			for _, name := range shown {
				c := kmsg.NewDescribeConfigsResponseResourceConfig()
				c.Name, c.Value = name, kmsg.StringPtr("3600000")
				r.Configs = append(r.Configs, c)
			}
			res.Resources = append(res.Resources, r)
		}
		return res, nil, true
	})
}

// refuseProducerID answers each request for a producer id with an error.
func refuseProducerID(bus *kafka, answer *kerr.Error) {
	bus.Fake.ControlKey(int16(kmsg.InitProducerID), func(req kmsg.Request) (kmsg.Response, error, bool) {
		bus.Fake.KeepControl()
		res := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		res.ErrorCode = answer.Code
		return res, nil, true
	})
}

// TestKafkaServices has clusters that lack one ability or several at once. relay is told nothing of
// it: it runs in the best mode that is left, and names once what is missing, after check has said
// it in the same words.
func TestKafkaServices(t *testing.T) {
	t.Parallel()
	noTransactions := []kmsg.Key{kmsg.AddPartitionsToTxn, kmsg.EndTxn}
	for name, tt := range map[string]struct {
		missing []kmsg.Key
		lacks   func(bus *kafka)
		mode    string   // that auto finds
		named   []string // with auto
	}{
		"no transactions":           {noTransactions, nil, "at_least_once", []string{namedTransactions}},
		"no producer id":            {[]kmsg.Key{kmsg.InitProducerID}, nil, "at_least_once", []string{namedTransactions, namedProducerID}},
		"producer id unsupported":   {nil, func(bus *kafka) { refuseProducerID(bus, kerr.UnsupportedVersion) }, "at_least_once", []string{namedTransactions, namedProducerID}},
		"producer id invalid":       {nil, func(bus *kafka) { refuseProducerID(bus, kerr.InvalidRequest) }, "at_least_once", []string{namedTransactions, namedProducerID}},
		"producer id hangs up":      {nil, func(bus *kafka) { hangUp(bus, kmsg.InitProducerID, nil) }, "at_least_once", []string{namedTransactions, namedProducerID}},
		"no settings":               {[]kmsg.Key{kmsg.DescribeConfigs}, nil, "exactly_once", []string{namedSettings}},
		"settings hang up":          {nil, func(bus *kafka) { hangUp(bus, kmsg.DescribeConfigs, nil) }, "exactly_once", []string{namedSettings}},
		"settings invalid":          {nil, func(bus *kafka) { showSettings(bus, kerr.InvalidRequest) }, "exactly_once", []string{namedSettings}},
		"settings denied":           {nil, func(bus *kafka) { showSettings(bus, kerr.TopicAuthorizationFailed) }, "exactly_once", []string{namedSettings}},
		"settings partial":          {nil, func(bus *kafka) { showSettings(bus, nil, "retention.ms") }, "exactly_once", []string{namedSettings}},
		"all settings but cleanup":  {nil, func(bus *kafka) { showSettings(bus, nil, "retention.ms", "max.message.bytes") }, "exactly_once", []string{namedSettings}},
		"no creation":               {[]kmsg.Key{kmsg.CreateTopics}, nil, "at_least_once", []string{namedTransactions, namedCreation}},
		"creation invalid":          {nil, func(bus *kafka) { refuseCreation(bus, kerr.InvalidRequest) }, "at_least_once", []string{namedTransactions}},
		"creation unsupported":      {nil, func(bus *kafka) { refuseCreation(bus, kerr.UnsupportedVersion) }, "at_least_once", []string{namedTransactions}},
		"creation hangs up":         {nil, func(bus *kafka) { hangUp(bus, kmsg.CreateTopics, nil) }, "at_least_once", []string{namedTransactions}},
		"no compaction":             {nil, func(bus *kafka) { refuseCreation(bus, kerr.InvalidConfig) }, "at_least_once", []string{namedTransactions}},
		"gzip only, invalid record": {nil, func(bus *kafka) { codecOnly(bus, kerr.InvalidRecord, 0, 1) }, "exactly_once", []string{namedCodec}},
		"gzip only, server error":   {nil, func(bus *kafka) { codecOnly(bus, kerr.UnknownServerError, 0, 1) }, "exactly_once", []string{namedCodec}},
		"like Event Hubs, basic":    {append([]kmsg.Key{kmsg.CreateTopics}, noTransactions...), func(bus *kafka) { showSettings(bus, nil, "retention.ms") }, "at_least_once", []string{namedTransactions, namedSettings, namedCreation}},
		"like OCI Streaming": {append([]kmsg.Key{kmsg.CreateTopics, kmsg.InitProducerID, kmsg.DescribeConfigs}, noTransactions...), func(bus *kafka) {
			codecOnly(bus, kerr.UnsupportedCompressionType, 0, 1)
		}, "at_least_once", []string{namedTransactions, namedProducerID, namedSettings, namedCreation, namedCodec}},
		"nothing but produce and fetch": {append([]kmsg.Key{kmsg.CreateTopics, kmsg.InitProducerID, kmsg.DescribeConfigs, kmsg.FindCoordinator}, noTransactions...), nil, "at_least_once", []string{namedTransactions, namedProducerID, namedSettings, namedCreation}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 100, 1000)
			var wire kafkaWire
			wire.maxFrame.Store(1_046_528)
			bus := newKfake(t, without(tt.missing...), wire.option())
			require.NoError(t, bus.Fake.CreateTopic(bus.Prefix+"user.created", 3, nil))
			if tt.lacks != nil {
				tt.lacks(bus)
			}
			r := newRelay(t, "relay", bus.config(api.URL(), `, events: ["user.created"]`))
			code, check, errs := r.Check(t)
			require.Equal(t, exitDone, code, check+errs)
			require.Contains(t, check, "delivery: "+tt.mode)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("kafka").Events == 100 }, "all events are committed")
			require.EqualValues(t, tt.mode, r.Lane("kafka").Mode)
			requireNamedOnce(t, check, r.Output(), tt.named...)
			require.NotContains(t, r.Output(), "publishing failed")
			require.Equal(t, exitDone, r.Stop(t))
			require.Equal(t, 100, bus.count(t))
		})
	}
}

// TestKafkaMaxRequestBytes has something before the brokers that closes the connection on large
// requests. With max_request_bytes no request is too large; without it relay finds the limit out,
// and names it once.
func TestKafkaMaxRequestBytes(t *testing.T) {
	t.Parallel()
	const limit = 60_000
	for name, set := range map[string]string{"set": ", max_request_bytes: 60000", "learnt": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			modes(t, func(t *testing.T, mode string) {
				api := newAPI(t)
				appendEvents(t, api, "user.created", 300, 3000)
				ids := appendEvents(t, api, "user.updated", 1, 2*limit)
				for i := range 60 { // small ones in many topics: what surrounds them counts
					appendEvents(t, api, []string{"user.created", "user.updated", "user.deleted", "session.created"}[i%4], 5, 10)
				}
				var wire kafkaWire
				wire.maxFrame.Store(limit)
				bus := newKfake(t, wire.option())
				r := newRelay(t, "relay", bus.config(api.URL(), ", compression: none, delivery: "+mode+set)+"dead_letter: {topic: dead}\n")
				r.Start(t)
				r.Await(t, func() bool { return r.Lane("kafka").Events == 601 }, "all events are committed")
				code, out, errs := r.Check(t)
				require.Equal(t, exitDone, code, out+errs)
				require.Equal(t, exitDone, r.Stop(t))
				if name == "set" {
					require.Zero(t, wire.refused.Load(), "connections closed on large requests")
					require.Equal(t, 1, strings.Count(r.Output(), "but max_request_bytes is 60000"))
					require.Equal(t, warnings(r.Output(), "topics take messages"), warnings(out, "topics take messages"))
				} else {
					require.Equal(t, 1, strings.Count(r.Output(), "so relay sends smaller ones"))
				}
				letters := 0
				for at, records := range bus.read(t) {
					if strings.HasPrefix(at, bus.Prefix+"dead/") {
						letters += len(records)
						text := string(records[0].Value)
						for _, h := range records[0].Headers {
							text += string(h.Value)
						}
						require.Contains(t, text, ids[0])
						require.Contains(t, text, map[string]string{"set": "max_request_bytes is 60000", "learnt": "limits the size of a request"}[name])
					}
				}
				require.Equal(t, 1, letters)
			})
		})
	}
}

// TestKafkaSlowAcknowledgements has clusters that take seconds to acknowledge a request of any
// size, as services that write to object storage may do.
func TestKafkaSlowAcknowledgements(t *testing.T) {
	t.Parallel()
	for took, mode := range map[time.Duration]string{2 * time.Second: "exactly_once", 9 * time.Second: "at_least_once"} {
		t.Run(took.String(), func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 100, 100)
			var wire kafkaWire
			bus := newKfake(t, wire.option())
			wire.produce.Store(int64(took))
			r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+mode))
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("kafka").Events == 100 }, "all events are committed")
			wire.produce.Store(0)
			require.Equal(t, exitDone, r.Stop(t))
			require.Equal(t, 100, bus.count(t))
		})
	}
	t.Run("longer than request_timeout", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t)
		appendEvents(t, api, "user.created", 200, 1000)
		var wire kafkaWire
		bus := newKfake(t, wire.option())
		wire.produce.Store(int64(4 * time.Second))
		r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: at_least_once, request_timeout: 2s"))
		r.Start(t)
		r.Says(t, "if they usually take that long, raise request_timeout")
	})
}

// TestKafkaTransactionTimeout has brokers that refuse the transaction_timeout: the message names
// the setting, and with another value relay runs.
func TestKafkaTransactionTimeout(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	appendEvents(t, api, "user.created", 20, 100)
	bus := newKfake(t, kfake.BrokerConfigs(map[string]string{"transaction.max.timeout.ms": "5000"}))
	r := newRelay(t, "relay", bus.config(api.URL(), ""))
	r.Start(t)
	require.Equal(t, exitDecides, r.Wait(t))
	require.Contains(t, r.Output(), "change transaction_timeout")
	r = newRelay(t, "changed", bus.config(api.URL(), ", transaction_timeout: 4s"))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("kafka").Events == 20 }, "all events are committed")
	require.Equal(t, exitDone, r.Stop(t))
}
