package sourcetest

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"workos-relay/internal/catalogue"
)

// typeSet is a set of event types by their index in store.types.
type typeSet [maxTypes / 64]uint64

const maxTypes = 256

func (s *typeSet) add(t uint8)      { s[t>>6] |= 1 << (t & 63) }
func (s *typeSet) has(t uint8) bool { return s[t>>6]&(1<<(t&63)) != 0 }

func (s *typeSet) meets(o *typeSet) bool {
	return s[0]&o[0] != 0 || s[1]&o[1] != 0 || s[2]&o[2] != 0 || s[3]&o[3] != 0
}

func (s *typeSet) covers(o *typeSet) bool {
	return o[0]&^s[0] == 0 && o[1]&^s[1] == 0 && o[2]&^s[2] == 0 && o[3]&^s[3] == 0
}

// chunk sums up chunkLen events, so that a scan for a rare type or organization skips what cannot
// match.
type chunk struct {
	types typeSet
	orgs  uint64 // bit org%64
}

const chunkLen = 256

// entry is what is kept of an appended event beside its bytes.
type entry struct {
	created int64 // Unix nanoseconds
	slab    uint32
	off     uint32
	size    uint32
	org     uint32 // 0: none
	typ     uint8
}

// slabSize is how many bytes are reserved at a time. Slabs never move, so pages may point into them
// while others append.
const slabSize = 4 << 20

// store holds the events in list order: first the generated population, then what was appended.
// Positions in that order are called indices. The exported surface locks; methods in lower case
// expect mu to be held.
type store struct {
	mu sync.RWMutex

	gen       *Generator // may be nil
	genLen    int
	genOnce   sync.Once
	genChunks []chunk
	genTypes  typeSet

	slabs   [][]byte
	log     []entry
	chunks  []chunk          // of the log
	present typeSet          // types of the log
	byID    map[uint64]int32 // hash of the id: index in the log
	shared  map[string]int32 // ids whose hash was taken
	seed    maphash.Seed
	ordered bool // created_at never descends
	floor   int  // events before it have been expired

	types   []string
	typeIdx map[string]uint8
	orgIdx  map[string]uint32
}

func newStore(gen *Generator) *store {
	s := &store{
		gen: gen, ordered: true, seed: maphash.MakeSeed(),
		byID: map[uint64]int32{}, shared: map[string]int32{},
		typeIdx: map[string]uint8{}, orgIdx: map[string]uint32{},
	}
	for i, t := range eventTypes {
		s.types = append(s.types, t.Name)
		s.typeIdx[t.Name] = uint8(i)
	}
	if gen != nil {
		s.genLen = gen.Len()
		for _, id := range gen.orgs {
			s.org(id)
		}
		for _, list := range concatTypes(scenes, [][]uint8{onboardingTypes, resyncTypes, defaultTypes}) {
			for _, t := range list {
				s.genTypes.add(t)
			}
		}
	}
	return s
}

func concatTypes(lists ...[][]uint8) (out [][]uint8) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

func (s *store) len() int { return s.genLen + len(s.log) }

// org returns the number of an organization, from 1, giving it one if it is new.
func (s *store) org(id string) uint32 {
	n, ok := s.orgIdx[id]
	if !ok {
		n = uint32(len(s.orgIdx) + 1)
		s.orgIdx[id] = n
	}
	return n
}

func (s *store) typ(name string) (uint8, error) {
	t, ok := s.typeIdx[name]
	if !ok {
		if len(s.types) == maxTypes {
			return 0, fmt.Errorf("more than %d event types", maxTypes)
		}
		t = uint8(len(s.types))
		s.types = append(s.types, name)
		s.typeIdx[name] = t
	}
	return t, nil
}

// materialize moves the population into the log.
func (s *store) materialize() {
	gen := s.gen
	s.gen, s.genLen = nil, 0
	r := renderer{g: gen}
	s.log = make([]entry, 0, gen.Len())
	for n := range gen.Len() {
		ms := gen.tl.ms(n)
		r.b = r.b[:0]
		r.event(n, n, ms)
		e := entry{created: ms * int64(time.Millisecond), typ: r.e.typ, size: uint32(len(r.b))}
		if k, ok := gen.orgOf(r.e); ok {
			e.org = uint32(k + 1)
		}
		s.put(gen.ID(n), e, r.b)
	}
}

// appendRaw adds one event. Its bytes are copied.
func (s *store) appendRaw(raw []byte) error {
	if !gjson.ValidBytes(raw) {
		return errors.New("not valid JSON")
	}
	f := readFields(raw)
	if f.id == "" || f.name == "" {
		return errors.New("id or event is missing")
	}
	created, ok := parseTime(f.created)
	if !ok {
		return fmt.Errorf("event %s: created_at %q is not an ISO 8601 time", f.id, f.created)
	}
	if _, ok := s.index(f.id); ok {
		return fmt.Errorf("event %s is there already", f.id)
	}
	t, err := s.typ(f.name)
	if err != nil {
		return err
	}
	e := entry{created: created.UnixNano(), typ: t, size: uint32(len(raw))}
	if org := f.organization(); org != "" {
		e.org = s.org(org)
	}
	s.put(f.id, e, raw)
	return nil
}

// fields are those members of an event that the server looks at.
type fields struct {
	id, name, created string
	data              gjson.Result
}

