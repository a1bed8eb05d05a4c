package checkpoint

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func at(n int) Position {
	return Position{EventID: fmt.Sprintf("event_%03d", n), CreatedAt: time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC)}
}

func passed(from, to int) (out []Position) {
	for n := from; n <= to; n++ {
		out = append(out, at(n))
	}
	return out
}

func TestMovedRemembersTheLastEvents(t *testing.T) {
	c := Checkpoint{}.Moved(at(2), passed(1, 2))
	require.Equal(t, Recent{Events: passed(1, 2)}, c.Recent, "the lane began with the first event there is")
	c = c.Moved(at(40), passed(3, 40))
	require.Equal(t, passed(25, 40), c.Recent.Events)
	require.Equal(t, at(24).CreatedAt.Add(1), c.Recent.From, "all others are older")
	require.Equal(t, c, c.Moved(c.Position, nil))

	// An event without messages is passed too.
	c = c.Moved(at(41), nil)
	require.Equal(t, passed(26, 41), c.Recent.Events)
	// Late events do not move the position, and are remembered.
	late := Position{EventID: "event_late", CreatedAt: at(5).CreatedAt}
	c = c.Moved(c.Position, []Position{late})
	require.Equal(t, at(41), c.Position)
	require.Equal(t, late, c.Recent.Events[MaxRecent-1])
	// An old event that is forgotten says nothing of younger ones.
	require.Equal(t, at(26).CreatedAt.Add(1), c.Recent.From)
}

func TestMovedFromWhatOlderRelaysRecorded(t *testing.T) {
	for name, tc := range map[string]struct {
		from Position
		want time.Time
	}{
		"an event":            {at(1), at(1).CreatedAt.Add(Disorder)},
		"an event by id only": {Position{EventID: "event_x"}, at(2).CreatedAt.Add(Disorder)},
		"a time":              {Position{CreatedAt: at(1).CreatedAt}, at(1).CreatedAt},
		"the beginning":       {Position{}, time.Time{}},
	} {
		c := Checkpoint{Position: tc.from}.Moved(at(2), passed(2, 2))
		require.Equal(t, tc.want, c.Recent.From, name)
		require.Equal(t, at(2), c.Recent.Events[len(c.Recent.Events)-1], name)
		_, err := Decode(Encode(c))
		require.NoError(t, err)
	}
	require.Equal(t, Recent{Events: passed(1, 1), From: at(1).CreatedAt.Add(Disorder)}, Recent{}.Seeded(at(1)))
}

func TestAskingOtherTypes(t *testing.T) {
	c := full()
	require.Equal(t, c.Seen, c.Asking(c.Events).Seen)
	require.Equal(t, c.Seen, c.Asking(c.Events[:1]).Seen, "fewer types: what was seen of all holds for them")
	require.Zero(t, c.Asking(append([]string{"a.b"}, c.Events...)).Seen)
	c.Events = nil
	require.Zero(t, c.Asking([]string{"a.b"}).Seen)
	c.Events = []string{"vault.data.read", "vault.kek.created"}
	require.Equal(t, c.Refused[:1], c.Asking(c.Events[:1]).Refused)
}

func TestPlacedKeepsWhatIsMissing(t *testing.T) {
	c := Checkpoint{Position: at(50), Seen: at(50).CreatedAt, Recent: Recent{Events: passed(50, 50)}, Refused: []Refused{{Type: "a.b", Position: at(10)}}}
	for to, want := range map[Position]Position{at(60): at(10), at(5): at(5), {}: {}, {EventID: "event_x"}: at(10)} {
		p := c.Placed(to)
		require.Equal(t, want, p.Refused[0].Position)
		require.Zero(t, p.Seen)
		require.True(t, p.Recent.IsZero())
		require.Equal(t, to, p.Position)
	}
	require.Equal(t, at(10), c.Refused[0].Position)
}

// TestAPartOfACommitIsRememberedAsAPart: what a commit of all its events says of them holds for a
// part of them as far as that goes.
func TestAPartOfACommitIsRememberedAsAPart(t *testing.T) {
	c := Checkpoint{}.Moved(at(2), passed(1, 2))
	c.Refused = []Refused{{Type: "joins", Position: at(9)}, {Type: "missing", Position: at(1)}} // as after the commit to 9
	part := c.MovedPartly(passed(3, 5), at(9))
	require.Equal(t, at(5), part.Position)
	require.Equal(t, Recent{Events: passed(1, 5)}, part.Recent)
	require.Equal(t, []Refused{{Type: "joins", Position: at(5)}, {Type: "missing", Position: at(1)}}, part.Refused)
	require.Equal(t, at(9), c.Refused[0].Position, "c is not changed")
}
