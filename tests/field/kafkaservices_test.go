//go:build unix

package field

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
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

// packed reports whether a produce request has a record batch with another codec than gzip or none.
func packed(req kmsg.Request) bool {
	for _, t := range req.(*kmsg.ProduceRequest).Topics {
		for _, p := range t.Partitions {
			if len(p.Records) > 22 && p.Records[22]&7 > 1 {
				return true
			}
		}
	}
	return false
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
			code, check, errs := r.Run(t, "check")
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
