//go:build linux

package hostile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/pipeline"
	"workos-relay/tests/testkit"
)

// lie is one way in which a broker's answers are not what they should be.
type lie struct {
	name  string
	says  string // what the lane says beside the name of the broker
	alter alteration
}

// only alters the answers to some requests.
func only(alter alteration, keys ...kmsg.Key) alteration {
	return func(a kafkaAnswer) []byte {
		for _, k := range keys {
			if a.Key == k {
				return alter(a)
			}
		}
		return a.Frame
	}
}

func sized(size int32, rest []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(size)), rest...) //nolint:gosec // its bits
}

// lies about frames, in the answers to every request.
func liesOfFrames() []lie {
	random := rand.NewChaCha8([32]byte{1})
	return []lie{
		{"a size of -1", "", func(a kafkaAnswer) []byte { return sized(-1, a.Frame[4:]) }},
		{"the smallest size", "", func(a kafkaAnswer) []byte { return sized(math.MinInt32, a.Frame[4:]) }},
		{"a size of 2 GB", "", func(a kafkaAnswer) []byte { return sized(math.MaxInt32, make([]byte, 1<<20)) }},
		{"a size of 100 MB", "", func(a kafkaAnswer) []byte { return sized(100<<20, make([]byte, 4<<20)) }},
		{"a size of 0", "", func(kafkaAnswer) []byte { return sized(0, nil) }},
		{"a size too small", "", func(a kafkaAnswer) []byte { return sized(int32(len(a.Frame)/2), a.Frame[4:]) }}, //nolint:gosec // small
		{"another correlation id", "", func(a kafkaAnswer) []byte {
			b := bytes.Clone(a.Frame)
			b[7] ^= 0x55
			return b
		}},
		{"random bytes", "", func(a kafkaAnswer) []byte {
			body := make([]byte, 4000)
			_, _ = random.Read(body) // never fails
			return a.framed(body)
		}},
		{"ones", "", func(a kafkaAnswer) []byte { return a.framed(bytes.Repeat([]byte{0xff}, len(a.Body()))) }},
		{"large numbers", "", func(a kafkaAnswer) []byte { return a.framed(bytes.Repeat([]byte{0x7f, 0xff, 0xff, 0xff}, 100)) }},
		{"half of it", "", func(a kafkaAnswer) []byte { return a.framed(a.Body()[:len(a.Body())/2]) }},
		{"HTTP", "", func(kafkaAnswer) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }},
	}
}

// lies in the answers to certain requests.
func liesOfAnswers() []lie {
	arrays := func(a kafkaAnswer) []byte { // every value that looks like a small number becomes a large one
		b := bytes.Clone(a.Body())
		for i := 0; i+4 <= len(b); i += 2 {
			if n := binary.BigEndian.Uint32(b[i:]); n > 0 && n < 100 {
				binary.BigEndian.PutUint32(b[i:], math.MaxInt32)
				return a.framed(b)
			}
		}
		return a.framed(append(make([]byte, 4), bytes.Repeat([]byte{0x7f, 0xff, 0xff, 0xff}, 20)...))
	}
	crowd := func(a kafkaAnswer) []byte { // 500,000 brokers
		m := kmsg.NewPtrMetadataResponse()
		m.SetVersion(a.Version)
		for i := range int32(500_000) {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = i, "x", -i
			m.Brokers = append(m.Brokers, b)
		}
		return a.framed(m.AppendTo(nil))
	}
	partitions := func(a kafkaAnswer) []byte { // topics with partitions that have impossible numbers
		m := kmsg.NewPtrMetadataResponse()
		m.SetVersion(a.Version)
		if m.ReadFrom(a.Body()) != nil {
			return a.Frame
		}
		for i := range m.Topics {
			for j := range m.Topics[i].Partitions {
				m.Topics[i].Partitions[j].Partition = math.MinInt32 + int32(j) //nolint:gosec // small
			}
		}
		return a.framed(m.AppendTo(nil))
	}
	return []lie{
		{"arrays of metadata", "to Metadata is not valid: ", hangUpOn(only(arrays, kmsg.Metadata))},
		{"500,000 brokers", "to Metadata is not valid: ", hangUpOn(only(crowd, kmsg.Metadata))},
		{"negative partitions", "to Metadata is not valid: ", hangUpOn(only(partitions, kmsg.Metadata))},
		{"arrays of the requests known", "to ApiVersions is not valid: ", hangUpOn(only(arrays, kmsg.ApiVersions))},
		{"arrays of the answer to records", "to Produce is not valid: ", only(arrays, kmsg.Produce)},
		{"an answer to records without end", "", only(func(a kafkaAnswer) []byte { return sized(8<<20, a.Frame[4:]) }, kmsg.Produce)},
		{"arrays of a transaction", "", only(arrays, kmsg.AddPartitionsToTxn, kmsg.EndTxn, kmsg.InitProducerID)},
	}
}

