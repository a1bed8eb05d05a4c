//go:build unix

package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// oracle judges what a bus holds by what the API has. It knows nothing of relay but the names of
// its header and of the position's
// fields.
type oracle struct {
	ids  []string
	at   map[string]int // index in ids
	body func(id string) []byte

	stored                                   map[string]uint64 // id to the place of its first copy
	partitions                               map[string]int    // the latest event seen in each
	all                                      map[string][]int  // every message of each, copies too, as index in ids
	duplicates, misordered, altered, unknown []string
}

func newOracle(api *sourcetest.Server) *oracle {
	return oracleOf(api.IDs(sourcetest.Filter{}), func(id string) []byte { b, _ := api.Raw(id); return b })
}

func oracleOf(ids []string, body func(string) []byte) *oracle {
	o := &oracle{ids: ids, at: make(map[string]int, len(ids)), body: body, stored: make(map[string]uint64, len(ids)), partitions: map[string]int{}, all: map[string][]int{}}
	for i, id := range ids {
		o.at[id] = i
	}
	return o
}

// see takes the messages of each partition in the order of the bus.
func (o *oracle) see(partition string, place uint64, id string, body []byte) {
	i, known := o.at[id]
	_, again := o.stored[id]
	last, any := o.partitions[partition]
	where := fmt.Sprintf("%s at %s/%d", id, partition, place)
	if !known {
		o.unknown = append(o.unknown, where)
		return
	}
	if !bytes.Equal(body, o.body(id)) {
		o.altered = append(o.altered, where)
	}
	o.all[partition] = append(o.all[partition], i)
	switch {
	case again:
		o.duplicates = append(o.duplicates, where)
		return
	case any && i < last:
		o.misordered = append(o.misordered, where)
	default:
		o.partitions[partition] = i
	}
	o.stored[id] = place
}

func (o *oracle) lost() []string {
	var lost []string
	for _, id := range o.ids {
		if _, found := o.stored[id]; !found {
			lost = append(lost, id)
		}
	}
	return lost
}

// outOfPlace returns the events of a partition that have no copy after one of each event before
// them. An event that came too early, behind a hole that an election or a broken connection left,
// and again in its place, is none of them.
func (o *oracle) outOfPlace() (out []string) {
	for partition, seen := range o.all {
		want := slices.Compact(slices.Sorted(slices.Values(seen)))
		for _, i := range seen {
			if len(want) > 0 && i == want[0] {
				want = want[1:]
			}
		}
		for _, i := range want {
			out = append(out, o.ids[i]+" of "+partition)
		}
	}
	return out
}

// allowance is what a bus and a mode of delivery may do to events that are neither lost nor
// altered.
type allowance struct {
	copies bool // an event may come again
	early  bool // and it may have come too early before
}

// requireNothingWrong requires every event, unaltered, in order and once but for what is allowed.
func (o *oracle) requireNothingWrong(t *testing.T, allowed allowance) {
	t.Helper()
	t.Logf("%d events: %d lost, %d duplicates, %d misordered, %d altered, %d unknown",
		len(o.ids), len(o.lost()), len(o.duplicates), len(o.misordered), len(o.altered), len(o.unknown))
	assert.Empty(t, some(o.lost()), "lost")
	if allowed.early {
		assert.Empty(t, some(o.outOfPlace()), "out of place")
	} else {
		assert.Empty(t, some(o.misordered), "misordered")
	}
	assert.Empty(t, some(o.altered), "altered")
	assert.Empty(t, some(o.unknown), "unknown to the API")
	if !allowed.copies {
		assert.Empty(t, some(o.duplicates), "duplicates")
	}
	if t.Failed() {
		t.FailNow()
	}
}

func some(s []string) []string { return s[:min(len(s), 10)] }

// position is one state of the lane's position on the bus.
type position struct {
	place      uint64 // sequence or offset
	EventID    string `json:"event_id"`
	Generation uint64 `json:"generation"`
	Holder     string `json:"holder"`
	Released   bool   `json:"released"`
}

func readPosition(place uint64, data []byte) (position, error) {
	var document struct {
		Content position `json:"content"`
	}
	err := json.Unmarshal(data, &document)
	if err == nil && document.Content.Generation == 0 {
		err = fmt.Errorf("no position: %q", data)
	}
	document.Content.place = place
	return document.Content, err
}

