package republish

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// list is a source: pages of events, the last of them at the tip unless there is no end.
type list struct {
	pages  [][]source.Event
	err    error
	handed int
}

func (l *list) Pages(context.Context, checkpoint.Position) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		for i, events := range l.pages {
			l.handed++
			if !yield(source.Page{Events: events, Tip: i == len(l.pages)-1, Size: 1000 * len(events)}, nil) {
				return
			}
		}
		if l.err != nil {
			yield(source.Page{}, l.err)
		}
	}
}

// at makes events that many seconds after noon.
func at(seconds ...int) []source.Event {
	events := make([]source.Event, len(seconds))
	for i, s := range seconds {
		id := fmt.Sprintf("event_%d", s)
		raw := fmt.Appendf(nil, `{"id":%q,"event":"user.created","data":{}}`, id)
		events[i] = source.Event{ID: id, Event: "user.created", CreatedAt: noon.Add(time.Duration(s) * time.Second), Raw: raw}
	}
	return events
}

func ids(events []source.Event) []string {
	out := []string{}
	for _, e := range events {
		out = append(out, e.ID)
	}
	return out
}

func TestSpan(t *testing.T) {
	for name, c := range map[string]struct {
		pages  [][]source.Event
		want   []string
		handed int
	}{
		"ends at the tip":                       {[][]source.Event{at(1, 2), at(3)}, []string{"event_1", "event_2", "event_3"}, 2},
		"the end is included, what follows not": {[][]source.Event{at(1, 10), at(11, 12)}, []string{"event_1", "event_10"}, 2},
		"an event that stands a little late":    {[][]source.Event{at(1, 12), at(9, 13), at(100), at(5)}, []string{"event_1", "event_9"}, 3},
		"what is far past it is not read":       {[][]source.Event{at(1), at(71), at(72), at(73)}, []string{"event_1"}, 2},
		"nothing":                               {[][]source.Event{nil}, []string{}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := &list{pages: c.pages}
			var got []source.Event
			for page, err := range (Span{Until: noon.Add(10 * time.Second)}).Pages(t.Context(), l) {
				require.NoError(t, err)
				require.NotEmpty(t, page.Events)
				got = append(got, page.Events...)
			}
			require.Equal(t, c.want, ids(got))
			require.Equal(t, c.handed, l.handed)
		})
	}
	for through, want := range map[string]int{"event_2": 2, "event_3": 3, "event_4": 4, "event_0": 5} {
		l := &list{pages: [][]source.Event{at(1, 2, 3), at(4, 5)}}
		n := 0
		for page, err := range (Span{Until: noon.Add(time.Hour), Through: through}).Pages(t.Context(), l) {
			require.NoError(t, err)
			n += len(page.Events)
		}
		require.Equal(t, want, n, through)
	}
	s := Span{Since: checkpoint.Position{CreatedAt: noon}, Until: noon.Add(100 * time.Second)}
	require.InDelta(t, 0.25, s.Fraction(noon.Add(time.Second), noon.Add(25*time.Second)), 1e-9)
	require.InDelta(t, 1, s.Fraction(noon, noon.Add(time.Hour)), 1e-9)
	s.Since = checkpoint.Position{EventID: "event_0"}
	require.InDelta(t, 0.5, s.Fraction(noon.Add(50*time.Second), noon.Add(75*time.Second)), 1e-9)
}

// bus answers each Publish by the next of its answers, and keeps what is durable.
type bus struct {
	answers []func(batch []sink.Message) error
	batches int
	stored  []sink.Message
}

func (b *bus) Close() error { return nil }

func (b *bus) Publish(_ context.Context, batch []sink.Message) (err error) {
	if b.batches < len(b.answers) {
		err = b.answers[b.batches](batch)
	}
	b.batches++
	for _, m := range batch[:sink.Durable(err, len(batch))] {
		m.Headers = slices.Clone(m.Headers) // the array is the caller's
		b.stored = append(b.stored, m)
	}
	return err
}

func durable(n int, err error) func([]sink.Message) error {
	return func([]sink.Message) error { return &sink.PublishError{Durable: n, Err: err} }
}

