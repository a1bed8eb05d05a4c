package deadletter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/internal/republish"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

// Replay publishes the events of dead letters again, in their order, and says so on the dead letter
// topic right behind each event. An event that fails stays a dead letter.
type Replay struct {
	Index  *Index
	Router *router.Router
	// Publisher has its Mark. Replay sets its Router, and lets it park nothing.
	Publisher *republish.Publisher
	// Carries reports whether the lane carries a type.
	Carries func(eventType string) bool
	// Find asks the source for the event of a dead letter that does not carry it. A
	// *NotFoundError says that the source does not have it.
	Find func(ctx context.Context, l *Letter) (*source.Event, error)
	// Progress, if not nil, is called after each batch with how many dead letters it is through.
	Progress func(done int)

	under   map[string]*underWay // by event id
	outcome Outcome
}

// underWay is the dead letter of an event that is being published.
type underWay struct {
	letter  *Letter
	content Content
	router  *router.Router // for the event
}

// Outcome is what became of dead letters.
type Outcome struct {
	Published int       // events that were published again
	Dropped   int       // events that a route drops; they stay dead letters
	Failed    []Failure // events that cannot be published; they stay dead letters
}

// Failure is an event that stays a dead letter, and why.
type Failure struct {
	Letter *Letter
	Err    error
}

// NotFoundError says that the event of a dead letter is not in it, and that the source does not
// have it either.
type NotFoundError struct{ Err error }

// Error implements error.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("the event is not in its dead letter as its route needs it, and %v: the Events API reaches back 90 days at most", e.Err)
}

// Unwrap returns why the source does not have it.
func (e *NotFoundError) Unwrap() error { return e.Err }

// errNotCarried says that the lane does not carry the type of an event.
var errNotCarried = errors.New("the lane does not carry its type; add the type to source.events and to the sink's events")

// errOnlyState says that the bus has refused the state message of an event, and not the event.
var errOnlyState = errors.New("the event is published, and only its state message was refused; a newer event of the object, or a snapshot, sets the state")

// RecordError says that an event may have been published again, and that the dead letter topic
// refuses the message which says so: another run would publish the event once more.
type RecordError struct {
	EventID string
	Err     error
}

// Error implements error.
func (e *RecordError) Error() string {
	return fmt.Sprintf("the dead letter topic does not take the message that event %s was published again, so another run would publish it once more: %v", e.EventID, e.Err)
}

// OperatorAction implements operator.Error.
func (*RecordError) OperatorAction() string {
	return "let the topic of the dead letters take messages of 2 KB, then go on"
}

// Unwrap returns the cause.
func (e *RecordError) Unwrap() error { return e.Err }

// Run publishes the events of letters. It waits for a bus and a source that are down until ctx
// ends. With an error it returns what became of the letters until then.
func (r *Replay) Run(ctx context.Context, letters []*Letter) (Outcome, error) {
	r.Publisher.Router, r.Publisher.Park = recording{r}, false
	for done := 0; done < len(letters); {
		n := window(letters[done:])
		if err := r.publish(ctx, letters[done:done+n]); err != nil {
			return r.outcome, err
		}
		done += n
		if r.Progress != nil {
			r.Progress(done)
		}
	}
	return r.outcome, nil
}

// window returns how many of the first letters are published at once. Their events are in memory
// meanwhile.
func window(letters []*Letter) int {
	size := 0
	for i, l := range letters {
		if size += max(l.size, l.Size); i > 0 && (size > republish.BatchBytes || i >= republish.BatchEvents/2) {
			return i
		}
	}
	return len(letters)
}