// liesOfRecords are lies about the position that is read back.
func liesOfRecords() []lie {
	records := func(change func(*kmsg.FetchResponseTopicPartition)) alteration {
		return only(func(a kafkaAnswer) []byte {
			m := kmsg.NewPtrFetchResponse()
			m.SetVersion(a.Version)
			if m.ReadFrom(a.Body()) != nil || len(m.Topics) == 0 {
				return a.Frame
			}
			change(&m.Topics[0].Partitions[0])
			return a.framed(m.AppendTo(nil))
		}, kmsg.Fetch)
	}
	first := func(change func(batch []byte)) alteration {
		return records(func(p *kmsg.FetchResponseTopicPartition) {
			p.RecordBatches = bytes.Clone(p.RecordBatches)
			if len(p.RecordBatches) > 61 {
				change(p.RecordBatches)
				end := 12 + min(int(binary.BigEndian.Uint32(p.RecordBatches[8:])), len(p.RecordBatches)-12)
				binary.BigEndian.PutUint32(p.RecordBatches[17:], castagnoli(p.RecordBatches[21:end]))
			}
		})
	}
	bomb := func(prefix []byte) alteration { // 1 GiB in 1 MB
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(prefix) // a buffer takes everything
		zeros := make([]byte, 1<<20)
		for range 1 << 10 {
			_, _ = w.Write(zeros) // a buffer takes everything
		}
		_ = w.Close()
		b := append(make([]byte, 61), packed.Bytes()...)
		b[16], b[22] = 2, 1                                  // version, codec
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12)) //nolint:gosec // small
		binary.BigEndian.PutUint32(b[57:], math.MaxInt32)    // records
		binary.BigEndian.PutUint32(b[17:], castagnoli(b[21:]))
		return records(func(p *kmsg.FetchResponseTopicPartition) { p.RecordBatches = b })
	}
	return []lie{
		{"2^31-1 records", "", first(func(b []byte) { binary.BigEndian.PutUint32(b[57:], math.MaxInt32) })},
		{"a negative number of records", "", first(func(b []byte) { binary.BigEndian.PutUint32(b[57:], math.MaxUint32) })},
		{"a record without end", "", first(func(b []byte) { copy(b[61:], bytes.Repeat([]byte{0xff}, 9)) })},
		{"a batch of a negative length", "", first(func(b []byte) { binary.BigEndian.PutUint32(b[8:], math.MaxUint32) })},
		{"random records", "", records(func(p *kmsg.FetchResponseTopicPartition) { p.RecordBatches = bytes.Repeat([]byte{2}, 5000) })},
		{"a bomb of one record", "", bomb(binary.AppendVarint(nil, 900<<20))},
		{"a bomb of many records", "", bomb(nil)},
	}
}

// hangUpOn closes the connection on the answer to records as well, so that the lane begins a
// session again.
func hangUpOn(alter alteration) alteration {
	return func(a kafkaAnswer) []byte {
		if a.Key == kmsg.Produce {
			return nil
		}
		return alter(a)
	}
}

