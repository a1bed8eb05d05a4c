package client

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/addpartitionstotxn"
	"github.com/segmentio/kafka-go/protocol/alterpartitionreassignments"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/endtxn"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
	"github.com/segmentio/kafka-go/protocol/incrementalalterconfigs"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
)

// kafka-go decodes answers in its own goroutines, and trusts them: it allocates what an array or
// a string claims to hold before it has looked whether that is there, slices with negative sizes,
// and counts tags that are not there one by one. A panic in such a goroutine ends the process. So
// nothing reaches its decoder that has not been walked here first, by the same types and tags that
// the decoder follows: every length lies within the frame, every value is there, and what decoding
// allocates is bounded.

const (
	// largestSmallAnswer bounds the answers of the handshake: the requests that a broker knows, and
	// SASL.
	largestSmallAnswer = 64 << 10
	// largestAnswer bounds every other answer without records. That is the metadata of about
	// 150,000 partitions.
	largestAnswer = 8 << 20
	// LargestFetch bounds an answer with records: a broker keeps to fetchBytes, or sends one record
	// batch that is larger.
	LargestFetch = fetchBytes + MaxMessageBytes + 1<<20
	// largestDecoded bounds the memory that the decoded form of an answer takes.
	largestDecoded = 4 * largestAnswer
)

// sizeLimit returns the largest answer that the client takes to a request, in bytes without the
// size field.
func sizeLimit(key protocol.ApiKey) int {
	switch key {
	case protocol.ApiVersions, protocol.SaslHandshake, protocol.SaslAuthenticate:
		return largestSmallAnswer
	case protocol.Fetch:
		return LargestFetch
	default:
		return largestAnswer
	}
}

// answerTypes are the answers that kafka-go decodes. Fetch and metadataVersion of Metadata are read
// by this package.
var answerTypes = map[protocol.ApiKey]reflect.Type{
	protocol.Produce:                     reflect.TypeFor[produce.Response](),
	protocol.ListOffsets:                 reflect.TypeFor[listoffsets.Response](),
	protocol.Metadata:                    reflect.TypeFor[metadata.Response](),
	protocol.FindCoordinator:             reflect.TypeFor[findcoordinator.Response](),
	protocol.SaslHandshake:               reflect.TypeFor[saslhandshake.Response](),
	protocol.SaslAuthenticate:            reflect.TypeFor[saslauthenticate.Response](),
	protocol.ApiVersions:                 reflect.TypeFor[apiversions.Response](),
	protocol.CreateTopics:                reflect.TypeFor[createtopics.Response](),
	protocol.InitProducerId:              reflect.TypeFor[initproducerid.Response](),
	protocol.AddPartitionsToTxn:          reflect.TypeFor[addpartitionstotxn.Response](),
	protocol.EndTxn:                      reflect.TypeFor[endtxn.Response](),
	protocol.DescribeConfigs:             reflect.TypeFor[describeconfigs.Response](),
	protocol.IncrementalAlterConfigs:     reflect.TypeFor[incrementalalterconfigs.Response](),
	protocol.AlterPartitionReassignments: reflect.TypeFor[alterpartitionreassignments.Response](),
}

// decodedHere reports whether this package reads the answer itself, so that it does not reach
// kafka-go's decoder.
func decodedHere(key protocol.ApiKey, version int16) bool {
	return key == protocol.Fetch || key == protocol.Metadata && version == metadataVersion
}

// mostElements bounds lists whose elements cost kafka-go more than memory: it keeps connections by
// broker, and sorts topics.
var mostElements = map[reflect.Type]int{
	reflect.TypeFor[metadata.ResponseBroker](): 10_000,
	reflect.TypeFor[metadata.ResponseTopic]():  10_000,
}

// notNegative are numbers by which the client finds elements in its lists.
var notNegative = map[reflect.Type]string{reflect.TypeFor[metadata.ResponsePartition](): "PartitionIndex"}

// checkAnswer returns what is wrong with an answer, nil if kafka-go can decode it safely. frame is
// all of it behind the size field. An answer of a kind or version that is not known here is an
// error.
func checkAnswer(key protocol.ApiKey, version int16, frame []byte) error {
	s, err := shapeOf(key, version)
	if err != nil {
		return err
	}
	w := &walker{rest: frame}
	w.skip(4) // correlation id
	if s.flexible {
		w.tags(nil)
	}
	s.check(w)
	if w.fault != "" {
		return fmt.Errorf("%s at byte %d of %d", w.fault, w.at, len(frame))
	}
	return nil
}

// shape is how an answer of one kind and version is laid out.
type shape struct {
	flexible bool
	check    check
}

