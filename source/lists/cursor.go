package lists

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Cursor is a place in a list, to continue at. It is printable and at most a few hundred bytes
// long. The empty Cursor is the start of a list.
type Cursor string

// cursor is what a Cursor says.
type cursor struct {
	// places are where to continue: after the last object of the page, or, if the API does not know
	// it any more, after an earlier one.
	places   []place
	setbacks int       // how often the API lost the cursor since the list last came past reached
	reached  time.Time // when the last object was created of which the API lost the cursor
}

// place is an object of a list.
type place struct {
	id      string
	created time.Time // zero if it is not known
}

const (
	maxPlaces  = 3
	maxPlaceID = 128 // bytes; a longer id is left out, unless it is the last one of the page
)

// newCursor returns the cursor after a page: its last object, and one from its middle and its
// beginning. before is the cursor that led to the page.
func newCursor(l *list, before cursor) cursor {
	var c cursor
	n := len(l.places)
	last := l.places[n-1]
	if c.places = []place{last}; l.after != "" {
		c.places[0].id = l.after
	}
	if last.created.IsZero() || !last.created.After(before.reached) {
		c.setbacks, c.reached = before.setbacks, before.reached
	}
	for _, i := range [...]int{n - 1, n / 2, 0} {
		p := l.places[i]
		if !c.has(p.id) && len(p.id) <= maxPlaceID && len(c.places) < maxPlaces {
			c.places = append(c.places, p)
		}
	}
	return c
}

func (c *cursor) has(id string) bool {
	return slices.ContainsFunc(c.places, func(p place) bool { return p.id == id })
}

// String returns the text form: the setbacks, and for each place its time in milliseconds and its
// id. The first time is that of reached.
func (c *cursor) String() Cursor {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d", milliseconds(c.reached), c.setbacks)
	for _, p := range c.places {
		fmt.Fprintf(&b, " %d:%s", milliseconds(p.created), p.id)
	}
	return Cursor(b.String())
}

func parseCursor(text Cursor) (c cursor, err error) {
	for i, field := range strings.Fields(string(text)) {
		at, rest, _ := strings.Cut(field, ":")
		ms, err := strconv.ParseInt(at, 10, 64)
		if err != nil || rest == "" {
			return cursor{}, fmt.Errorf("%q is not a cursor", string(text))
		}
		if i > 0 {
			c.places = append(c.places, place{id: rest, created: moment(ms)})
			continue
		}
		c.reached = moment(ms)
		if c.setbacks, err = strconv.Atoi(rest); err != nil {
			return cursor{}, fmt.Errorf("%q is not a cursor", string(text))
		}
	}
	if text != "" && len(c.places) == 0 {
		return cursor{}, fmt.Errorf("%q is not a cursor", string(text))
	}
	return c, nil
}

// milliseconds is a time as a cursor holds it; 0 if there is none.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
