package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"workos-relay/sink"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// StateSource is what WorkOS has, and how far the lane has come.
type StateSource interface {
	// List calls fn for each object that the lists of an entity have, in the shape that the data of
	// its events have, several times for one that comes again. What fn is given is valid until it
	// returns; an error of fn ends it and is returned.
	List(ctx context.Context, entity string, fn func(*state.Change) error) error
	// Get looks at one object, as lists.Client.Get does. It is called by several goroutines.
	Get(ctx context.Context, ref lists.Ref) (lists.Object, error)
	// Carried returns the time of WorkOS, and a time before which no event is that the lane has yet
	// to carry. known is false if it is not known how far the lane has come.
	Carried(ctx context.Context) (now, carried time.Time, known bool, err error)
}

// StateForm says how the state topics show an object.
type StateForm interface {
	// Object returns an object without what the routes take out. out is set if a route drops events
	// about it, or may do so, or if it cannot be redacted.
	Object(entity string, object []byte) (shown []byte, out bool)
	// MayLeaveOut reports whether a route drops an event about the object, or may do so.
	MayLeaveOut(entity string, object []byte) bool
}

// StateStored reads the state topics; app.Objects implements it.
type StateStored interface {
	// Each calls fn for each object of an entity that its state topic holds now. What fn is given
	// is valid until it returns; an error of fn ends it and is returned.
	Each(ctx context.Context, entity string, fn func(key string, value []byte, headers []sink.Header) error) error
}

// StateCheck compares the state topics of a lane with the lists of WorkOS. Both may change
// meanwhile.
//
// It compares one entity after the other. A list is read first, then the bus. What is different is
// looked at again, by id and on the bus. It is a fault if neither side has changed Wait later, and
// the lane has carried every event that could explain it.
//
// In memory are, of one entity at a time, the fingerprints of some 32,000 objects (up to 16 million
// objects; beyond that, a 512th of them), and the keys of at most 10,000 differences of each
// entity. On disk an object takes about 700 bytes while its entity is compared.
type StateCheck struct {
	Source   StateSource
	Form     StateForm
	Stored   StateStored
	Entities []string // with a list that is read; see snapshot.Listed
	// Organization is that to which the lane is restricted; empty for none.
	Organization string
	Dir          string        // the temporary directory is made in it; empty for that of the system
	Wait         time.Duration // how long a difference must last
	Examples     int           // how many cases of each finding of each entity are named
	// Progress, if not nil, is called now and then with the progress of the stage, from 0 to 1, and
	// with how many objects it has read.
	Progress func(stage string, done float64, seen int)
}

// maxCandidates bounds the objects of an entity that are looked at again.
const maxCandidates = 10_000

// stateRun is the state of a check.
type stateRun struct {
	check   *StateCheck
	printer *printer
	seed    maphash.Seed
	dir     string
	report  StateReport
	shapes  map[string]*shape
	opened  []*candidate // differences that are not decided yet
}

// Run compares both sides. The error says that it could not be done; findings are no error.
func (c *StateCheck) Run(ctx context.Context) (_ *StateResult, err error) {
	dir, err := os.MkdirTemp(c.Dir, "relay-verify-")
	if err != nil {
		return nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &stateRun{check: c, printer: newPrinter(), seed: maphash.MakeSeed(), dir: dir, shapes: map[string]*shape{}}
	r.report = newStateReport(c.Examples)
	for n, name := range c.Entities {
		entity, ok := state.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("relay knows no entity %q", name)
		}
		r.shapes[name] = r.printer.shapeOf(&entity)
		if err := r.compareEntity(ctx, n, name); err != nil {
			return nil, err
		}
	}
	found, err := r.settle(ctx, r.opened)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		r.report.add(f)
	}
	return &StateResult{Report: r.report, run: r, found: found}, nil
}

func (r *stateRun) progress(stage string, done float64, seen int) {
	if r.check.Progress != nil {
		r.check.Progress(stage, done, seen)
	}
}

func (r *stateRun) listedFile() string { return filepath.Join(r.dir, "listed") }
func (r *stateRun) listedPart(n int) string {
	return filepath.Join(r.dir, "listed."+strconv.Itoa(n))
}
func (r *stateRun) storedPart(n int) string {
	return filepath.Join(r.dir, "stored."+strconv.Itoa(n))
}

func (r *stateRun) part(key string, parts int) int {
	return int(maphash.String(r.seed, key) >> 32 % uint64(parts)) //nolint:gosec // at most mostParts
}