func newPublisher(t *testing.T, b *bus, deadLetter string) *Publisher {
	t.Helper()
	r, err := router.New(router.Config{DeadLetter: deadLetter, Routes: []router.Route{{Events: []string{"session.*"}, Drop: true}}})
	require.NoError(t, err)
	return &Publisher{
		Sink: b, Router: r, Mark: sink.Header{Key: router.HeaderReplay, Value: "run"}, Park: deadLetter != "",
		ShutdownTimeout: 30 * time.Second, Logger: zap.NewNop(),
	}
}

func storedIDs(b *bus) (out []string) {
	for _, m := range b.stored {
		out = append(out, m.Headers[0].Value)
	}
	return out
}

func TestPublish(t *testing.T) {
	tooLarge := &sink.RejectedError{Topic: "user.created", Reason: "too large"}
	synctest.Test(t, func(t *testing.T) {
		b := &bus{answers: []func([]sink.Message) error{durable(1, errors.New("down")), durable(0, errors.New("down"))}}
		events := at(1, 2, 3)
		events[1].Event = "session.created"
		p := newPublisher(t, b, "")
		n, err := p.Publish(t.Context(), events)
		require.NoError(t, err)
		require.Equal(t, 3, n)
		require.Equal(t, []string{"event_1", "event_3"}, storedIDs(b), "what is durable is not sent again")
		require.Equal(t, Counts{Events: 3, Messages: 2, Dropped: 1}, p.Counts())
		for _, m := range b.stored {
			require.Empty(t, m.ID, "a bus would take it for a second copy")
			require.Equal(t, p.Mark, m.Headers[len(m.Headers)-1])
		}
	})
	t.Run("a poison event is parked", func(t *testing.T) {
		b := &bus{answers: []func([]sink.Message) error{durable(1, tooLarge)}}
		p := newPublisher(t, b, "dead")
		n, err := p.Publish(t.Context(), at(1, 2, 3))
		require.NoError(t, err)
		require.Equal(t, 3, n)
		require.Equal(t, []string{"user.created", "dead", "user.created"}, []string{b.stored[0].Topic, b.stored[1].Topic, b.stored[2].Topic})
		require.Equal(t, Counts{Events: 3, Messages: 3, Parked: 1}, p.Counts())
		require.Equal(t, p.Mark, b.stored[1].Headers[len(b.stored[1].Headers)-1])
		require.Empty(t, b.stored[1].ID)
	})
	t.Run("or stops there, and so does a dead letter that is refused", func(t *testing.T) {
		for dead, remedy := range map[string]string{"": "; configure dead_letter to park", "dead": "; let the bus accept it"} {
			b := &bus{answers: []func([]sink.Message) error{durable(1, tooLarge), durable(0, tooLarge), durable(0, tooLarge)}}
			n, err := newPublisher(t, b, dead).Publish(t.Context(), at(1, 2, 3))
			var stop *StopError
			require.ErrorAs(t, err, &stop)
			require.Equal(t, "event_2", stop.EventID)
			require.ErrorContains(t, err, remedy)
			require.Equal(t, 1, n)
		}
	})
	t.Run("an event without its bytes", func(t *testing.T) {
		events := at(1, 2, 3)
		events[2].Raw = nil
		b := &bus{}
		n, err := newPublisher(t, b, "").Publish(t.Context(), events)
		var stop *StopError
		require.ErrorAs(t, err, &stop)
		require.Equal(t, 2, n)
		require.Equal(t, []string{"event_1", "event_2"}, storedIDs(b))
	})
	t.Run("a fault that an operator must mend ends it", func(t *testing.T) {
		fatal := &sink.FatalError{Err: errors.New("the stream is gone")}
		n, err := newPublisher(t, &bus{answers: []func([]sink.Message) error{durable(1, fatal)}}, "").Publish(t.Context(), at(1, 2))
		require.ErrorIs(t, err, fatal)
		require.Equal(t, 1, n)
	})
}

