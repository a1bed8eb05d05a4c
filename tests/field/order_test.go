//go:build unix

package field

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// TestOrderRefused: an API that no longer takes the parameter order is read without it, from the
// start, at the tip and in a backlog.
func TestOrderRefused(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() (int, []byte){
		"400": func() (int, []byte) {
			return 400, []byte(`{"message":"Unknown query parameter 'order'.","code":"unknown_parameter"}`)
		},
		"422": func() (int, []byte) {
			return 422, []byte(`{"message":"Validation failed","errors":[{"code":"unrecognized","field":"order"}]}`)
		},
		"nothing is named": func() (int, []byte) { return 400, []byte(`{"message":"Bad Request"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithOldestFirst(), sourcetest.WithQueryRefusal(func(q url.Values) (int, []byte) {
				if q.Has("order") || q.Has("before") {
					return answer()
				}
				return 0, nil
			}), sourcetest.WithPopulation(sourcetest.Population{Seed: 1, Profile: []sourcetest.Span{{Length: 24 * time.Hour, Events: 6000}, {Length: time.Hour}}}))
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 6000 }, "the backlog is on the stream")
			appendEvents(t, api, source.UserCreated, 5, 0)
			r.Await(t, func() bool { return countEvents(js, stream) == 6005 }, "the events at the tip are on the stream")
			require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream))
			r.Says(t, "the Events API refuses an optional parameter")
			r.verify(t, exitDone)
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestOrderRefusedNewestFirst: if the API answers newest first without the parameter, relay stops
// rather than skip what lies between.
func TestOrderRefusedNewestFirst(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(300), sourcetest.WithQueryRefusal(func(q url.Values) (int, []byte) {
		if q.Has("order") {
			return 400, []byte(`{"message":"Unknown query parameter 'order'.","code":"unknown_parameter"}`)
		}
		return 0, nil
	}))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
	r.Start(t)
	require.Equal(t, exitDecides, r.Wait(t))
	require.Contains(t, r.Output(), "newest first")
	require.Zero(t, countEvents(js, stream))
}
