package source

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An event may follow one that is a minute younger, and whether a range holds what happened at its
// bounds is not known.
func TestWhereAPageByTimeIsWhole(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		at   []time.Duration // of the events, after the start of the range
		end  time.Duration
		want int
	}{
		"the second is more than a minute after the start": {[]time.Duration{time.Minute, time.Minute + ms, time.Hour}, 2 * time.Hour, 1},
		"none is": {[]time.Duration{0, time.Minute}, 2 * time.Hour, 0},
		"the last is more than a minute before the end": {[]time.Duration{0, time.Hour}, time.Hour + time.Minute + ms, 1},
		"the last is a minute before the end":           {[]time.Duration{0, time.Hour}, time.Hour + time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var events []Event
			for _, at := range tc.at {
				events = append(events, Event{CreatedAt: epoch.Add(at)})
			}
			require.Equal(t, tc.want, wholeFrom(events, epoch, epoch.Add(tc.end)))
		})
	}
}
