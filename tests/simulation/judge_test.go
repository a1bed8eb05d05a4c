//go:build unix

package simulation

import (
	"bytes"
	"fmt"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/tests/testkit"
)

// judge holds what happens on the bus and in the directories against the promises, at the moment
// when it happens. It needs no relay for that. The lock of the world guards it.
type judge struct {
	w *world

	exists  bool // there is a position
	purged  bool // it was taken away
	now     checkpoint.Checkpoint
	since   time.Time      // when it changed last
	next    int            // index of the event that is to be stored next, in exactly_once
	late    map[int]bool   // the events that are stored, if those of a type may come late
	latest  map[string]int // of each type
	reached int            // index of the last event that a position in a directory has passed, plus 1

	wrong []string
}

func (j *judge) fault(promise, format string, args ...any) {
	if len(j.wrong) < 20 {
		j.wrong = append(j.wrong, fmt.Sprintf("%s at %v: ", promise, time.Since(j.w.began))+fmt.Sprintf(format, args...))
	}
}

// index returns how many events a position has passed.
func (j *judge) index(p checkpoint.Position) int {
	if p.EventID == "" {
		return 0
	}
	n, ok := j.w.place[p.EventID]
	if !ok {
		j.fault("P1", "the position names an event that the API never had: %s", p)
	}
	return n + 1
}

// commits judges one atomic act of the bus.
func (j *judge) commits(place uint64, batch []sink.Message, document []byte) {
	if !j.w.judged {
		return
	}
	cp, err := checkpoint.Decode(document)
	if err != nil {
		j.fault("P1", "the position at %d cannot be read: %v", place, err)
		return
	}
	j.w.count.commits++
	if j.purged {
		j.fault("P3", "%s has stored %d messages and a position, although the position was taken away", cp.Holder, len(batch))
	}
	if j.w.tracing {
		j.w.noteLocked("stored: %d messages, then the position at %d: %s, generation %d, %s, released %v", len(batch), place, cp.Position, cp.Generation, cp.Holder, cp.Released)
	}
	if len(batch) > 0 && (!j.exists || j.now.Holder != cp.Holder) {
		j.fault("P6", "%s writes events while %s holds the position", cp.Holder, j.now.Holder)
	}
	if j.exists && j.now.Holder != cp.Holder && !j.now.Released && !checkpoint.SameStore(j.now.Holder, cp.Holder) {
		j.w.count.takeovers++
		if quiet := time.Since(j.since); quiet < j.w.plan.takeover*4/5 {
			j.fault("P6", "%s takes over from %s, which has moved the position %v before", cp.Holder, j.now.Holder, quiet)
		}
		if j.w.quiet {
			j.fault("P6", "%s takes over from %s, although nothing is wrong", cp.Holder, j.now.Holder)
		}
	}
	for i := range batch {
		id := batch[i].ID
		if id == "" {
			id = idOf(&batch[i])
		}
		n, known := j.w.place[id]
		switch {
		case !known:
			j.fault("P10", "the bus has %q, which the API never had", id)
		case j.w.plan.refuses:
			j.storesLate(id, n)
		case n != j.next:
			j.fault("P2, P5", "%s is stored, and event %d comes next, not %d", id, j.next, n)
			j.next = n + 1
		default:
			j.next++
		}
		if known && !bytes.Equal(batch[i].Body, j.w.raw[id]) {
			j.fault("P10", "%s is altered", id)
		}
	}
	if j.w.plan.refuses {
		j.passes(cp, func(n int) bool { return j.late[n] })
	} else if at := j.index(cp.Position); at != j.next {
		j.fault("P1", "the position has passed %d events, and %d are stored", at, j.next)
	}
	if j.exists && cp.Generation < j.now.Generation {
		j.fault("P6", "generation %d after %d", cp.Generation, j.now.Generation)
	}
	if j.exists && cp.Generation == j.now.Generation && cp.Holder != j.now.Holder {
		j.fault("P6", "two holders of generation %d: %s and %s", cp.Generation, j.now.Holder, cp.Holder)
	}
	j.exists, j.now, j.since = true, cp, time.Now()
}

// storesLate judges the storing of an event if those of a type may come late.
func (j *judge) storesLate(id string, n int) {
	if j.late == nil {
		j.late, j.latest = map[int]bool{}, map[string]int{}
	}
	kind := j.w.kind[n]
	switch {
	case j.late[n]:
		j.fault("P5", "%s is stored twice", id)
	case n < j.latest[kind]:
		j.fault("P2", "%s is stored behind event %d of its type", id, j.latest[kind])
	default:
		j.latest[kind] = n
	}
	j.late[n] = true
}

// passes judges that every event that a position has passed is stored, or of a type that counts as
// missing from there on.
func (j *judge) passes(cp checkpoint.Checkpoint, stored func(n int) bool) {
	at := j.index(cp.Position)
	from := map[string]int{}
	for _, r := range cp.Refused {
		from[r.Type] = j.index(r.Position)
	}
	for n := range at {
		if missing, refused := from[j.w.kind[n]]; !stored(n) && (!refused || n < missing) {
			j.fault("P1", "the position has passed %s, which the bus does not have", j.w.events[n])
			return
		}
	}
}

// published is called when the bus has stored messages of an at_least_once lane.
func (j *judge) published() {}

// saved judges a commit to the directory of a relay.
func (j *judge) saved(cp checkpoint.Checkpoint) {
	if !j.w.judged {
		return
	}
	j.w.count.commits++
	at := j.index(cp.Position)
	if at < j.reached {
		j.fault("P1", "the position went back from event %d to %d", j.reached, at)
	}
	have := map[string]bool{}
	j.w.bus.read(func(_ string, _ uint64, m *sink.Message) { have[idOf(m)] = true })
	j.passes(cp, func(n int) bool { return have[j.w.events[n]] })
	j.reached = max(j.reached, at)
	j.exists, j.now, j.since = true, cp, time.Now()
}

// idOf returns the event id of a message.
func idOf(m *sink.Message) string {
	for _, h := range m.Headers {
		if h.Key == "event-id" {
			return h.Value
		}
	}
	return m.ID
}

// finish judges what a consumer finds in the end.
func (j *judge) finish() *testkit.Oracle {
	w := j.w
	o := testkit.OracleOf(w.events, func(id string) []byte { return w.raw[id] })
	w.bus.read(func(partition string, place uint64, m *sink.Message) {
		if w.plan.refuses {
			partition += m.Topic
		}
		o.See(partition, place, idOf(m), m.Body)
	})
	again := w.plan.mode == checkpoint.AtLeastOnce
	for _, wrong := range o.Wrong(testkit.Allowance{Copies: again, Early: again}) {
		j.fault("P1, P2, P5", "%s", wrong)
	}
	w.count.copies += len(o.Duplicates)
	if !again {
		var all []testkit.Position
		w.bus.positions(func(place uint64, document []byte) {
			p, err := testkit.ReadPosition(place, document)
			if err != nil {
				j.fault("P1", "%v", err)
			}
			all = append(all, p)
		})
		for _, wrong := range o.FaultsOf(all, w.bus.samePlaces()) {
			j.fault("P1, P6", "%s", wrong)
		}
	}
	return o
}
