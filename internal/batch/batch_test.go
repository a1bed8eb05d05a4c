package batch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
)

// repeating gives each event as many messages as its type says, and refuses the type "bad".
type repeating struct{}

func (repeating) Append(batch []sink.Message, e *source.Event) ([]sink.Message, error) {
	if e.Event == "bad" {
		return batch, errors.New("no topic")
	}
	for range strings.Count(e.Event, "m") {
		batch = append(batch, sink.Message{Topic: "t", Body: []byte("xy"), Position: e.Position()})
	}
	return batch, nil
}

func (repeating) DeadLetter(e *source.Event, _, reason string, _, limit int) (sink.Message, error) {
	if e.ID == "hopeless" {
		return sink.Message{}, errors.New("no dead letter")
	}
	return sink.Message{Topic: "dead", Body: fmt.Appendf(nil, "%s %d", reason, limit), Position: e.Position()}, nil
}

func events(types ...string) []source.Event {
	out := make([]source.Event, len(types))
	for i, name := range types {
		out[i] = source.Event{ID: fmt.Sprint("event_", i), Event: name, Raw: []byte(name)}
	}
	return out
}

func newMaker(park bool) *Maker {
	return &Maker{Router: repeating{}, Park: park, MaxEvents: 100, MaxBytes: 1000, MustStop: func(err error) bool { return errors.Is(err, errStop) }}
}

var errStop = errors.New("stop")

func TestBatch(t *testing.T) {
	t.Parallel()
	b, err := newMaker(true).Queue(events("mm", "", "m", "bad", "mmm")).Next()
	require.NoError(t, err)
	require.Equal(t, []int{2, 2, 3, 4, 7}, b.Ends)
	require.Equal(t, "event_4", b.Next().EventID)
	for message, owner := range []int{0, 0, 2, 3, 4, 4, 4} {
		require.Equal(t, owner, b.Owner(message))
	}
	for n, whole := range []int{0, 0, 2, 3, 4, 4, 4, 5} {
		require.Equal(t, whole, b.Whole(n), n)
	}
	require.Zero(t, b.Tally(0))
	require.Equal(t, Tally{Messages: 2, Bytes: 4, Dropped: 1}, b.Tally(2))
	require.Equal(t, Tally{Messages: 7, Bytes: 12 + len("no topic 0"), Dropped: 1, Parked: []Parked{{"event_3", "bad", "no topic"}}}, b.Tally(5))
}

func TestABatchEndsBeforeAnEventThatCannotBePublished(t *testing.T) {
	t.Parallel()
	for _, park := range []bool{false, true} {
		e := events("m", "bad")
		if park {
			e[1].ID = "hopeless"
		}
		q := newMaker(park).Queue(e)
		b, err := q.Next()
		require.NoError(t, err)
		require.Len(t, b.Events, 1)
		require.NoError(t, q.Done(&b, 1, time.Second, nil, Verdict{}))
		_, err = q.Next()
		var at *EventError
		require.ErrorAs(t, err, &at)
		require.Equal(t, e[1].ID, at.EventID)
		require.Equal(t, park, at.Parks)
		require.Equal(t, 1, q.Len())
	}
}

// TestJudge covers each kind of failure, of the second of three events.
func TestJudge(t *testing.T) {
	t.Parallel()
	rejected := &sink.RejectedError{Topic: "t", Reason: "too large"}
	fatal := &sink.FatalError{Err: errors.New("gone")}
	down := errors.New("down")
	for name, c := range map[string]struct {
		failure error
		want    Verdict
	}{
		"none":              {nil, Verdict{}},
		"may pass":          {&sink.PublishError{Durable: 1, Err: down}, Verdict{Retry: &sink.PublishError{Durable: 1, Err: down}}},
		"the caller stops":  {&sink.PublishError{Durable: 1, Err: errStop}, Verdict{Culprit: 1, Stop: &sink.PublishError{Durable: 1, Err: errStop}}},
		"without a message": {errStop, Verdict{Stop: errStop}},
		"fatal, of one":     {&sink.PublishError{Durable: 1, Err: fatal}, Verdict{Culprit: 1}},
		"fatal, of all":     {fatal, Verdict{Retry: fatal}},
		"rejected":          {&sink.PublishError{Durable: 1, Err: rejected}, Verdict{Culprit: 1, Stop: &EventError{EventID: "event_1", Type: "m", Err: rejected}}},
	} {
		q := newMaker(false).Queue(events("m", "m", "m"))
		b, err := q.Next()
		require.NoError(t, err)
		require.Equal(t, c.want, q.Judge(&b, c.failure), name)
	}
}

// TestWhatPrecedesTheCulpritGoesFirst: a bus that refuses a batch as a whole names the event that
// is to blame; those before it are delivered before the delivery ends.
func TestWhatPrecedesTheCulpritGoesFirst(t *testing.T) {
	t.Parallel()
	q := newMaker(false).Queue(events("m", "m", "m"))
	refused := &sink.PublishError{Durable: 2, Err: &sink.RejectedError{Topic: "t", Reason: "too large"}}
	b, err := q.Next()
	require.NoError(t, err)
	require.NoError(t, q.Done(&b, 0, time.Second, refused, q.Judge(&b, refused)), "two events go first")
	b, err = q.Next()
	require.NoError(t, err)
	require.Len(t, b.Events, 2)
	require.NoError(t, q.Done(&b, 2, time.Second, nil, Verdict{}))
	b, err = q.Next()
	require.NoError(t, err)
	refused = &sink.PublishError{Err: refused.Err}
	require.ErrorAs(t, q.Done(&b, 0, time.Second, refused, q.Judge(&b, refused)), new(*EventError))
}

// TestADeadLetterThatIsRefusedLosesTheEvent: it is sent again without the event, and a refusal of
// that one ends the delivery.
func TestADeadLetterThatIsRefusedLosesTheEvent(t *testing.T) {
	t.Parallel()
	q := newMaker(true).Queue(events("m"))
	refused := &sink.PublishError{Err: &sink.RejectedError{Topic: "t", Reason: "too large", Limit: 50}}
	for _, body := range []string{"xy", "too large 50", "too large 1"} {
		b, err := q.Next()
		require.NoError(t, err)
		require.Equal(t, body, string(b.Messages[0].Body))
		v := q.Judge(&b, refused)
		require.NoError(t, v.Retry)
		if err = q.Done(&b, 0, time.Second, refused, v); body == "too large 1" {
			var at *EventError
			require.ErrorAs(t, err, &at)
			require.True(t, at.Parks)
			require.ErrorContains(t, err, "nor can its dead letter")
		} else {
			require.NoError(t, err)
		}
	}
}
