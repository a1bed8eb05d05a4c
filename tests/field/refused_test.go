//go:build unix

package field

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// refusals are ways in which the API may refuse an event type.
var refusals = map[string]func(name string) (int, []byte){
	"documented": func(string) (int, []byte) {
		return 422, []byte(`{"message":"Validation failed","errors":[{"code":"invalid_event","field":"events"}]}`)
	},
	"422 in the live wording": func(name string) (int, []byte) {
		return 422, fmt.Appendf(nil, `{"message":"Invalid event '%s'","code":"invalid_events_request"}`, name)
	},
	"other quotes": func(name string) (int, []byte) {
		return 400, fmt.Appendf(nil, `{"message":"The event \"%s\" is unknown","code":"invalid_request"}`, name)
	},
	"a valid type is named": func(string) (int, []byte) {
		return 400, []byte(`{"message":"unknown event; did you mean 'user.created'?"}`)
	},
	"nothing is named": func(string) (int, []byte) { return 422, []byte(`{"message":"Validation failed"}`) },
}

// TestRefusedTypes: event types that the API refuses, in any words, do not hold back other types.
func TestRefusedTypes(t *testing.T) {
	t.Parallel()
	for name, how := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gone := []string{source.SessionCreated, source.SessionRevoked, source.DsyncUserUpdated}
			api := newAPI(t, sourcetest.WithTypeRefusal(how), sourcetest.WithRefusedTypes(gone...),
				sourcetest.WithPopulation(sourcetest.Population{Seed: 1, Profile: []sourcetest.Span{{Length: 24 * time.Hour, Events: 6000}, {Length: time.Hour}}}))
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			for _, g := range gone {
				require.Contains(t, out, g)
			}
			r.Start(t)
			want := served(api, gone)
			r.Await(t, func() bool { return countEvents(js, stream) == len(want) }, "every other event of the backlog is on the stream")
			require.Equal(t, want, eventIDs(t, js, stream))

			// At the tip another type is refused.
			api.RefuseTypes(source.UserUpdated)
			want = append(want, appendEvents(t, api, source.UserCreated, 3, 0)...)
			r.Await(t, func() bool { return countEvents(js, stream) == len(want) }, "the events of other types follow")
			r.Says(t, source.UserUpdated)
			require.Equal(t, want, eventIDs(t, js, stream))
			require.Contains(t, r.Metrics(), `relay_source_refused_type{lane="nats",type="user.updated"} 1`)
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestTypesRefusedInABacklog: the API begins to refuse a type while several readers are at work on
// a backlog.
func TestTypesRefusedInABacklog(t *testing.T) {
	t.Parallel()
	const gone = source.SessionCreated
	api := newAPI(t, sourcetest.WithTypeRefusal(refusals["documented"]), sourcetest.WithLatency(20*time.Millisecond, 0),
		sourcetest.WithPopulation(sourcetest.Population{Seed: 1, Profile: []sourcetest.Span{{Length: 24 * time.Hour, Events: 30_000}, {Length: time.Hour}}}))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) > 5_000 }, "the backlog is being read")
	api.RefuseTypes(gone)
	others := served(api, []string{gone})
	kept := map[string]bool{}
	for _, id := range others {
		kept[id] = true
	}
	r.Await(t, func() bool {
		return countEvents(js, stream) >= len(others) && last(eventIDs(t, js, stream)) == last(others)
	}, "the backlog has been read")
	require.Equal(t, others, slices.DeleteFunc(eventIDs(t, js, stream), func(id string) bool { return !kept[id] }))
	require.Equal(t, 1, strings.Count(r.Output(), "refuses an event type"), "it is said once")
	require.Equal(t, exitDone, r.Stop(t))
}

// served returns the ids of the API's events whose type is not one of without.
func served(api *sourcetest.Server, without []string) []string {
	all, err := source.Expand([]string{"*"})
	if err != nil {
		panic(err)
	}
	return api.IDs(sourcetest.Filter{Types: slices.DeleteFunc(all, func(name string) bool { return slices.Contains(without, name) })})
}

// last returns the last of ids, or nothing.
func last(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ids[len(ids)-1]
}
