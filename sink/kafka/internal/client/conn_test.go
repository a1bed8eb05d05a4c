package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math"
	"net"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/alterpartitionreassignments"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
	"github.com/segmentio/kafka-go/protocol/incrementalalterconfigs"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/stretchr/testify/require"
)

// asked are the requests that relay sends.
var asked = []func() protocol.Message{
	func() protocol.Message { return &rawproduce.Request{Acks: acksAll} },
	func() protocol.Message { return &fetchRequest{Request: fetch.Request{}} },
	func() protocol.Message { return &listOffsets{Topics: []listoffsets.RequestTopic{}} },
	func() protocol.Message { return &metadata.Request{} },
	func() protocol.Message { return &metadataWithIDs{} },
	func() protocol.Message { return &findcoordinator.Request{} },
	func() protocol.Message { return &saslhandshake.Request{} },
	func() protocol.Message { return &saslauthenticate.Request{} },
	func() protocol.Message { return &apiversions.Request{} },
	func() protocol.Message { return &createtopics.Request{} },
	func() protocol.Message { return &initProducer{} },
	func() protocol.Message { return &addPartitions{} },
	func() protocol.Message { return &endTransaction{} },
	func() protocol.Message { return &describeconfigs.Request{} },
	func() protocol.Message { return &incrementalalterconfigs.Request{} },
	func() protocol.Message { return &alterpartitionreassignments.Request{} },
}

// canned is a connection that takes everything and gives what it holds.
type canned struct {
	net.Conn
	in *bytes.Reader
}

func (c *canned) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *canned) Write(b []byte) (int, error) { return len(b), nil }
func (c *canned) SetDeadline(time.Time) error { return nil }
func (c *canned) Close() error                { return nil }

// connTo returns a connection whose broker answers with sent.
func connTo(sent []byte) *brokerConn {
	c := NewCluster(context.Background(), Config{Brokers: []string{"kafka-1:9092"}, RequestTimeout: time.Second})
	raw := &canned{in: bytes.NewReader(sent)}
	return &brokerConn{Conn: raw, raw: raw, in: bufio.NewReader(raw), cluster: c, address: "kafka-1:9092", closed: make(chan struct{})}
}

// ask sends a request in a version through kafka-go, as its transport does. version counts from the
// oldest that both know.
func ask(conn net.Conn, req protocol.Message, version int16) (protocol.Message, error) {
	pc := protocol.NewConn(conn, "relay")
	least, most := req.ApiKey().MinVersion(), req.ApiKey().MaxVersion()
	pc.SetVersions(map[protocol.ApiKey]int16{req.ApiKey(): least + version%(most-least+1), protocol.SaslHandshake: 1})
	return pc.RoundTrip(req)
}

// answerFrame puts a size and the correlation id that ask uses before the body of an answer.
func answerFrame(req protocol.Message, body ...byte) []byte {
	id := uint32(1)
	switch req.(type) {
	case *fetchRequest, *metadataWithIDs:
		id = ownCorrelation
	}
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), id)[:8:8]
}

// FuzzAnswer gives any bytes to kafka-go, through the connection, as the answer to each request: as
// they are, or as the body of a frame. Nothing panics, and nothing takes much more memory than the
// bytes themselves.
func FuzzAnswer(f *testing.F) {
	huge := []byte{0x7f, 0xff, 0xff, 0xff}
	for kind := range asked {
		for _, version := range []byte{0, 3, 8, 11} {
			f.Add(byte(kind), version, true, make([]byte, 64))
			f.Add(byte(kind), version, true, bytes.Repeat([]byte{0xff}, 64))
			f.Add(byte(kind), version, true, append(make([]byte, 4), huge...))
			f.Add(byte(kind), version, true, append(make([]byte, 2), huge...))
			f.Add(byte(kind), version, true, huge)
			f.Add(byte(kind), version, true, bytes.Repeat([]byte{1}, 200))
		}
		f.Add(byte(kind), byte(0), false, []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1})
		f.Add(byte(kind), byte(0), false, []byte{0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1})
		f.Add(byte(kind), byte(0), false, []byte{0, 0, 0, 0})
		f.Add(byte(kind), byte(0), false, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	}
	f.Fuzz(func(t *testing.T, kind, version byte, framed bool, data []byte) {
		req := asked[int(kind)%len(asked)]()
		sent := data
		if framed {
			sent = append(answerFrame(req, data...), data...)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		res, err := ask(connTo(sent), req, int16(version))
		if answer, ok := res.(*fetchAnswer); ok && err == nil {
			for _, p := range answer.partitions {
				_, _ = Walk(&p.Fetched, 0, ReadBounds{Record: 1 << 20, Batch: 4 << 20}, func(Record) error { return nil })
			}
		}
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20+32*len(data)))
	})
}

