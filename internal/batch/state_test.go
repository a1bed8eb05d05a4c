package batch

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

// keeping makes a state message of each event with an s in its type, and refuses the type "msbad".
type keeping struct{}

func (keeping) AppendState(batch []sink.Message, e *source.Event, admit func(*source.Event, *state.Change) bool) ([]sink.Message, error) {
	if e.Event == "msbad" {
		return batch, errors.New("no form")
	}
	if e.Event != "ms" && e.Event != "s" || admit != nil && !admit(e, &state.Change{Entity: "user", Key: e.ID}) {
		return batch, nil
	}
	return append(batch, sink.Message{Topic: "state.user", Entity: "user", Body: []byte("o"), Position: e.Position()}), nil
}

func topics(b *Batch) []string {
	out := make([]string, len(b.Messages))
	for i, m := range b.Messages {
		out[i] = m.Topic
	}
	return out
}

func TestAStateMessageFollowsThatOfItsEvent(t *testing.T) {
	t.Parallel()
	m := newMaker(true)
	m.State = keeping{}
	b, err := m.Queue(events("ms", "m", "s", "ms")).Next()
	require.NoError(t, err)
	require.Equal(t, []string{"t", "state.user", "t", "t", "state.user"}, topics(&b))
	require.Equal(t, []int{2, 3, 3, 5}, b.Ends, "an event that is dropped changes no state")
	require.Equal(t, Tally{Messages: 5, Bytes: 8, Dropped: 1}, b.Tally(4))

	m.Admit = func(e *source.Event, c *state.Change) bool { return c.Key != "event_0" }
	b, err = m.Queue(events("ms", "ms")).Next()
	require.NoError(t, err)
	require.Equal(t, []string{"t", "t", "state.user"}, topics(&b))
}

func TestABatchEndsAtMaxMessages(t *testing.T) {
	t.Parallel()
	m := newMaker(true)
	m.State, m.MaxMessages = keeping{}, 3
	q := m.Queue(events("ms", "m", "ms", "mmmmm", "m"))
	for _, want := range []int{2, 1, 1, 1} {
		b, err := q.Next()
		require.NoError(t, err)
		require.Len(t, b.Events, want)
		require.Len(t, b.Ends, want)
		require.Len(t, b.Messages, b.Ends[want-1])
		require.NoError(t, q.Done(&b, want, time.Second, nil, Verdict{}))
	}
	require.Zero(t, q.Len())
}

// refusing returns the failure of a bus that never takes message n.
func refusing(n int) error {
	return &sink.PublishError{Durable: n, Err: &sink.RejectedError{Topic: "t", Reason: "too large", Limit: 10}}
}

// TestWhatIsRefusedIsLeftOut: if one of the two messages of an event can never be published, the
// other one still goes out, and one dead letter says what was refused.
func TestWhatIsRefusedIsLeftOut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		types   []string
		refused []int // message of each attempt that the bus refuses
		want    []string
		reason  string
	}{
		"the event":                       {types: []string{"m", "ms"}, refused: []int{1}, want: []string{"t", "state.user", "dead"}, reason: "too large 10"},
		"its state":                       {types: []string{"m", "ms"}, refused: []int{2}, want: []string{"t", "t", "dead"}, reason: "too large 10"},
		"both, the event first":           {types: []string{"m", "ms"}, refused: []int{1, 1}, want: []string{"t", "dead"}, reason: "too large 10"},
		"both, the state first":           {types: []string{"m", "ms"}, refused: []int{2, 1}, want: []string{"t", "dead"}, reason: "too large 10"},
		"the letter of the event":         {types: []string{"m", "ms"}, refused: []int{1, 2}, want: []string{"t", "state.user", "dead"}, reason: "too large 1"},
		"the letter of the state":         {types: []string{"m", "ms"}, refused: []int{2, 2}, want: []string{"t", "t", "dead"}, reason: "too large 1"},
		"state that cannot be made":       {types: []string{"m", "msbad"}, want: []string{"t", "t", "dead"}, reason: "no form 0"},
		"event that cannot be made":       {types: []string{"m", "bad"}, want: []string{"t", "dead"}, reason: "no topic 0"},
		"behind an event that is dropped": {types: []string{"", "ms"}, refused: []int{1}, want: []string{"t", "dead"}, reason: "too large 10"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMaker(true)
			m.State = keeping{}
			q := m.Queue(events(test.types...))
			for _, n := range test.refused {
				b, err := q.Next()
				require.NoError(t, err)
				require.Equal(t, Verdict{}, q.Judge(&b, refusing(n)))
			}
			b, err := q.Next()
			require.NoError(t, err)
			require.Equal(t, test.want, topics(&b))
			for _, m := range b.Messages {
				if m.Topic == "dead" {
					require.Equal(t, test.reason, string(m.Body))
				}
			}
			require.Len(t, b.Tally(2).Parked, 1)
		})
	}
	m := newMaker(true)
	m.State = keeping{}
	q := m.Queue(events("ms"))
	for _, n := range []int{1, 1} {
		b, err := q.Next()
		require.NoError(t, err)
		require.Equal(t, Verdict{}, q.Judge(&b, refusing(n)))
	}
	b, err := q.Next()
	require.NoError(t, err)
	var at *EventError
	require.ErrorAs(t, q.Judge(&b, refusing(1)).Stop, &at, "the shorter letter is refused too")

	m = newMaker(false)
	m.State = keeping{}
	q = m.Queue(events("m", "ms"))
	b, err = q.Next()
	require.NoError(t, err)
	v := q.Judge(&b, refusing(2))
	require.Equal(t, 1, v.Culprit)
	require.ErrorAs(t, v.Stop, &at)
	require.Equal(t, "event_1", at.EventID)
}
