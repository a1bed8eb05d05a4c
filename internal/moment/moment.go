// Package moment reads points in time as people write them, the same way in flags, in the
// configuration and in the admin API.
package moment

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Forms says how a time is written, for help and messages.
const Forms = "2026-11-01, 2026-11-01 15:04 or 2026-11-01T15:04:05Z (UTC unless an offset such as +02:00 follows), today, yesterday, or 2h, 90m or 3d for that long ago"

var errForm = errors.New("is not a time; write " + Forms)

// IsForm reports whether an error of Parse means that the text has none of Forms.
func IsForm(err error) bool { return errors.Is(err, errForm) }

// Moment is a point in time, or the distance of one from now. Two moments that were written alike
// are equal. The zero Moment means none.
type Moment struct {
	at   time.Time     // in UTC; zero if the moment is relative
	ago  time.Duration // how long before now
	day  bool          // the midnight, UTC, before that
	text string        // of a relative moment, as String returns it
}

// The range of years that a Moment may be in. Nanoseconds since 1970 fit into 64 bits there.
const (
	firstYear = 1970
	lastYear  = 2200
)

// maxAgo bounds how long ago a relative moment may be: 100 years.
const maxAgo = 100 * 365 * 24 * time.Hour

var (
	dates = []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"}
	span  = regexp.MustCompile(`^-?((?:[0-9]{1,9}(?:w|d|h|m|s))+)$`)
	part  = regexp.MustCompile(`([0-9]+)([a-z])`)
	units = map[string]time.Duration{"w": 7 * 24 * time.Hour, "d": 24 * time.Hour, "h": time.Hour, "m": time.Minute, "s": time.Second}
)

// Parse reads a moment in one of Forms. A time without an offset is in UTC, so that it means the
// same on every host. A duration means that long ago, with or without a minus. The error begins
// with "is not" or "lies", so that it completes a sentence about text.
func Parse(text string) (Moment, error) {
	text = strings.TrimSpace(text)
	switch text {
	case "today":
		return Moment{day: true, text: text}, nil
	case "yesterday":
		return Moment{day: true, ago: units["d"], text: text}, nil
	}
	if m := span.FindStringSubmatch(strings.TrimSuffix(text, " ago")); m != nil {
		return parseAgo(m[1])
	}
	written := strings.TrimSuffix(text, " UTC")
	if len(written) > len(time.DateOnly) && written[len(time.DateOnly)] == ' ' {
		written = written[:len(time.DateOnly)] + "T" + written[len(time.DateOnly)+1:]
	}
	for _, layout := range dates {
		at, err := time.Parse(layout, written)
		if err != nil {
			continue
		}
		at = at.UTC()
		if at.Year() < firstYear || at.Year() > lastYear {
			return Moment{}, fmt.Errorf("lies outside of the years %d to %d", firstYear, lastYear)
		}
		return Moment{at: at}, nil
	}
	return Moment{}, errForm
}

func parseAgo(text string) (Moment, error) {
	m := Moment{text: text}
	for _, p := range part.FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseInt(p[1], 10, 64)
		if err != nil {
			return Moment{}, errForm
		}
		unit := units[p[2]]
		if n > int64(maxAgo/unit) || m.ago > maxAgo-time.Duration(n)*unit {
			return Moment{}, errors.New("lies more than 100 years ago")
		}
		m.ago += time.Duration(n) * unit
	}
	return m, nil
}

// IsAgo reports whether an argument is a duration with a minus, such as -90m, which a command line
// could take for flags.
func IsAgo(text string) bool { return strings.HasPrefix(text, "-") && span.MatchString(text) }

// IsZero reports whether m is the zero Moment.
func (m Moment) IsZero() bool { return m == Moment{} }

// IsRelative reports whether m depends on the time at which it is asked for.
func (m Moment) IsRelative() bool { return m.text != "" }

// In returns the point in time of m if it is now. It is in UTC.
func (m Moment) In(now time.Time) time.Time {
	if !m.IsRelative() {
		return m.at
	}
	at := now.UTC().Add(-m.ago)
	if m.day {
		at = at.Truncate(24 * time.Hour) // days of UTC, since the zero time is a midnight there
	}
	return at
}

// String writes m in a form that Parse reads.
func (m Moment) String() string {
	if m.IsRelative() {
		return m.text
	}
	return m.at.Format(time.RFC3339Nano)
}
