package verify

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/tidwall/gjson"

	"workos-relay/internal/catalogue"
	"workos-relay/state"
)

// member is what is kept of a member of an object: hashes of its name and of its value.
type member struct {
	name  uint32
	value uint32 // anyValue if the member is not compared
}

// anyValue stands for a value that is not compared. No value has this hash.
const anyValue = 0

// fingerprint is what is kept of an object to compare it with another version.
type fingerprint struct {
	members []member // sorted by name, each name once
	updated int64    // Unix nanoseconds of updated_at; 0 if the object does not tell
}

// maxMembers bounds the members that are kept: those with the lowest hashes of their names, which
// are the same of all versions.
const maxMembers = 256

// printer makes fingerprints. It is not safe for concurrent use.
type printer struct {
	seed  maphash.Seed
	names map[uint32]string // by hash
}

// mostNames bounds the names of members that are remembered for messages.
const mostNames = 10_000

func newPrinter() *printer { return &printer{seed: maphash.MakeSeed(), names: map[uint32]string{}} }

func (p *printer) hash(name string) uint32 {
	h := uint32(maphash.String(p.seed, name) >> 32) //nolint:gosec // the upper half
	if _, known := p.names[h]; !known && len(p.names) < mostNames {
		p.names[h] = strings.Clone(name)
	}
	return h
}

// of returns the fingerprint of an object; false if the text is not a JSON object. Names and values
// are compared, not their order, nor how they are written.
func (p *printer) of(object []byte) (fingerprint, bool) {
	var out fingerprint
	all := gjson.ParseBytes(object)
	if !all.IsObject() || !gjson.ValidBytes(object) {
		return out, false
	}
	all.ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "object": // an event and a list call the same object by other names
		case "updated_at":
			if at, err := time.Parse(time.RFC3339, value.Str); err == nil {
				out.updated = at.UnixNano()
			}
		default:
			out.members = append(out.members, member{p.hash(name.Str), p.value(value)})
		}
		return true
	})
	slices.SortStableFunc(out.members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	out.members = slices.CompactFunc(out.members, func(a, b member) bool { return a.name == b.name })
	out.members = slices.Clip(out.members[:min(len(out.members), maxMembers)])
	return out, true
}

// value returns the hash of a value.
func (p *printer) value(value gjson.Result) uint32 {
	if isObject(value) || value.IsArray() && slices.ContainsFunc(value.Array(), isObject) {
		return anyValue
	}
	text := jsontext.Value(value.Raw)
	if err := text.Canonicalize(jsontext.CanonicalizeRawInts(false)); err != nil {
		text = jsontext.Value(value.Raw) // bytes that are not UTF-8, or a name twice
	}
	return uint32(maphash.Bytes(p.seed, text)>>32) | 1 //nolint:gosec // the upper half
}

// isObject reports whether a value is another object of WorkOS, which has its own state: what is
// told of it beside is as old as the event that told it.
func isObject(v gjson.Result) bool {
	return v.IsObject() && v.Get("object").Type == gjson.String && v.Get("id").Exists()
}

// sum returns a hash of the fingerprint.
func (f *fingerprint) sum(seed maphash.Seed) uint64 {
	b := make([]byte, 0, 8+8*len(f.members))
	b = binary.BigEndian.AppendUint64(b, uint64(f.updated)) //nolint:gosec // its bits
	for _, m := range f.members {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, m.name), m.value)
	}
	return maphash.Bytes(seed, b)
}

// shape is how the objects of an entity are compared.
type shape struct {
	entity   state.Entity
	exists   bool            // only whether there is an object: it tells of others, as they were once
	required map[uint32]bool // members that every event that sets an object has
}

func (p *printer) shapeOf(entity *state.Entity) *shape {
	s := &shape{entity: *entity, exists: isMembership(entity.Name), required: map[uint32]bool{}}
	if t, ok := catalogue.Lookup(entity.Sets[0]); ok && t.Schema != nil && !entity.Wraps(t.Name) {
		for _, name := range t.Schema.Required {
			s.required[p.hash(name)] = true
		}
	}
	return s
}

func isMembership(entity string) bool {
	return entity == "directory_group_membership" || entity == "group_membership"
}

// The ways in which two versions of an object differ, beside a member.
const (
	isOlder     = "updated_at, which is older on the bus"
	isNewer     = "updated_at, which is newer on the bus"
	hasNoUpdate = "updated_at, which the bus lacks"
	hasAnother  = "the key, which is not that of the object"
)

// differ returns in what the version of the bus differs from that of the list; "" if it does not.
// Members that only one of them has are no difference, since events and lists tell different ones;
// except if each event that sets an object has the member.
func (p *printer) differ(s *shape, listed, stored *fingerprint) string {
	switch {
	case s.exists:
		return ""
	case listed.updated != 0 && stored.updated == 0:
		return hasNoUpdate
	case listed.updated > stored.updated:
		return isOlder
	case listed.updated != 0 && listed.updated < stored.updated:
		return isNewer
	}
	of := stored.members
	for _, l := range listed.members {
		for len(of) > 0 && of[0].name < l.name {
			of = of[1:]
		}
		switch there := len(of) > 0 && of[0].name == l.name; {
		case there && l.value != of[0].value && l.value != anyValue && of[0].value != anyValue:
			return p.nameOf(l.name)
		case !there && s.required[l.name] && len(stored.members) < maxMembers:
			return p.nameOf(l.name) + ", which the bus lacks"
		}
	}
	return ""
}

func (p *printer) nameOf(hash uint32) string {
	if name, ok := p.names[hash]; ok {
		return name
	}
	return "a member"
}
