//go:build unix

package field

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// TestATypeThatIsRefusedForAWhile: events of a type that the API refuses for a while come late,
// marked, once each and in order, though relay is killed while it refuses the type, and while the
// late events are published.
func TestATypeThatIsRefusedForAWhile(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"auto", "at_least_once"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithLatency(5*time.Millisecond, 0), sourcetest.WithTypeRefusal(refusals["documented"]))
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", strings.Replace(natsConfig(api.URL(), bus.URL), "type: nats", "type: nats, delivery: "+mode, 1))
			const refused, other = source.DsyncUserCreated, source.UserCreated
			first := appendEvents(t, api, refused, 100, 0)
			others := appendEvents(t, api, other, 100, 0)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 200 }, "the first events are there")

			api.RefuseTypes(refused)
			r.Says(t, "refuses an event type")
			late := appendEvents(t, api, refused, 500, 0)
			others = append(others, appendEvents(t, api, other, 300, 0)...)
			r.Await(t, func() bool { return countEvents(js, stream) == 500 }, "the other type goes on")
			require.Contains(t, r.Metrics(), `relay_source_refused_type{lane="nats",type="dsync.user.created"} 1`)
			r.Kill()
			late = append(late, appendEvents(t, api, refused, 500, 0)...)
			others = append(others, appendEvents(t, api, other, 300, 0)...)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 800 }, "the other type goes on after a restart")
			require.Equal(t, []string{refused}, r.Lane("nats").RefusedTypes)
			require.Contains(t, r.Metrics(), `relay_source_refused_type{lane="nats",type="dsync.user.created"} 1`)
			r.Kill()
			late = append(late, appendEvents(t, api, refused, 100, 0)...)

			api.AcceptTypes(refused)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) > 1000 }, "late events come")
			r.Kill()
			accepted := strings.Contains(r.Output(), "accepts an event type again") // if the kill came late
			r.Start(t)
			if !accepted {
				r.Says(t, "accepts an event type again")
			}
			r.Await(t, func() bool { return len(r.Lane("nats").RefusedTypes) == 0 && r.Lane("nats").State == pipeline.Running }, "the type is as all others")
			now := appendEvents(t, api, refused, 10, 0)
			others = append(others, appendEvents(t, api, other, 10, 0)...)
			total := len(first) + len(late) + len(now) + len(others)
			r.Await(t, func() bool { return last(eventIDs(t, js, stream)) == last(others) }, "all events are there")

			ids, marked := eventsOf(t, js, refused)
			want := slices.Concat(first, late, now)
			if mode == "at_least_once" { // one batch may have come twice
				require.LessOrEqual(t, countEvents(js, stream), total+200)
				ids, marked = firsts(ids), firsts(marked)
			} else {
				require.Equal(t, total, countEvents(js, stream))
			}
			require.Equal(t, want, ids)
			require.Equal(t, late, marked)
			require.Equal(t, exitDone, r.Stop(t))
			code, out, errs := r.Run(t, "verify", "--since", "earliest", "--until", "latest")
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "marked relay-late")
		})
	}
}

// TestATypeThatIsRefusedForAWhileOnKafka is the same without the deaths.
func TestATypeThatIsRefusedForAWhileOnKafka(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	bus := newKfake(t)
	r := newRelay(t, "relay", bus.config(api.URL(), ""))
	const refused, other = source.DsyncUserCreated, source.UserCreated
	appendEvents(t, api, refused, 100, 0)
	r.Start(t)
	r.Await(t, func() bool { return bus.count(t) == 100 }, "the first events are there")
	api.RefuseTypes(refused)
	r.Says(t, "refuses an event type")
	late := appendEvents(t, api, refused, 300, 0)
	appendEvents(t, api, other, 100, 0)
	r.Await(t, func() bool { return bus.count(t) == 200 }, "the other type goes on")
	api.AcceptTypes(refused)
	require.Equal(t, exitDone, r.Stop(t))
	r.Start(t)
	r.Await(t, func() bool { return bus.count(t) == 500 }, "the late events are there")
	r.Says(t, "accepts an event type again")
	marked := map[string]bool{}
	for _, records := range bus.read(t) {
		for _, record := range records {
			for _, h := range record.Headers {
				if h.Key == "relay-late" {
					marked[string(record.Value)] = true
				}
			}
		}
	}
	require.Len(t, marked, len(late))
	require.Equal(t, exitDone, r.Stop(t))
	code, out, errs := r.Run(t, "verify", "--since", "earliest", "--until", "latest")
	require.Equal(t, exitDone, code, out+errs)
}

// eventsOf returns the ids of a type's messages in the order of the stream, and those that are
// marked as late.
func eventsOf(t testing.TB, js jetstream.JetStream, eventType string) (ids, marked []string) {
	t.Helper()
	consumer, err := js.OrderedConsumer(t.Context(), stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{eventType}})
	require.NoError(t, err)
	messages, err := consumer.Messages()
	require.NoError(t, err)
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(t.Context()))
		require.NoError(t, err)
		id := m.Headers().Get("event-id")
		if ids = append(ids, id); m.Headers().Get("relay-late") != "" {
			marked = append(marked, id)
		}
		meta, err := m.Metadata()
		require.NoError(t, err)
		if meta.NumPending == 0 {
			return ids, marked
		}
	}
}

// firsts returns each id once, at its first occurrence.
func firsts(ids []string) (out []string) {
	seen := map[string]bool{}
	for _, id := range ids {
		if !seen[id] {
			out = append(out, id)
		}
		seen[id] = true
	}
	return out
}