// compareEntity reads both sides of the n-th entity and gathers the differences.
func (r *stateRun) compareEntity(ctx context.Context, n int, entity string) error {
	all := float64(len(r.check.Entities))
	listed, err := r.readLists(ctx, entity, float64(n)/all)
	if err != nil {
		return fmt.Errorf("read what WorkOS has of %s: %w", entity, err)
	}
	parts := min(listed/partEvents+1, mostParts)
	if err := r.splitListed(ctx, parts); err != nil {
		return err
	}
	if err := r.readStored(ctx, entity, parts, (float64(n)+0.5)/all); err != nil {
		return fmt.Errorf("read the state of %s: %w", entity, err)
	}
	count := r.report.of(entity)
	for n := range parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.comparePart(entity, count, n); err != nil {
			return err
		}
	}
	return nil
}

// readLists writes down what the lists of an entity have, and returns how much that is.
func (r *stateRun) readLists(ctx context.Context, entity string, done float64) (n int, err error) {
	w, err := newWriter(r.listedFile())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	err = r.check.Source.List(ctx, entity, func(c *state.Change) error {
		if n++; n%progressEvery == 0 {
			r.progress("reading the lists of "+entity, done, n)
		}
		o := listedObject{key: c.Key, known: knownOf(entity, c.Object)}
		shown, out := r.check.Form.Object(entity, c.Object)
		if o.out = out; !out {
			o.print, _ = r.printer.of(shown)
		}
		return w.write(&o)
	})
	return n, err
}

// knownOf returns what lists.Ref.Known needs of an object, and nothing else of it.
func knownOf(entity string, object []byte) []byte {
	if e, ok := lists.Lookup(entity); !ok || e.ByKey() {
		return nil
	}
	text, _ := json.Marshal(map[string]string{ // strings can always be encoded
		"slug": gjson.GetBytes(object, "slug").Str, "organization_id": gjson.GetBytes(object, "organization_id").Str,
	})
	return text
}

func (r *stateRun) splitListed(ctx context.Context, parts int) (err error) {
	ws, err := newWriters(parts, r.listedPart)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ws.close()) }()
	var o listedObject
	n := 0
	return readAll(r.listedFile(), &o, func() error {
		if n++; n%progressEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return ws[r.part(o.key, parts)].write(&o)
	})
}

// readStored writes down what the bus has of an entity.
func (r *stateRun) readStored(ctx context.Context, entity string, parts int, done float64) (err error) {
	ws, err := newWriters(parts, r.storedPart)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ws.close()) }()
	count, seen := r.report.of(entity), 0
	return r.check.Stored.Each(ctx, entity, func(key string, value []byte, _ []sink.Header) error {
		count.Stored++
		if seen++; seen%progressEvery == 0 {
			r.progress("reading the state of "+entity, done, seen)
		}
		o := r.storedObject(entity, key, value)
		return ws[r.part(key, parts)].write(&o)
	})
}

// storedObject returns what is kept of a value that the bus has.
func (r *stateRun) storedObject(entity, key string, value []byte) storedObject {
	o := storedObject{key: strings.Clone(key), known: knownOf(entity, value), out: r.check.Form.MayLeaveOut(entity, value)}
	print, ok := r.printer.of(value)
	c, isOne := r.shapes[entity].entity.Of(value)
	o.print, o.bad = print, !ok || !isOne || c.Key != key
	return o
}

// comparePart compares a part of the keys and opens the differences. Of a list the last version of
// an object counts.
func (r *stateRun) comparePart(entity string, count *StateCount, n int) error {
	s := r.shapes[entity]
	listed := map[string]listedObject{}
	var o listedObject
	err := readAll(r.listedPart(n), &o, func() error {
		listed[o.key] = o
		return nil
	})
	if err != nil {
		return err
	}
	count.Listed += len(listed)
	var b storedObject
	err = readAll(r.storedPart(n), &b, func() error {
		l, there := listed[b.key]
		delete(listed, b.key)
		switch {
		case there && l.out:
			count.LeftOut++
		case there && !b.bad && r.printer.differ(s, &l.print, &b.print) == "":
		case there:
			r.open(count, &candidate{entity: entity, key: b.key, known: l.known, listed: true})
		case b.out:
			count.LeftOut++
		default:
			r.open(count, &candidate{entity: entity, key: b.key, known: b.known})
		}
		return nil
	})
	for _, key := range slices.Sorted(maps.Keys(listed)) {
		if l := listed[key]; l.out {
			count.LeftOut++
		} else {
			r.open(count, &candidate{entity: entity, key: key, known: l.known, listed: true})
		}
	}
	return err
}

// open notes a difference that is to be looked at again.
func (r *stateRun) open(count *StateCount, c *candidate) {
	if count.opened >= maxCandidates {
		count.Unchecked++
		return
	}
	count.opened++
	r.opened = append(r.opened, c)
}
