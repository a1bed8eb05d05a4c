//go:build unix

package testkit

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

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
			o := OracleOf(ids, body)
			for i, r := range c.seen {
				id := string(bytes.ToLower([]byte(string(r))))
				o.See("p", uint64(i+1), id, []byte("body "+string(r)))
			}
			require.Len(t, o.OutOfPlace(), c.outOfPlace)
			require.Len(t, o.Lost(), c.lost)
			require.Len(t, o.Duplicates, c.duplicates)
			require.Len(t, o.Misordered, c.misordered)
			require.Len(t, o.Altered, c.altered)
			require.Len(t, o.Unknown, c.unknown)
		})
	}
}

func TestOracleOfPositions(t *testing.T) {
	p := func(place uint64, id string, generation uint64, holder string) Position {
		return Position{Place: place, EventID: id, Generation: generation, Holder: holder}
	}
	for name, c := range map[string]struct {
		positions []Position
		faults    int
	}{
		"right":           {positions: []Position{p(1, "", 1, "x"), p(4, "b", 1, "x"), p(5, "b", 2, "y"), p(7, "c", 2, "y")}},
		"stale read":      {positions: []Position{p(4, "b", 1, "x"), p(1, "", 1, "x"), p(5, "b", 2, "y")}},
		"went back":       {positions: []Position{p(4, "b", 1, "x"), p(5, "a", 1, "x")}, faults: 2}, // b stands before it as well
		"generation":      {positions: []Position{p(4, "b", 2, "x"), p(5, "b", 1, "x")}, faults: 1},
		"two holders":     {positions: []Position{p(4, "b", 1, "x"), p(5, "b", 1, "y")}, faults: 1},
		"rewritten":       {positions: []Position{p(4, "b", 1, "x"), p(4, "b", 2, "x")}, faults: 1},
		"ahead of events": {positions: []Position{p(4, "c", 1, "x")}, faults: 1},
		"behind events":   {positions: []Position{p(4, "a", 1, "x")}, faults: 1},
		"unknown event":   {positions: []Position{p(1, "z", 1, "x")}, faults: 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := OracleOf([]string{"a", "b", "c"}, func(string) []byte { return nil })
			for id, place := range map[string]uint64{"a": 2, "b": 3, "c": 6} {
				o.stored[id] = place
			}
			require.Len(t, o.FaultsOf(c.positions, true), c.faults, o.FaultsOf(c.positions, true))
		})
	}
}
