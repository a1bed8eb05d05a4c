package app

import (
	"context"
	"hash/maphash"

	"github.com/tidwall/gjson"

	"workos-relay/internal/snapshot"
	"workos-relay/router"
	"workos-relay/sink"
)

// storedState reads back the state that a lane keeps on its bus.
type storedState struct {
	reader   sink.StateReader
	topics   []sink.StateTopic
	encoding router.Encoding
	seed     maphash.Seed
	most     int // keys that are remembered at once; more are read in parts
}

// mostKeys takes some 10 MB.
const mostKeys = 200_000

// stored returns what reads back the state that the lane has on a bus, or nil if the bus cannot.
func (l *Lane) stored(bus sink.Sink) snapshot.Stored {
	reader, ok := bus.(sink.StateReader)
	if !ok {
		return nil
	}
	return &storedState{reader: reader, topics: l.Router.StateTopics(), encoding: l.Config.Encoding, seed: maphash.MakeSeed(), most: mostKeys}
}

// Each implements snapshot.Stored. A topic is read twice: a reader may tell of older versions of an
// object, and only the first reading shows which one is the last. While the keys are too many to be
// remembered at once, a part of them is read at a time.
func (s *storedState) Each(ctx context.Context, entity string, fn func(key string, value []byte, headers []sink.Header) error) error {
	for _, topic := range s.topics {
		if topic.Entity != entity {
			continue
		}
		for p := (part{}); p.index>>p.bits == 0; {
			last, fits, err := s.last(ctx, topic, p)
			if err != nil {
				return err
			}
			if !fits {
				p = part{2 * p.index, p.bits + 1}
				continue
			}
			if err := s.tell(ctx, topic, p, last, fn); err != nil {
				return err
			}
			p.index++
		}
	}
	return nil
}

// part is those of the keys whose hash begins with so many bits of index.
type part struct {
	index uint64
	bits  uint
}

func (p part) has(hash uint64) bool { return hash>>(64-p.bits) == p.index }

// last returns the offset of the last version of each key of a part, by the hash of the key, and
// whether they are few enough.
func (s *storedState) last(ctx context.Context, topic sink.StateTopic, p part) (last map[uint64]int64, fits bool, err error) {
	last, fits = map[uint64]int64{}, true
	err = s.reader.ReadState(ctx, topic, func(m *sink.Stored) error {
		if at := maphash.Bytes(s.seed, m.Key); fits && p.has(at) {
			last[at] = m.Offset
			fits = len(last) <= s.most
		}
		return nil
	})
	return last, fits, err
}

// tell calls fn for the last versions, except for those that were removed.
func (s *storedState) tell(ctx context.Context, topic sink.StateTopic, p part, last map[uint64]int64, fn func(key string, value []byte, headers []sink.Header) error) error {
	return s.reader.ReadState(ctx, topic, func(m *sink.Stored) error {
		at := maphash.Bytes(s.seed, m.Key)
		if !p.has(at) || m.Body == nil || m.Offset != last[at] {
			return nil
		}
		value := m.Body
		if s.encoding == router.CloudEventsStructured {
			value = []byte(gjson.GetBytes(value, "data").Raw)
		}
		return fn(string(m.Key), value, m.Headers)
	})
}