func (r *Replay) publish(ctx context.Context, letters []*Letter) error {
	contents, err := r.Index.Load(ctx, letters)
	if err != nil {
		return err
	}
	r.under = make(map[string]*underWay, len(letters))
	var events []source.Event
	for _, l := range letters {
		e, route, err := r.event(ctx, l, contents[l])
		if err != nil {
			if _, missing := errors.AsType[*NotFoundError](err); !missing && !errors.Is(err, errNotCarried) && !errors.Is(err, errOnlyState) {
				return err
			}
			r.outcome.Failed = append(r.outcome.Failed, Failure{l, err})
			continue
		}
		events = append(events, *e)
		r.under[e.ID] = &underWay{l, contents[l], route}
	}
	for len(events) > 0 {
		before := r.Publisher.Counts()
		done, err := r.Publisher.Publish(ctx, events)
		after := r.Publisher.Counts()
		dropped := after.Dropped - before.Dropped
		r.outcome.Dropped += dropped
		r.outcome.Published += done - dropped
		events = events[done:]
		if err == nil {
			break
		}
		stop, one := errors.AsType[*republish.StopError](err)
		if !one || len(events) == 0 || events[0].ID != stop.EventID {
			return err
		}
		if refused, ok := errors.AsType[*sink.RejectedError](stop.Err); ok && refused.Topic == r.Router.DeadLetterTopic() {
			return &RecordError{EventID: stop.EventID, Err: refused}
		}
		r.outcome.Failed = append(r.outcome.Failed, Failure{r.under[stop.EventID].letter, stop.Err})
		events = events[1:]
	}
	return nil
}

// event returns the event of a dead letter, and the router for it.
func (r *Replay) event(ctx context.Context, l *Letter, c Content) (*source.Event, *router.Router, error) {
	if slices.ContainsFunc(r.Router.StateTopics(), func(s sink.StateTopic) bool { return s.Topic == l.Topic }) {
		return nil, nil, errOnlyState
	}
	if !r.Carries(l.Type) {
		return nil, nil, errNotCarried
	}
	return c.EventOf(l, r.Router, func() (*source.Event, error) { return r.Find(ctx, l) })
}

// EventOf returns the event of a dead letter, and the router for it, which is like r. The event
// comes out of the dead letter unless it is not in there, is not what was put there, or unless what
// was taken out of it makes a difference to r. Then find asks the source.
func (c *Content) EventOf(l *Letter, r *router.Router, find func() (*source.Event, error)) (*source.Event, *router.Router, error) {
	e, route := c.parse(l), r.RouterFor(&l.Letter)
	if e == nil || route == nil {
		var err error
		if e, err = find(); err != nil {
			return nil, nil, err
		}
		route = r
	}
	if i := slices.IndexFunc(c.Headers, func(h sink.Header) bool { return h.Key == router.HeaderLate }); i >= 0 {
		e.LateSince, _ = time.Parse(time.RFC3339, c.Headers[i].Value) // zero if it is not a time
	}
	return e, route, nil
}

// parse returns the event in a dead letter, or nil if none is there or if it is not the one that
// was put there.
func (c *Content) parse(l *Letter) *source.Event {
	if len(c.Event) == 0 {
		return nil
	}
	if sum := sha256.Sum256(c.Event); hex.EncodeToString(sum[:]) != l.SHA256 {
		return nil
	}
	e, err := source.ParseEvent(c.Event)
	if err != nil || e.Event != l.Type || e.ID != l.EventID && !strings.HasSuffix(l.EventID, cutMark) {
		return nil
	}
	return &e
}

// recording is a router that puts behind the messages of an event the one that says that its dead
// letter was published again.
type recording struct{ *Replay }

// Append implements pipeline.Router.
func (r recording) Append(messages []sink.Message, e *source.Event) ([]sink.Message, error) {
	of, n := r.under[e.ID], len(messages)
	messages, err := of.router.Append(messages, e)
	if err != nil || len(messages) == n {
		return messages, err
	}
	record := r.Router.ReplayedMessage(of.letter.record(&router.Replayed{
		Run: r.Publisher.Mark.Value, At: time.Now().UTC().Truncate(time.Millisecond), Topic: messages[n].Topic,
	}), of.content.Key, of.content.Headers)
	record.Position = e.Position()
	return append(messages, record), nil
}

// record sets in m what it says of the letter, and returns m.
func (l *Letter) record(m *router.Replayed) *router.Replayed {
	m.EventID, m.Type, m.Created, m.SHA256 = l.EventID, l.Type, l.CreatedAt, l.SHA256
	m.Letter, m.Letters = l.Stored.UTC(), l.places
	return m
}

// DeadLetter implements pipeline.Router. No event is parked again.
func (r recording) DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error) {
	return r.Router.DeadLetter(e, topic, reason, size, limit)
}

var _ pipeline.Router = recording{}