// readFields expects valid JSON.
func readFields(raw []byte) (f fields) {
	gjson.ParseBytes(raw).ForEach(func(k, v gjson.Result) bool {
		switch k.Str {
		case "id":
			f.id = v.String()
		case "event":
			f.name = v.String()
		case "created_at":
			f.created = v.String()
		case "data":
			f.data = v
		}
		return true
	})
	return f
}

// organization returns the organization that data names at one of the places of the catalogue. A
// type that is not in the catalogue, and an event that a test made up, is asked for
// data.organization_id.
func (f *fields) organization() string {
	if strings.HasPrefix(f.name, "user.") {
		return ""
	}
	t, _ := catalogue.Lookup(f.name)
	for _, p := range append(slices.Clone(t.Organization), "organization_id") {
		path, condition, value := p.Split()
		if condition != "" && f.data.Get(condition).String() != value {
			continue
		}
		if org := f.data.Get(path); org.Type == gjson.String && org.Str != "" {
			return org.Str
		}
	}
	return ""
}

func (s *store) put(id string, e entry, raw []byte) {
	n := len(s.log)
	if last := s.len() - 1; last >= 0 && s.created(last) > e.created {
		s.ordered = false
	}
	need := len(raw) + 1
	if len(s.slabs) == 0 || cap(s.slabs[len(s.slabs)-1])-len(s.slabs[len(s.slabs)-1]) < need {
		size := slabSize
		if n == 0 {
			size = 64 << 10 // most tests append little
		}
		s.slabs = append(s.slabs, make([]byte, 0, max(size, need)))
	}
	e.slab = uint32(len(s.slabs) - 1)
	slab := &s.slabs[e.slab]
	if len(*slab) > 0 {
		*slab = append(*slab, ',')
	}
	e.off = uint32(len(*slab))
	*slab = append(*slab, raw...)

	s.log = append(s.log, e)
	s.present.add(e.typ)
	if n%chunkLen == 0 {
		s.chunks = append(s.chunks, chunk{})
	}
	c := &s.chunks[n/chunkLen]
	c.types.add(e.typ)
	c.orgs |= 1 << (e.org % 64)
	h := maphash.String(s.seed, id)
	if _, taken := s.byID[h]; taken {
		s.shared[id] = int32(n)
		return
	}
	s.byID[h] = int32(n)
}

// index finds the event of an id.
func (s *store) index(id string) (int, bool) {
	if s.gen != nil {
		if n, ok := s.gen.index(id); ok {
			return n, true
		}
	}
	if n, ok := s.shared[id]; ok {
		return s.genLen + int(n), true
	}
	n, ok := s.byID[maphash.String(s.seed, id)]
	if !ok || gjson.GetBytes(s.logBytes(int(n)), "id").String() != id {
		return 0, false
	}
	return s.genLen + int(n), true
}

func (s *store) logBytes(n int) []byte {
	e := &s.log[n]
	return s.slabs[e.slab][e.off : e.off+e.size : e.off+e.size]
}

// bytes returns event n: of the log in place, of the population rendered.
func (s *store) bytes(n int) []byte {
	if n < s.genLen {
		return s.gen.Event(n)
	}
	return s.logBytes(n - s.genLen)
}

func (s *store) id(n int) string {
	if n < s.genLen {
		return s.gen.ID(n)
	}
	return gjson.GetBytes(s.logBytes(n-s.genLen), "id").String()
}

// created returns the time of event n in Unix nanoseconds.
func (s *store) created(n int) int64 {
	if n < s.genLen {
		return s.gen.tl.ms(n) * int64(time.Millisecond)
	}
	return s.log[n-s.genLen].created
}

// kind returns type and organization of event n.
func (s *store) kind(n int) (typ uint8, org uint32) {
	if n >= s.genLen {
		e := &s.log[n-s.genLen]
		return e.typ, e.org
	}
	e := s.gen.plan(n)
	if k, ok := s.gen.orgOf(e); ok {
		org = uint32(k + 1)
	}
	return e.typ, org
}

// chunkOf returns the summary that event n belongs to, and the indices it spans.
func (s *store) chunkOf(n int) (c *chunk, from, to int) {
	if n >= s.genLen {
		k := (n - s.genLen) / chunkLen
		from = s.genLen + k*chunkLen
		return &s.chunks[k], from, min(from+chunkLen, s.len())
	}
	s.genOnce.Do(s.summarize)
	k := n / chunkLen
	return &s.genChunks[k], k * chunkLen, min((k+1)*chunkLen, s.genLen)
}

func (s *store) summarize() {
	s.genChunks = make([]chunk, (s.genLen+chunkLen-1)/chunkLen)
	for n := range s.genLen {
		typ, org := s.kind(n)
		c := &s.genChunks[n/chunkLen]
		c.types.add(typ)
		c.orgs |= 1 << (org % 64)
	}
}

// allTypes returns the types of all events held; the population counts as having every default
// type.
func (s *store) allTypes() typeSet {
	t := s.present
	if s.genLen > 0 {
		for i := range t {
			t[i] |= s.genTypes[i]
		}
	}
	return t
}

// from returns the first index whose event, and where times descend somewhere also every earlier
// one's, is at or after t in Unix nanoseconds.
func (s *store) from(t int64) int {
	if s.ordered {
		return sort.Search(s.len(), func(n int) bool { return s.created(n) >= t })
	}
	for n := range s.len() {
		if s.created(n) >= t {
			return n
		}
	}
	return s.len()
}