// check moves a walker over a value of one type.
type check func(*walker)

type shapeKey struct {
	key     protocol.ApiKey
	version int16
}

var shapes sync.Map // of shape by shapeKey

func shapeOf(key protocol.ApiKey, version int16) (shape, error) {
	at := shapeKey{key, version}
	if s, ok := shapes.Load(at); ok {
		return s.(shape), nil
	}
	t, ok := answerTypes[key]
	if !ok {
		return shape{}, fmt.Errorf("relay does not know how an answer to %s is laid out", key)
	}
	least, most, flexibleSince := versionsOf(t)
	if version < least || version > most {
		return shape{}, fmt.Errorf("relay does not know how version %d of it is laid out", version)
	}
	s := shape{flexible: flexibleSince >= 0 && version >= flexibleSince}
	s.check = checkOf(t, version, s.flexible)
	shapes.Store(at, s)
	return s, nil
}

// fieldTag is one alternative of a tag such as `kafka:"min=v0,max=v2|min=v3,max=v3,compact"`.
type fieldTag struct {
	least, most int16
	id          int // of a tagged field; -1 marks a message that has tags, -2 is a field like any other
}

func (t fieldTag) holds(version int16) bool { return t.least <= version && version <= t.most }

// fields calls fn for each field of a message's type that kafka-go decodes.
func fields(t reflect.Type, fn func(f reflect.StructField, tags []fieldTag)) {
	for f := range t.Fields() {
		text, ok := f.Tag.Lookup("kafka")
		if !ok || text == "-" || !f.IsExported() && f.Name != "_" {
			continue
		}
		var tags []fieldTag
		for alternative := range strings.SplitSeq(text, "|") {
			tags = append(tags, parseTag(alternative))
		}
		fn(f, tags)
	}
}

func parseTag(text string) fieldTag {
	tag := fieldTag{least: -1, most: -1, id: -2}
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > math.MaxInt16 {
			panic(fmt.Sprintf("kafka-go has a tag %q", text)) // it would have panicked itself
		}
		return n
	}
	for option := range strings.SplitSeq(text, ",") {
		switch name, value, _ := strings.Cut(option, "="); name {
		case "min":
			tag.least = int16(number(strings.TrimPrefix(value, "v"))) //nolint:gosec // within bounds
		case "max":
			tag.most = int16(number(strings.TrimPrefix(value, "v"))) //nolint:gosec // within bounds
		case "tag":
			tag.id = -1
			if value != "" {
				tag.id = number(value)
			}
		}
	}
	return tag
}

// versionsOf returns the versions of a message and the first one that is flexible, -1 if none is.
func versionsOf(t reflect.Type) (least, most, flexibleSince int16) {
	least, most, flexibleSince = -1, -1, -1
	fields(t, func(_ reflect.StructField, tags []fieldTag) {
		for _, tag := range tags {
			if least < 0 || tag.least < least {
				least = tag.least
			}
			most = max(most, tag.most)
			if tag.id > -2 && (flexibleSince < 0 || tag.least < flexibleSince) {
				flexibleSince = tag.least
			}
		}
	})
	return least, most, flexibleSince
}

var readerFrom = reflect.TypeFor[io.ReaderFrom]()

// checkOf returns the check for a type as kafka-go decodes it. It panics on a type that kafka-go
// does not decode either.
func checkOf(t reflect.Type, version int16, flexible bool) check {
	if reflect.PointerTo(t).Implements(readerFrom) {
		panic(fmt.Sprintf("records are not for kafka-go to decode: %s", t))
	}
	switch t.Kind() {
	case reflect.Bool, reflect.Int8:
		return func(w *walker) { w.skip(1) }
	case reflect.Int16:
		return func(w *walker) { w.skip(2) }
	case reflect.Int32:
		return func(w *walker) { w.skip(4) }
	case reflect.Int64, reflect.Float64:
		return func(w *walker) { w.skip(8) }
	case reflect.String:
		if flexible {
			return func(w *walker) { w.bytes(w.compactLength("a string")) }
		}
		return func(w *walker) { w.bytes(w.length("a string", 2)) }
	case reflect.Struct:
		return checkOfStruct(t, version, flexible)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			if flexible {
				return func(w *walker) { w.bytes(w.compactLength("a byte string")) }
			}
			return func(w *walker) { w.bytes(w.length("a byte string", 4)) }
		}
		a := array{check: checkOf(t.Elem(), version, flexible), size: int(t.Elem().Size()), most: math.MaxInt}
		if most, ok := mostElements[t.Elem()]; ok {
			a.most = most
		}
		if flexible {
			return func(w *walker) { w.array(w.compactLength("an array"), a) }
		}
		return func(w *walker) { w.array(w.length("an array", 4), a) }
	default:
		panic(fmt.Sprintf("kafka-go does not decode a %s", t))
	}
}