// TestAnswerThatIsNotValid sends what each kind of answer may lie about, and expects an error that
// names the broker and the request.
func TestAnswerThatIsNotValid(t *testing.T) {
	count := func(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	all := slices.Concat[[]byte]
	meta, versions := &metadata.Request{}, &apiversions.Request{}
	for name, tt := range map[string]struct {
		req     protocol.Message
		version int16
		sent    []byte
		says    string
	}{
		"a negative size":               {versions, 0, count(-1), "its size is given as -1 bytes"},
		"the smallest size":             {versions, 0, count(math.MinInt32), "its size is given as -2147483648 bytes"},
		"a size of 2 GB":                {meta, 0, count(math.MaxInt32), "its size is given as 2147483647 bytes"},
		"HTTP":                          {versions, 0, []byte("HTTP/1.1 400 Bad Request"), `its size is given as 1213486160 bytes (it begins with "HTTP")`},
		"an alert of TLS":               {versions, 0, []byte{0x15, 3, 3, 0, 2, 2, 80}, "it is an alert of TLS"},
		"nothing":                       {versions, 0, count(0), "it has 0 bytes"},
		"half a correlation id":         {versions, 0, all(count(2), []byte{0, 0}), "it has 2 bytes"},
		"another correlation id":        {versions, 0, all(count(10), count(2), make([]byte, 6)), "it answers another request"},
		"2^31-1 requests":               {versions, 0, all(count(10), count(1), []byte{0, 0}, count(math.MaxInt32)), "it claims an array of length 2147483647"},
		"one request, and no more":      {versions, 0, all(count(10), count(1), []byte{0, 0}, count(1)), "it claims an array of length 1 with 0 bytes left"},
		"half a request":                {versions, 0, all(count(12), count(1), []byte{0, 0}, count(1), []byte{0, 1}), "it ends within a value"},
		"no body":                       {versions, 0, all(count(4), count(1)), "it ends within a value"},
		"a string of 32 KB":             {meta, 0, all(count(20), count(1), count(1), count(1), []byte{0x7f, 0xff}, make([]byte, 6)), "it claims a string of length 32767"},
		"brokers beyond the frame":      {meta, 0, all(count(12), count(1), count(1<<20), make([]byte, 4)), "it claims an array of length 1048576"},
		"a compact array of 2^63":       {&alterpartitionreassignments.Request{}, 0, all(count(4+1+4+2+1+10), count(1), []byte{0}, count(0), []byte{0, 0, 0}, bytes.Repeat([]byte{0xff}, 9), []byte{1}), "it claims an array of length"},
		"2^63 tags":                     {&endTransaction{}, 3, all(count(4+10), count(1), bytes.Repeat([]byte{0xff}, 9), []byte{1}), "it claims tagged fields of length"},
		"2^63 tags at the end":          {&endTransaction{}, 3, all(count(4+1+6+10), count(1), []byte{0}, make([]byte, 6), bytes.Repeat([]byte{0xff}, 9), []byte{1}), "it claims tagged fields of length"},
		"a tag of 2^63 bytes":           {&endTransaction{}, 3, all(count(4+1+6+12), count(1), []byte{0}, make([]byte, 6), []byte{1, 9}, bytes.Repeat([]byte{0xff}, 9), []byte{1}), "it claims a tag of length"},
		"a number without end":          {&endTransaction{}, 3, all(count(4+11), count(1), bytes.Repeat([]byte{0xff}, 11)), "it has a number that does not end"},
		"a negative partition":          {meta, 0, all(count(4+4+4+2+3+4+8), count(1), count(0), count(1), []byte{0, 0, 0, 1, 'x'}, count(1), []byte{0, 0}, count(-1), []byte{0, 0}), "it has a negative index"},
		"too many brokers":              {meta, 0, all(count(4+4+8_000_000), count(1), count(20_000), make([]byte, 8_000_000)), "it lists 20000 of what relay takes 10000 of"},
		"more decoded than relay takes": {&describeconfigs.Request{}, 0, all(count(4+4+4+8_000_000), count(1), count(0), count(700_000), make([]byte, 8_000_000)), "it holds more than relay takes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask(connTo(append(tt.sent, make([]byte, 100)...)), tt.req, tt.version)
			var bad *BadAnswerError
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, "the answer of kafka-1:9092 to "+tt.req.ApiKey().String()+" is not valid: "+tt.says)
		})
	}
}

