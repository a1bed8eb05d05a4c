package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

const (
	// tailOffsets is how far from the end the first look for the position begins; each further look
	// goes twice as far. A transaction takes two offsets, one for the position and one for its end.
	tailOffsets = 64

	// missingLooks is how often a topic that is not there is looked for, over about a second,
	// before that is believed without the controller's word: a broker that has just started may not
	// know of it yet.
	missingLooks = 4
)

// positionKey is the key of every position, so that compaction keeps the last.
var positionKey = []byte("position")

// revisionOf is the revision of the position at an offset. 0 stands for none.
func revisionOf(offset int64) uint64 { return uint64(offset) + 1 } //nolint:gosec // offsets are not negative

// positionLog reads the position of a lane from its topic. It is safe for concurrent use.
type positionLog struct {
	*common
	reader *topicReader
	admin  *positionAdmin
	id     checkpoint.Identity // whose position it is
	topic  string
}

// isKnownPosition reports whether err tells for certain what the current position is: nothing, or
// something that cannot be used.
func isKnownPosition(err error) bool {
	return errors.Is(err, checkpoint.ErrNotFound) || errors.Is(err, checkpoint.ErrLost) ||
		errors.Is(err, checkpoint.ErrCorrupt) || errors.Is(err, checkpoint.ErrForeign)
}

// decode decodes a position and checks whose it is.
func (l *positionLog) decode(document []byte, revision uint64) (checkpoint.Checkpoint, error) {
	c, err := checkpoint.Decode(document)
	if err != nil {
		return checkpoint.Checkpoint{Revision: revision}, fmt.Errorf("the record at offset %d of kafka topic %s: %w", revision-1, l.topic, err)
	}
	c.Revision = revision
	if err := l.id.Check(c.Source); err != nil {
		return c, fmt.Errorf("kafka topic %s: %w", l.topic, err)
	}
	return c, nil
}

// read returns the current position, and the revision that the next one replaces. own is the
// offset of a position that this ledger has committed, for which no mark need be there yet; -1 for
// none.
func (l *positionLog) read(ctx context.Context, own int64) (c checkpoint.Checkpoint, revision uint64, err error) {
	var document []byte
	err = l.retryTransient(ctx, func(ctx context.Context) error {
		for look := 1; ; look++ {
			var undecided bool
			document, revision, undecided, err = l.readNow(ctx, own)
			if !undecided || look == undecidedLooks {
				return err
			}
			if retry.Sleep(ctx, undecidedPause) != nil {
				return context.Cause(ctx)
			}
		}
	})
	switch {
	case err == nil:
		c, err = l.decode(document, revision)
		return c, revision, err
	case errors.Is(err, checkpoint.ErrNotFound), errors.Is(err, checkpoint.ErrLost):
		return c, revision, err
	case ctx.Err() != nil:
		return c, 0, fmt.Errorf("reading the position from kafka topic %s: %w", l.topic, l.interrupted(ctx, err))
	case client.IsDenied(err):
		return c, 0, &sink.FatalError{Err: fmt.Errorf("relay may not read its position in kafka topic %s; grant it by %s: %w",
			l.topic, l.topicACL(l.topic, "Read", "Write", "Describe"), err)}
	}
	return c, 0, fmt.Errorf("reading the position from kafka topic %s: %w", l.topic, l.explain(err))
}

// A broker answers that a transaction is committed a moment before its mark is in the topic. Load
// waits that long for what is not decided; a transaction that a dead relay left open stays
// undecided, and the position before it is then the current one.
const (
	undecidedLooks = 5
	undecidedPause = 50 * time.Millisecond
)

// readNow also reports whether a later position is in a transaction that is not decided yet.
func (l *positionLog) readNow(ctx context.Context, own int64) (document []byte, revision uint64, undecided bool, err error) {
	if err := l.find(ctx); err != nil {
		return nil, 0, false, err
	}
	partition := []client.Partition{{Topic: l.topic, Number: 0}}
	ends, err := l.reader.offsets(ctx, partition, client.EarliestOffset)
	if err != nil {
		return nil, 0, false, err
	}
	first := ends[partition[0]]
	if ends, err = l.reader.offsets(ctx, partition, client.LatestOffset); err != nil {
		return nil, 0, false, err
	}
	end := ends[partition[0]] // the high watermark: the last stable offset may be held back, and an old position come out
	for span := int64(tailOffsets); ; span *= 2 {
		from := max(first, end-span)
		s := scan{own: own, open: make(map[int64]found), last: found{offset: -1}}
		if err := l.scan(ctx, &s, from, end); err != nil {
			return nil, 0, false, err
		}
		switch {
		case s.last.offset >= 0 && s.last.document != nil:
			return s.last.document, revisionOf(s.last.offset), len(s.open) > 0, nil
		case s.last.offset >= 0:
			return nil, revisionOf(s.last.offset), false, fmt.Errorf("%w: it was removed from kafka topic %s", checkpoint.ErrNotFound, l.topic)
		case from == first && first > 0:
			return nil, 0, false, fmt.Errorf("%w: kafka topic %s held positions before offset %d and does not any more: they were deleted, by hand or "+
				"by retention; say where to go on", checkpoint.ErrLost, l.topic, first)
		case from == first:
			return nil, 0, len(s.open) > 0, fmt.Errorf("%w in kafka topic %s", checkpoint.ErrNotFound, l.topic)
		}
	}
}