// faultsOf finds what is wrong with the positions of a bus. Their places, not the moments when they
// were read, give their order: a leader that was deposed and does not know it yet may still show an
// earlier one.
func (o *oracle) faultsOf(positions []position, samePlaces bool) []string {
	var faults []string
	wrong := func(p position, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("position %d (%s, generation %d, holder %s): ", p.place, p.EventID, p.Generation, p.Holder)+fmt.Sprintf(format, args...))
	}
	slices.SortStableFunc(positions, func(a, b position) int { return int(a.place) - int(b.place) })
	index := func(p position) int {
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
			case p.place == before.place && p != before:
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
			if i := index(p); i >= 0 && o.stored[p.EventID] > p.place {
				wrong(p, "its event comes only at %d", o.stored[p.EventID])
			} else if i+1 < len(o.ids) && o.stored[o.ids[i+1]] != 0 && o.stored[o.ids[i+1]] < p.place {
				wrong(p, "the event after it stands before it, at %d", o.stored[o.ids[i+1]])
			}
		}
	}
	return faults
}

func TestOracle(t *testing.T) {
	ids := []string{"a", "b", "c", "d"}
	body := func(id string) []byte { return []byte("body " + id) }
	for name, c := range map[string]struct {
		seen                                           string
		lost, duplicates, misordered, altered, unknown int
		outOfPlace                                     int
	}{
		"all":          {seen: "abcd"},
		"lost":         {seen: "acd", lost: 1},
		"duplicate":    {seen: "abbcd", duplicates: 1},
		"gone back":    {seen: "ababcd", duplicates: 2},
		"misordered":   {seen: "abdc", misordered: 1, outOfPlace: 1},
		"out of place": {seen: "acbd", misordered: 1, outOfPlace: 2},
		"early":        {seen: "acdbcd", duplicates: 2, misordered: 1},
		"unknown":      {seen: "abxcd", unknown: 1},
		"altered":      {seen: "abCd", altered: 1},
		"altered copy": {seen: "abBcd", duplicates: 1, altered: 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := oracleOf(ids, body)
			for i, r := range c.seen {
				id := string(bytes.ToLower([]byte(string(r))))
				o.see("p", uint64(i+1), id, []byte("body "+string(r)))
			}
			require.Len(t, o.outOfPlace(), c.outOfPlace)
			require.Len(t, o.lost(), c.lost)
			require.Len(t, o.duplicates, c.duplicates)
			require.Len(t, o.misordered, c.misordered)
			require.Len(t, o.altered, c.altered)
			require.Len(t, o.unknown, c.unknown)
		})
	}
}

func TestOracleOfPositions(t *testing.T) {
	p := func(place uint64, id string, generation uint64, holder string) position {
		return position{place: place, EventID: id, Generation: generation, Holder: holder}
	}
	for name, c := range map[string]struct {
		positions []position
		faults    int
	}{
		"right":           {positions: []position{p(1, "", 1, "x"), p(4, "b", 1, "x"), p(5, "b", 2, "y"), p(7, "c", 2, "y")}},
		"stale read":      {positions: []position{p(4, "b", 1, "x"), p(1, "", 1, "x"), p(5, "b", 2, "y")}},
		"went back":       {positions: []position{p(4, "b", 1, "x"), p(5, "a", 1, "x")}, faults: 2}, // b stands before it as well
		"generation":      {positions: []position{p(4, "b", 2, "x"), p(5, "b", 1, "x")}, faults: 1},
		"two holders":     {positions: []position{p(4, "b", 1, "x"), p(5, "b", 1, "y")}, faults: 1},
		"rewritten":       {positions: []position{p(4, "b", 1, "x"), p(4, "b", 2, "x")}, faults: 1},
		"ahead of events": {positions: []position{p(4, "c", 1, "x")}, faults: 1},
		"behind events":   {positions: []position{p(4, "a", 1, "x")}, faults: 1},
		"unknown event":   {positions: []position{p(1, "z", 1, "x")}, faults: 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := oracleOf([]string{"a", "b", "c"}, func(string) []byte { return nil })
			for id, place := range map[string]uint64{"a": 2, "b": 3, "c": 6} {
				o.stored[id] = place
			}
			require.Len(t, o.faultsOf(c.positions, true), c.faults, o.faultsOf(c.positions, true))
		})
	}
}
