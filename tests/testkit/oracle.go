//go:build unix

package testkit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// Oracle judges what a bus holds by what the API has. It knows nothing of relay but the names of
// its header and of the position's fields. It is not safe for concurrent use.
type Oracle struct {
	IDs  []string       // of the events, in the order of the source
	at   map[string]int // index in IDs
	body func(id string) []byte

	stored                                   map[string]uint64 // id to the place of its first copy
	partitions                               map[string]int    // the latest event seen in each
	all                                      map[string][]int  // every message of each, copies too, as index in IDs
	Duplicates, Misordered, Altered, Unknown []string          // messages, by event id and place
}

// NewOracle returns an Oracle for the events that the API has now.
func NewOracle(api *sourcetest.Server) *Oracle {
	return OracleOf(api.IDs(sourcetest.Filter{}), func(id string) []byte { b, _ := api.Raw(id); return b })
}

// OracleOf returns an Oracle for events, by their ids in the order of the source and by the body of
// each.
func OracleOf(ids []string, body func(string) []byte) *Oracle {
	o := &Oracle{IDs: ids, at: make(map[string]int, len(ids)), body: body, stored: make(map[string]uint64, len(ids)), partitions: map[string]int{}, all: map[string][]int{}}
	for i, id := range ids {
		o.at[id] = i
	}
	return o
}

// See takes the messages of each partition in the order of the bus.
func (o *Oracle) See(partition string, place uint64, id string, body []byte) {
	i, known := o.at[id]
	_, again := o.stored[id]
	last, any := o.partitions[partition]
	where := fmt.Sprintf("%s at %s/%d", id, partition, place)
	if !known {
		o.Unknown = append(o.Unknown, where)
		return
	}
	if !bytes.Equal(body, o.body(id)) {
		o.Altered = append(o.Altered, where)
	}
	o.all[partition] = append(o.all[partition], i)
	switch {
	case again:
		o.Duplicates = append(o.Duplicates, where)
		return
	case any && i < last:
		o.Misordered = append(o.Misordered, where)
	default:
		o.partitions[partition] = i
	}
	o.stored[id] = place
}

// Lost returns the events that were not seen.
func (o *Oracle) Lost() []string {
	var lost []string
	for _, id := range o.IDs {
		if _, found := o.stored[id]; !found {
			lost = append(lost, id)
		}
	}
	return lost
}

// OutOfPlace returns the events of a partition that have no copy after one of each event before
// them. An event that came too early, behind a hole that an election or a broken connection left,
// and again in its place, is none of them.
func (o *Oracle) OutOfPlace() (out []string) {
	for partition, seen := range o.all {
		want := slices.Compact(slices.Sorted(slices.Values(seen)))
		for _, i := range seen {
			if len(want) > 0 && i == want[0] {
				want = want[1:]
			}
		}
		for _, i := range want {
			out = append(out, o.IDs[i]+" of "+partition)
		}
	}
	return out
}

// Allowance is what a bus and a mode of delivery may do to events that are neither lost nor
// altered.
type Allowance struct {
	Copies bool // an event may come again
	Early  bool // and it may have come too early before
}

// RequireNothingWrong requires every event, unaltered, in order and once but for what is allowed.
func (o *Oracle) RequireNothingWrong(t *testing.T, allowed Allowance) {
	t.Helper()
	t.Logf("%d events: %d lost, %d duplicates, %d misordered, %d altered, %d unknown",
		len(o.IDs), len(o.Lost()), len(o.Duplicates), len(o.Misordered), len(o.Altered), len(o.Unknown))
	require.Empty(t, o.Wrong(allowed))
}

// Wrong returns what is wrong with what was seen but for what is allowed, one text for each kind of
// fault.
func (o *Oracle) Wrong(allowed Allowance) (wrong []string) {
	add := func(kind string, events []string) {
		if len(events) > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s: %s", len(events), kind, strings.Join(events[:min(len(events), 10)], ", ")))
		}
	}
	add("lost", o.Lost())
	if allowed.Early {
		add("out of place", o.OutOfPlace())
	} else {
		add("misordered", o.Misordered)
	}
	add("altered", o.Altered)
	add("unknown to the API", o.Unknown)
	if !allowed.Copies {
		add("duplicates", o.Duplicates)
	}
	return wrong
}

// Position is one state of the lane's position on the bus.
type Position struct {
	Place      uint64 // sequence or offset
	EventID    string `json:"event_id"`
	Generation uint64 `json:"generation"`
	Holder     string `json:"holder"`
	Released   bool   `json:"released"`
}

// ReadPosition reads the message of a position, which is at place.
func ReadPosition(place uint64, data []byte) (Position, error) {
	var document struct {
		Content Position `json:"content"`
	}
	err := json.Unmarshal(data, &document)
	if err == nil && document.Content.Generation == 0 {
		err = fmt.Errorf("no position: %q", data)
	}
	document.Content.Place = place
	return document.Content, err
}

// FaultsOf finds what is wrong with the positions of a bus. Their places, not the moments when they
// were read, give their order: a leader that was deposed and does not know it yet may still show an
// earlier one.
func (o *Oracle) FaultsOf(positions []Position, samePlaces bool) []string {
	var faults []string
	wrong := func(p Position, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("position %d (%s, generation %d, holder %s): ", p.Place, p.EventID, p.Generation, p.Holder)+fmt.Sprintf(format, args...))
	}
	slices.SortStableFunc(positions, func(a, b Position) int { return int(a.Place) - int(b.Place) })
	index := func(p Position) int {
		if p.EventID == "" {
			return -1
		}
		if i, known := o.at[p.EventID]; known {
			return i
		}
		wrong(p, "the API has no such event")
		return -1
	}
	for n, p := range positions {
		if n > 0 {
			before := positions[n-1]
			switch {
			case p.Place == before.Place && p != before:
				wrong(p, "was another one before at the same place")
			case index(p) < index(before):
				wrong(p, "went back from %s", before.EventID)
			case p.Generation < before.Generation:
				wrong(p, "its generation was %d before", before.Generation)
			case p.Generation == before.Generation && p.Holder != before.Holder:
				wrong(p, "two holders of one generation, the other is %s", before.Holder)
			}
		}
		if samePlaces {
			if i := index(p); i >= 0 && o.stored[p.EventID] > p.Place {
				wrong(p, "its event comes only at %d", o.stored[p.EventID])
			} else if i+1 < len(o.IDs) && o.stored[o.IDs[i+1]] != 0 && o.stored[o.IDs[i+1]] < p.Place {
				wrong(p, "the event after it stands before it, at %d", o.stored[o.IDs[i+1]])
			}
		}
	}
	return faults
}