// find makes sure that the topic is there and has a leader, and returns ErrNotFound if it is
// certain that it is not: the controller says so, or the brokers do for about a second.
func (l *positionLog) find(ctx context.Context) error {
	for look := 1; ; look++ {
		answer, err := l.cluster.Describe(ctx, []string{l.topic})
		if err != nil {
			return err
		}
		switch t := answer.Topics[0]; kafkago.Error(t.ErrorCode) {
		case 0, kafkago.LeaderNotAvailable:
			if len(t.Partitions) == 0 || t.Partitions[0].LeaderID < 0 {
				return kafkago.LeaderNotAvailable
			}
			return nil
		case kafkago.UnknownTopicOrPartition:
			exists, known := false, false
			if look == 1 {
				exists, known = l.admin.exists(ctx)
			}
			if exists {
				return kafkago.LeaderNotAvailable // this broker will learn of the topic
			}
			if known || look == missingLooks {
				return fmt.Errorf("%w: there is no kafka topic %s", checkpoint.ErrNotFound, l.topic)
			}
		default:
			return kafkago.Error(t.ErrorCode)
		}
		l.cluster.Refresh()
		if retry.Sleep(ctx, client.Retries.After(look+1)) != nil {
			return context.Cause(ctx)
		}
	}
}

// scan is the search for the last committed position in a stretch of the partition.
type scan struct {
	own       int64           // offset of a position that is committed for certain
	open      map[int64]found // by producer id: the position in its transaction, which is not decided yet
	openBytes int             // of the positions in open
	last      found           // committed
}

// found is a position. A nil document is a tombstone.
type found struct {
	offset   int64
	document []byte
}

// size is about what f takes in a map.
func (f found) size() int { return len(f.document) + 64 }

// scan reads everything from one offset to another, committed or not.
func (l *positionLog) scan(ctx context.Context, s *scan, from, end int64) error {
	for from < end {
		answer, err := l.cluster.Fetch(ctx, client.Partition{Topic: l.topic, Number: 0}, client.ReadUncommitted, from)
		if errors.Is(err, kafkago.OffsetOutOfRange) { // it lay within the log a moment ago
			return errors.New("the beginning of the topic was deleted just now")
		}
		if err != nil {
			return err
		}
		if from, err = client.Walk(answer, from, positionBounds, s.record); err != nil {
			return err
		}
	}
	return nil
}

// positionBounds hold for topics of positions: what a transaction leaves there is small.
var positionBounds = client.ReadBounds{Record: checkpoint.MaxEncoded + 64<<10, Batch: client.LargestFetch}

// largestOpen bounds the positions in transactions that are not decided, in bytes. There is seldom
// more than one.
const largestOpen = 4 * checkpoint.MaxEncoded

const controlKeyBytes = 4

// The types of control records that end a transaction:
// https://kafka.apache.org/documentation/#controlbatch
const (
	controlAbort  = 0
	controlCommit = 1
)

// record notes a position, or what became of the one in a transaction.
func (s *scan) record(e client.Record) error {
	if e.Control {
		if len(e.Key) != controlKeyBytes {
			return fmt.Errorf("the control record at offset %d has a key of %d bytes", e.Offset, len(e.Key))
		}
		end := binary.BigEndian.Uint16(e.Key[2:]) // behind its version
		if f, ok := s.open[e.Producer]; ok && end == controlCommit {
			s.commit(f)
		}
		if end == controlCommit || end == controlAbort {
			s.close(e.Producer)
		}
		return nil
	}
	if !bytes.Equal(e.Key, positionKey) {
		return nil
	}
	f := found{offset: e.Offset, document: bytes.Clone(e.Value)} // nil for null
	if e.Transactional && e.Offset != s.own {
		s.close(e.Producer)
		if s.openBytes += f.size(); s.openBytes > largestOpen {
			return fmt.Errorf("the open transactions up to offset %d hold positions of more than %d bytes", e.Offset, largestOpen)
		}
		s.open[e.Producer] = f
		return nil
	}
	s.commit(f)
	return nil
}

// close forgets the position in the transaction of a producer.
func (s *scan) close(producer int64) {
	if f, ok := s.open[producer]; ok {
		s.openBytes -= f.size()
		delete(s.open, producer)
	}
}

func (s *scan) commit(f found) {
	if f.offset > s.last.offset {
		s.last = f
	}
}
