package app

import (
	"context"
	"errors"
	"hash/maphash"
	"io"

	"workos-relay/internal/snapshot"
	"workos-relay/router"
	"workos-relay/sink"
)

// Objects reads the state that a lane keeps on its bus.
type Objects struct {
	reader sink.StateReader
	router *router.Router
	seed   maphash.Seed
	most   int // keys that are remembered at once; more are read in parts
}

// mostKeys takes some 15 MB.
const mostKeys = 200_000

// Objects returns what reads the state of the lane on a bus, or nil if the bus cannot be read back.
func (l *Lane) Objects(bus sink.Sink) *Objects {
	reader, ok := bus.(sink.StateReader)
	if !ok {
		return nil
	}
	return &Objects{reader: reader, router: l.Router, seed: maphash.MakeSeed(), most: mostKeys}
}

// stored is Objects for the snapshots of the lane; nil if the bus cannot be read back.
func (l *Lane) stored(bus sink.Sink) snapshot.Stored {
	if o := l.Objects(bus); o != nil {
		return o
	}
	return nil
}

// Each implements snapshot.Stored. It calls fn for each object of an entity.
func (o *Objects) Each(ctx context.Context, entity string, fn func(key string, value []byte, headers []sink.Header) error) error {
	for _, topic := range o.router.StateTopics() {
		if topic.Entity == entity {
			return o.Newest(ctx, topic, func(m *sink.Stored) error { return fn(string(m.Key), o.router.ObjectIn(m.Body), m.Headers) })
		}
	}
	return nil
}

// Empty implements snapshot.Stored.
func (o *Objects) Empty(ctx context.Context, entity string) (bool, error) {
	holds := false
	for _, topic := range o.router.StateTopics() {
		if topic.Entity != entity {
			continue
		}
		err := o.reader.ReadState(ctx, topic, func(*sink.Stored) error {
			holds = true
			return io.EOF // one is enough
		})
		if err != nil && !holds {
			return false, err
		}
	}
	return !holds, nil
}

// Newest calls fn once for each object of a topic, with its newest version. What fn is given is
// valid until it returns; an error of fn ends the reading and is returned. If an object changes
// meanwhile, fn is given the version before or after that.
//
// The topic is read twice, since a reader may tell of older versions of an object, and only the
// first reading shows which one is the last. In memory are at most 200,000 keys; of a topic with
// more, a part of the keys is read at a time.
func (o *Objects) Newest(ctx context.Context, topic sink.StateTopic, fn func(*sink.Stored) error) error {
	for p := (part{}); p.index>>p.bits == 0; {
		last, fits, err := o.last(ctx, topic, p)
		if err != nil {
			return err
		}
		if !fits {
			p = part{2 * p.index, p.bits + 1}
			continue
		}
		if err := o.tell(ctx, topic, p, last, fn); err != nil {
			return err
		}
		p.index++
	}
	return nil
}

// One returns an object by its key, or nil if there is none.
func (o *Objects) One(ctx context.Context, topic sink.StateTopic, key string) (*sink.Stored, error) {
	return o.reader.ReadObject(ctx, topic, []byte(key))
}

// part is those of the keys whose hash begins with so many bits of index.
type part struct {
	index uint64
	bits  uint
}

func (p part) has(hash uint64) bool { return hash>>(64-p.bits) == p.index }

// version is what the first reading learns of an object.
type version struct {
	offset  int64
	removed bool
	told    bool // by the second reading
}

// errMany ends a reading of more keys than may be remembered at once.
var errMany = errors.New("too many keys")

// last returns the last version of each key of a part, by the hash of the key, and whether they are
// few enough. It stops reading once they are not.
func (o *Objects) last(ctx context.Context, topic sink.StateTopic, p part) (last map[uint64]version, fits bool, err error) {
	last, fits = map[uint64]version{}, true
	err = o.reader.ReadState(ctx, topic, func(m *sink.Stored) error {
		if at := maphash.Bytes(o.seed, m.Key); p.has(at) {
			last[at] = version{offset: m.Offset, removed: m.Body == nil}
		}
		if fits = len(last) <= o.most; !fits {
			return errMany
		}
		return nil
	})
	if !fits {
		return nil, false, nil
	}
	return last, true, err
}

// tell calls fn for the last versions, except for those that were removed.
func (o *Objects) tell(ctx context.Context, topic sink.StateTopic, p part, last map[uint64]version, fn func(*sink.Stored) error) error {
	return o.reader.ReadState(ctx, topic, func(m *sink.Stored) error {
		at := maphash.Bytes(o.seed, m.Key)
		if !p.has(at) || m.Body == nil {
			return nil
		}
		// A version that is newer than the one of the first reading came meanwhile.
		v, known := last[at]
		if v.told || known && (m.Offset < v.offset || m.Offset == v.offset && v.removed) {
			return nil
		}
		v.told = true
		last[at] = v
		return fn(m)
	})
}