// TestAnswerFromAnOlderRequest: what comes behind an answer does not reach kafka-go as the answer
// to the next request.
func TestAnswerFromAnOlderRequest(t *testing.T) {
	answer := func(id byte) []byte { return []byte{0, 0, 0, 10, 0, 0, 0, id, 0, 0, 0, 0, 0, 0} }
	conn := connTo(slices.Concat(answer(1), answer(7), answer(3)))
	pc := protocol.NewConn(conn, "relay")
	_, err := pc.RoundTrip(&apiversions.Request{})
	require.NoError(t, err)
	_, err = pc.RoundTrip(&apiversions.Request{})
	require.ErrorContains(t, err, "it answers another request (correlation id 00000007 in place of 00000002)")
	_, err = pc.RoundTrip(&apiversions.Request{})
	require.ErrorContains(t, err, "it answers another request", "nothing more is read")
}

// TestAnswerToAToken: brokers before Kafka 1.0 take the tokens of SASL without a header, and tokens
// may look like one.
func TestAnswerToAToken(t *testing.T) {
	token := func(size ...byte) []byte { return append(size, "token"...) }
	for name, tt := range map[string]struct {
		sent []byte
		says string
	}{
		"as it should be": {token(0, 0, 0, 5), ""},
		"a negative size": {token(0xff, 0xff, 0xff, 0xff), "the answer of kafka-1:9092 to a SASL token is not valid: its size is given as -1 bytes"},
		"a size of 2 GB":  {token(0x7f, 0xff, 0xff, 0xff), "its size is given as 2147483647 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			pc := protocol.NewConn(connTo(tt.sent), "relay")
			pc.SetVersions(map[protocol.ApiKey]int16{protocol.SaslHandshake: 0})
			res, err := pc.RoundTrip(&saslauthenticate.Request{AuthBytes: []byte("\x00\x03\x00\x00and something that is long")})
			if tt.says != "" {
				require.ErrorContains(t, err, tt.says)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "token", string(res.(*saslauthenticate.Response).AuthBytes))
		})
	}
}

// TestAnswersAreKnown: every request that relay sends has an answer whose layout is checked in
// every version, or that it reads itself.
func TestAnswersAreKnown(t *testing.T) {
	for _, make := range asked {
		req := make()
		for v := req.ApiKey().MinVersion(); v <= req.ApiKey().MaxVersion(); v++ {
			if !decodedHere(req.ApiKey(), v) {
				_, err := shapeOf(req.ApiKey(), v)
				require.NoError(t, err, "%s %d", req.ApiKey(), v)
			}
		}
	}
	require.Len(t, answerTypes, len(asked)-2, "and no other")
	_, err := shapeOf(protocol.JoinGroup, 0)
	require.Error(t, err)
	_, err = shapeOf(protocol.Metadata, 9)
	require.Error(t, err)
}

// TestCheckAgreesWithKafkaGo encodes answers of every version with kafka-go, filled with values,
// and checks them.
func TestCheckAgreesWithKafkaGo(t *testing.T) {
	for key, typ := range answerTypes {
		for v := key.MinVersion(); v <= key.MaxVersion(); v++ {
			answer := reflect.New(typ)
			fill(answer.Elem(), 3)
			var b bytes.Buffer
			require.NoError(t, protocol.WriteResponse(&b, v, 1, answer.Interface().(protocol.Message)))
			frame := b.Bytes()[frameSizeBytes:]
			require.NoError(t, checkAnswer(key, v, frame), "%s %d", key, v)
			_, decoded, err := protocol.ReadResponse(bytes.NewReader(b.Bytes()), key, v)
			require.NoError(t, err)
			require.NotNil(t, decoded)
			for cut := range frame { // kafka-go reads all of it, and so does the check
				require.Error(t, checkAnswer(key, v, frame[:cut]), "%s %d cut at %d of %d", key, v, cut, len(frame))
			}
		}
	}
}

// fill sets every field to something, and gives each list a few elements.
func fill(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i), depth)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), depth, depth))
		for i := range depth {
			fill(v.Index(i), depth-1)
		}
	case reflect.String:
		v.SetString("some text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(7)
	default:
		v.SetInt(5)
	}
}

// TestAnswerGrowsWithWhatComes: a size that is a lie takes no memory.
func TestAnswerGrowsWithWhatComes(t *testing.T) {
	for _, req := range []protocol.Message{&metadata.Request{}, &fetchRequest{}} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		limit := sizeLimit(req.ApiKey())
		sent := append(binary.BigEndian.AppendUint32(nil, uint32(limit)), answerFrame(req)[frameSizeBytes:]...)
		_, err := ask(connTo(append(sent, make([]byte, 1000)...)), req, 11)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), req.ApiKey()) // the race detector counts some twice
	}
}