// TestPublishRetriesAsALaneDoes covers what a lane does about a failing bus besides trying again.
func TestPublishRetriesAsALaneDoes(t *testing.T) {
	t.Run("a batch that does not get through in time becomes smaller", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const fits = 5
			var sizes []int
			narrow := func(batch []sink.Message) error {
				if sizes = append(sizes, len(batch)); len(batch) <= fits {
					return nil
				}
				return &sink.PublishError{Err: &sink.TimeoutError{Setting: "ack_timeout", Err: errors.New("nothing acknowledged")}}
			}
			b := &bus{answers: slices.Repeat([]func([]sink.Message) error{narrow}, 1000)}
			n, err := newPublisher(t, b, "").Publish(t.Context(), at(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16))
			require.NoError(t, err)
			require.Equal(t, 16, n)
			require.Equal(t, []int{16, 8, 4}, sizes[:3])
			require.Len(t, b.stored, 16)
		})
	})
	t.Run("a bus that does not take a dead letter now is asked again after a pause", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			answers := []func([]sink.Message) error{durable(0, &sink.RejectedError{Topic: "user.created", Reason: "too large"})}
			b := &bus{answers: append(answers, slices.Repeat([]func([]sink.Message) error{durable(0, errors.New("down"))}, 10)...)}
			p := newPublisher(t, b, "dead")
			began := time.Now()
			n, err := p.Publish(t.Context(), at(1))
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, Counts{Events: 1, Messages: 1, Parked: 1}, p.Counts())
			require.Greater(t, time.Since(began), 10*time.Second)
		})
	})
	t.Run("no further batch is begun once ctx has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := func([]sink.Message) error { cancel(); return nil }
		b := &bus{answers: []func([]sink.Message) error{ended}}
		events := at(1, 2)
		events[1].Raw = nil // cannot be routed, so the batch ends before it
		n, err := newPublisher(t, b, "").Publish(ctx, events)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1, n)
		require.Equal(t, 1, b.batches)
	})
}

// hanging is a bus that answers only when its context ends.
type hanging struct{ began chan struct{} }

func (h *hanging) Close() error { return nil }
func (h *hanging) Publish(ctx context.Context, _ []sink.Message) error {
	close(h.began)
	<-ctx.Done()
	return &sink.PublishError{Durable: 1, Err: ctx.Err()}
}

func TestABatchUnderWayHasTimeToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := &hanging{began: make(chan struct{})}
		p := newPublisher(t, &bus{}, "")
		p.Sink = h
		go func() { <-h.began; cancel() }()
		began := time.Now()
		n, err := p.Publish(ctx, at(1, 2, 3))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1, n)
		require.Equal(t, p.ShutdownTimeout, time.Since(began))
	})
}

func TestReplay(t *testing.T) {
	many := make([][]source.Event, 25)
	var want []string
	for i := range many {
		var seconds []int
		for j := range 100 {
			seconds = append(seconds, i*100+j)
		}
		many[i] = at(seconds...)
		want = append(want, ids(many[i])...)
	}
	span := Span{Until: noon.Add(time.Hour)}
	b := &bus{}
	var seen []string
	last, err := Replay(t.Context(), &list{pages: many}, span, newPublisher(t, b, ""), func(e *source.Event) { seen = append(seen, e.ID) })
	require.NoError(t, err)
	require.Equal(t, want, storedIDs(b))
	require.Equal(t, "event_2499", last.ID)
	require.Equal(t, 3, b.batches, "900, 900 and 700: as many pages as fit")
	require.Equal(t, []string{"event_899", "event_1799", "event_2499"}, seen)

	t.Run("an error of the source keeps what was published", func(t *testing.T) {
		lost := errors.New("cursor lost")
		l := &failing{list{pages: many[:12], err: lost}}
		last, err := Replay(t.Context(), l, span, newPublisher(t, &bus{}, ""), nil)
		require.ErrorIs(t, err, lost)
		require.Equal(t, "event_899", last.ID)
	})
	t.Run("no batch is begun once ctx has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &bus{}
		last, err := Replay(ctx, &list{pages: many}, span, newPublisher(t, b, ""), func(*source.Event) { cancel() })
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, "event_899", last.ID)
		require.Equal(t, 1, b.batches)
	})
}

// failing is a list that never says that it is at its tip.
type failing struct{ list }

func (f *failing) Pages(ctx context.Context, after checkpoint.Position) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		for page, err := range f.list.Pages(ctx, after) {
			if page.Tip = false; !yield(page, err) {
				return
			}
		}
	}
}