// TestABrokersBytesEndNothing runs two lanes, one of them to a broker that lies: at the start of
// relay first, then later. For each lie, the process stays, its memory stays bounded, the other
// lane goes on, and the lane of the broker says which broker it is and goes on when the broker
// behaves again. Another command of relay ends with an error.
func TestABrokersBytesEndNothing(t *testing.T) {
	t.Parallel()
	const together = 3
	var all []lie
	for _, l := range liesOfFrames() {
		all = append(all, lie{l.name, "", l.alter})
	}
	all = append(all, liesOfAnswers()...)
	for _, l := range liesOfRecords() {
		all = append(all, lie{l.name, "to Fetch is not valid: ", hangUpOn(l.alter)})
	}
	for lies := range slices.Chunk(all, together) {
		t.Run(lies[0].name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			bus, js := newNATS(t)
			kafka := newHostileKafka(t)
			r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 200ms}
sinks:
- {name: nats, type: nats, url: %q}
- {name: kafka, type: kafka, brokers: [%q], request_timeout: 2s}
`, api.URL(), apiKey, bus, kafka.Broker))
			events := 0
			happen := func() {
				events++
				require.NoError(t, api.Append([]byte(newEvent(events, "user.created", 0).raw)))
			}
			otherLane := func() bool { return subjects(js)["user.created"] == uint64(events) }
			lane := func() bool { return r.Lane("kafka").Position.EventID == newEvent(events, "", 0).id }

			kafka.Turn(lies[0].alter)
			happen()
			r.Start(t)
			r.Await(t, otherLane, "the other lane begins")
			kafka.Turn(nil)
			r.Await(t, lane, "the lane begins as soon as the broker behaves")
			before := peakMemory(t, r.Pid())
			for _, l := range lies {
				altered := kafka.Turn(l.alter)
				happen()
				r.Await(t, otherLane, "%s: the other lane goes on", l.name)
				r.Await(t, func() bool {
					lane := r.Lane("kafka")
					return kafka.altered.Load() > altered && lane.State == pipeline.Retrying && strings.Contains(lane.Reason, kafka.Broker) && strings.Contains(lane.Reason, l.says)
				}, "%s: the lane names the broker", l.name)
				kafka.Turn(nil)
				r.Await(t, lane, "%s: the lane goes on", l.name)
				require.Less(t, peakMemory(t, r.Pid())-before, 96<<20, l.name)
			}
			require.Len(t, kafka.Read(t, events, "user.created"), events)
			require.NotContains(t, r.Output(), "panic")
			require.Zero(t, r.Stop(t))
		})
	}
}

// TestCommandsEndOnABrokersBytes runs commands of relay against a broker that lies. They end with
// an error that names it.
func TestCommandsEndOnABrokersBytes(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	kafka := newHostileKafka(t)
	r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 200ms}
sinks: [{name: kafka, type: kafka, brokers: [%q], request_timeout: 2s}]
`, api.URL(), apiKey, kafka.Broker))
	require.NoError(t, api.Append([]byte(newEvent(1, "user.created", 0).raw)))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("").AtTip && r.Lane("").Events == 1 }, "the event is published")
	require.Zero(t, r.Stop(t))
	for i, l := range slices.Concat(liesOfFrames()[:3], liesOfRecords()[3:4]) {
		kafka.Turn(l.alter)
		for _, command := range [][]string{{"check"}, {"verify", "--since", "earliest", "--until", "latest"}, {"checkpoint", "show"}} {
			if i == 3 && command[0] == "check" {
				continue // it reads no records
			}
			code, stdout, stderr := r.Run(t, command...)
			require.NotZero(t, code, "%s: relay %s: %s", l.name, command, stdout+stderr)
			require.NotContains(t, stdout+stderr, "goroutine ", "%s: relay %s", l.name, command)
			require.Contains(t, stdout+stderr, kafka.Broker, "%s: relay %s", l.name, command)
		}
	}
}
