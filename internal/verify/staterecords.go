package verify

import (
	"encoding/binary"
	"fmt"
)

// listedObject is what is kept of an object that a list has.
type listedObject struct {
	key   string
	known []byte // by what else WorkOS names it; see lists.Ref
	// out is set if a route drops events about the object, or may do so, or if it cannot be
	// redacted: the bus need not have it.
	out   bool
	print fingerprint
}

func (o *listedObject) encode(b []byte) []byte {
	b = appendString(appendString(b, o.key), string(o.known))
	b = append(b, flag(o.out))
	return o.print.encode(b)
}

func (o *listedObject) decode(d *decoder) {
	o.key, o.known = d.text(), []byte(d.text())
	o.out = d.uint() != 0
	o.print.decode(d)
}

// storedObject is what is kept of an object that the bus has.
type storedObject struct {
	key   string
	known []byte
	bad   bool // the value is not an object with this key
	out   bool // a route may drop the event that would remove it
	print fingerprint
}

func (o *storedObject) encode(b []byte) []byte {
	b = appendString(appendString(b, o.key), string(o.known))
	b = append(b, flag(o.bad), flag(o.out))
	return o.print.encode(b)
}

func (o *storedObject) decode(d *decoder) {
	o.key, o.known = d.text(), []byte(d.text())
	o.bad, o.out = d.uint() != 0, d.uint() != 0
	o.print.decode(d)
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

func (f *fingerprint) encode(b []byte) []byte {
	b = binary.AppendVarint(b, f.updated)
	b = binary.AppendUvarint(b, uint64(len(f.members)))
	for _, m := range f.members {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, m.name), m.value)
	}
	return b
}

func (f *fingerprint) decode(d *decoder) {
	f.updated = d.int()
	n := d.uint()
	if n > maxMembers {
		d.fail(fmt.Errorf("an object of %d members", n))
	}
	if d.err != nil {
		return
	}
	f.members = make([]member, n)
	for i := range f.members {
		v := d.word()
		f.members[i] = member{uint32(v >> 32), uint32(v)} //nolint:gosec // its halves
	}
}