func checkOfStruct(t reflect.Type, version int16, flexible bool) check {
	var inOrder []check
	tagged := make(map[int]check)
	fields(t, func(f reflect.StructField, tags []fieldTag) {
		for _, tag := range tags {
			if !tag.holds(version) {
				continue
			}
			c := checkOf(f.Type, version, flexible)
			if f.Name == notNegative[t] {
				c = checkIndex
			}
			switch {
			case tag.id < -1:
				inOrder = append(inOrder, c)
			case tag.id >= 0:
				tagged[tag.id] = c
			}
			return
		}
	})
	return func(w *walker) {
		for _, c := range inOrder {
			c(w)
		}
		if flexible {
			w.tags(tagged)
		}
	}
}

// checkIndex is the check for a number of 4 bytes that is not negative.
func checkIndex(w *walker) {
	if len(w.rest) >= 4 && w.rest[0]&0x80 != 0 {
		w.fail("it has a negative index")
	}
	w.skip(4)
}

// walker goes through an encoded answer. After a fault it does not move on.
type walker struct {
	rest   []byte
	at     int
	memory int    // that the decoded values take
	fault  string // the first one
}

func (w *walker) fail(format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
		w.rest = nil
	}
}

// skip moves on by n bytes.
func (w *walker) skip(n int) {
	if n > len(w.rest) {
		w.fail("it ends within a value")
		return
	}
	w.rest, w.at = w.rest[n:], w.at+n
}

// allocate accounts for memory that decoding takes.
func (w *walker) allocate(n int) {
	if w.memory += n; w.memory > largestDecoded {
		w.fail("it holds more than relay takes (%d bytes decoded)", largestDecoded)
	}
}

// bytes moves over a string or a byte string of that length; -1 is null.
func (w *walker) bytes(length int) {
	if length > 0 {
		w.allocate(length)
		w.skip(length)
	}
}

// array is what the elements of an array have in common.
type array struct {
	check check
	size  int // in bytes, of a decoded one
	most  int // that the client takes
}

// array moves over an array of that length; -1 is null.
func (w *walker) array(length int, a array) {
	if length <= 0 {
		return
	}
	if length > a.most {
		w.fail("it lists %d of what relay takes %d of", length, a.most)
		return
	}
	w.allocate(length * a.size)
	for ; length > 0 && w.fault == ""; length-- {
		a.check(w)
	}
}

// length reads the length of a value, a signed number of so many bytes, and checks that the value
// can be there. Negative lengths stand for null and are returned as -1.
func (w *walker) length(what string, bytes int) int {
	var n int
	switch head := w.rest; {
	case len(head) < bytes:
		w.fail("it ends within a value")
		return -1
	case bytes == 2:
		n = int(int16(binary.BigEndian.Uint16(head))) //nolint:gosec // its bits
	default:
		n = int(int32(binary.BigEndian.Uint32(head))) //nolint:gosec // its bits
	}
	w.skip(bytes)
	if n < 0 {
		return -1
	}
	return w.within(what, uint64(n))
}

// compactLength reads the length of a value in the flexible encoding.
func (w *walker) compactLength(what string) int {
	n := w.uvarint()
	if n == 0 {
		return -1
	}
	return w.within(what, n-1)
}

// within returns the length n of a value if so many bytes are left. Each element of an array takes
// at least one.
func (w *walker) within(what string, n uint64) int {
	if n > uint64(len(w.rest)) {
		w.fail("it claims %s of length %d with %d bytes left", what, n, len(w.rest))
		return -1
	}
	return int(n) //nolint:gosec // at most len(w.rest)
}

func (w *walker) uvarint() uint64 {
	v, n := binary.Uvarint(w.rest)
	if n <= 0 {
		w.fail("it has a number that does not end")
		return 0
	}
	w.skip(n)
	return v
}

// tags moves over tagged fields. Those that kafka-go knows are decoded without regard to the size
// before them.
func (w *walker) tags(known map[int]check) {
	for n := w.within("tagged fields", w.uvarint()); n > 0 && w.fault == ""; n-- {
		id := w.uvarint()
		size := w.within("a tag", w.uvarint())
		if id > math.MaxInt32 {
			w.fail("it has a tag numbered %d", id)
		}
		if c, ok := known[int(id)]; ok && w.fault == "" { //nolint:gosec // within bounds
			c(w)
			continue
		}
		w.bytes(size)
	}
}
