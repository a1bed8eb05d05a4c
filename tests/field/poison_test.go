//go:build unix

package field

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// advised finds the command that relay advises for an event that it stopped at.
var advised = regexp.MustCompile("`relay (checkpoint set [^`]*)`")

// eventsWithLarge appends n events of which the one at index large has 3 MB of text, and returns
// their ids.
func eventsWithLarge(t *testing.T, api *sourcetest.Server, n, large int) []string {
	t.Helper()
	return eventsWithSize(t, api, n, large, 3<<20)
}

// eventsWithSize appends n events of which the one at index large has text of so many bytes, and
// returns their ids.
func eventsWithSize(t *testing.T, api *sourcetest.Server, n, large, size int) []string {
	t.Helper()
	ids := make([]string, n)
	begin := time.Now().Add(-time.Duration(n) * time.Millisecond)
	for i := range ids {
		ids[i] = fmt.Sprintf("event_%020d_%06d", begin.UnixNano(), i)
		kind, pad := "user.created", 100
		if i == large {
			kind, pad = "dsync.group.created", size
		}
		at := begin.Add(time.Duration(i) * time.Millisecond).UTC().Format("2006-01-02T15:04:05.000Z")
		require.NoError(t, api.Append(fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":{"id":"user_%d","pad":%q},"created_at":"%s"}`,
			ids[i], kind, i, padding(i, pad), at)))
	}
	return ids
}

// published returns the ids of the events on a bus, in their order if the bus has one.
type published func() []string

// onNATS and onKafka start a bus, and return the configuration of a relay for it and what is
// published.
func onNATS(t *testing.T, api *sourcetest.Server, more string) (config string, ids published) {
	bus := newNATS(t, nil)
	js := bus.connect(t)
	return strings.Replace(natsConfig(api.URL(), bus.URL), "}]", more+"}]", 1), func() []string { return eventIDs(t, js, stream) }
}

func onKafka(t *testing.T, api *sourcetest.Server, more string) (config string, ids published) {
	bus := newKfake(t)
	return bus.config(api.URL(), more), func() []string { return bus.ids(t) }
}

// ids returns the event-id header of every committed record, sorted.
func (k *kafka) ids(t *testing.T) []string {
	t.Helper()
	var ids []string
	for _, records := range k.read(t) {
		for _, r := range records {
			for _, h := range r.Headers {
				if strings.EqualFold(h.Key, "event-id") {
					ids = append(ids, string(h.Value))
				}
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// TestFollowingTheAdviceSkipsOneEvent: a lane that stops at an event has committed all before it,
// and the command that it advises skips that event and no other.
//
// P1: the command that relay prints skips one event and no other.
// P9: the lane stops at the event by name.
func TestFollowingTheAdviceSkipsOneEvent(t *testing.T) {
	t.Parallel()
	const n = 2000
	for bus, on := range map[string]func(*testing.T, *sourcetest.Server, string) (string, published){"nats": onNATS, "kafka": onKafka} {
		for _, mode := range []string{"auto", "at_least_once"} {
			for _, large := range []int{0, 500, n - 1} {
				t.Run(fmt.Sprintf("%s, %s, at %d", bus, mode, large), func(t *testing.T) {
					t.Parallel()
					api := newAPI(t)
					ids := eventsWithLarge(t, api, n, large)
					config, have := on(t, api, ", delivery: "+mode)
					r := newRelay(t, "relay", config)
					r.Start(t)
					require.Equal(t, exitDecides, r.Wait(t))
					require.Equal(t, ids[:large], append([]string{}, have()...), "everything before the event is on the bus")
					command := advised.FindStringSubmatch(r.Output())
					require.NotNil(t, command, r.Tail(2000))
					require.Contains(t, command[1], ids[large])
					args := strings.Fields(command[1])

					for _, other := range []string{ids[min(large+1, n-1)], "latest"} {
						if other == ids[n-1] && large == n-1 {
							continue
						}
						code, out, errs := r.Run(t, "checkpoint", "set", other)
						require.NotEqual(t, exitDone, code, out+errs)
						require.Contains(t, errs, "--skip")
					}
					code, out, errs := r.Run(t, args...)
					require.Equal(t, exitDone, code, out+errs)
					require.Contains(t, out, "skipped 1 event that followed its position: "+ids[large])
					r.Start(t)
					rest := slices.Delete(slices.Clone(ids), large, large+1)
					r.Await(t, func() bool { return len(have()) == n-1 }, "the rest is on the bus")
					require.Equal(t, rest, have())
					require.Equal(t, exitDone, r.Stop(t))
				})
			}
		}
	}
}

// TestFollowingTheAdviceWhileRelayRuns: of two lanes one stops, and the command goes through the
// admin address.
func TestFollowingTheAdviceWhileRelayRuns(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := eventsWithLarge(t, api, 300, 123)
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", strings.Replace(natsConfig(api.URL(), bus.URL), "sinks: [",
		fmt.Sprintf("sinks: [{name: users, type: nats, url: %q, stream: USERS, topic_prefix: only., events: [\"user.*\"]}, ", bus.URL), 1))
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Stopped)
	r.Await(t, func() bool { return countEvents(js, "USERS") == 299 }, "the other lane goes on")
	require.Equal(t, ids[:123], eventIDs(t, js, stream))
	require.Equal(t, ids[122], r.Lane("nats").Position.EventID)
	code, _, errs := r.Run(t, "checkpoint", "set", ids[200], "--lane", "nats")
	require.NotEqual(t, exitDone, code)
	require.Contains(t, errs, fmt.Sprintf("would skip 78 events that follow its position, from %s to %s", ids[123], ids[200]))
	command := advised.FindStringSubmatch(r.Lane("nats").Reason)
	require.NotNil(t, command)
	code, out, errs := r.Run(t, strings.Fields(command[1])...)
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "skipped 1 event that followed its position: "+ids[123])
	r.Await(t, func() bool { return countEvents(js, stream) == 299 }, "the lane has carried the rest")

	// Backwards needs no agreement, also over events of other types.
	code, out, errs = r.Run(t, "checkpoint", "set", ids[10], "--lane", "nats")
	require.Equal(t, exitDone, code, out+errs)
	require.NotContains(t, out, "skipped")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestADeadLetterIsRefusedToo: the topic of dead letters takes less than the others. The event's
// dead letter goes there without the event, and if that does not fit either, everything before the
// event is delivered.
func TestADeadLetterIsRefusedToo(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{400, 8 << 10} {
		for _, mode := range []string{"auto", "at_least_once"} {
			t.Run(fmt.Sprintf("%d bytes, %s", limit, mode), func(t *testing.T) {
				t.Parallel()
				api := newAPI(t)
				const n, large = 400, 151
				ids := eventsWithSize(t, api, n, large, 1200<<10)
				bus := newKfake(t)
				_, err := bus.Admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": kadm.StringPtr(fmt.Sprint(limit))}, bus.Prefix+"workos.dead")
				require.NoError(t, err)
				r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+mode)+"dead_letter: {topic: workos.dead}\n")
				_, out, errs := r.Check(t)
				require.Contains(t, out+errs, "a dead letter may not fit", "check warns")
				r.Start(t)
				if limit == 400 {
					require.Equal(t, exitDecides, r.Wait(t))
					require.Equal(t, ids[:large], bus.ids(t))
					require.Contains(t, r.Output(), "nor can its dead letter")
					command := advised.FindStringSubmatch(r.Output())
					require.NotNil(t, command)
					code, out, errs := r.Run(t, strings.Fields(command[1])...)
					require.Equal(t, exitDone, code, out+errs)
					require.Contains(t, out, "skipped 1 event that followed its position: "+ids[large])
					return
				}
				r.Await(t, func() bool { return bus.count(t) == n }, "everything is on the bus, one event as a dead letter")
				require.Equal(t, ids, bus.ids(t))
				require.Equal(t, exitDone, r.Stop(t))
			})
		}
	}
}

// TestCountingIsHonest: what cannot be counted is said.
func TestCountingIsHonest(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := appendEvents(t, api, "user.created", 50, 0)
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 50 }, "all is carried")
	require.Equal(t, exitDone, r.Stop(t))
	code, out, errs := r.Run(t, "checkpoint", "set", ids[9])
	require.Equal(t, exitDone, code, out+errs)
	code, out, errs = r.Run(t, "checkpoint", "set", ids[19])
	require.NotEqual(t, exitDone, code, out)
	require.Contains(t, errs, "would skip 10 events that follow its position")
	require.NoError(t, api.Close())
	code, out, errs = r.Run(t, "checkpoint", "set", ids[19], "--skip")
	require.Equal(t, exitFailed, code, out)
	require.Contains(t, errs, "the Events API cannot be asked whether "+ids[19]+" exists")
	require.Contains(t, errs, "--unchecked")
	code, out, errs = r.Run(t, "checkpoint", "set", ids[19], "--unchecked")
	require.NotEqual(t, exitDone, code, out)
	require.Contains(t, errs, "an unknown number of events")
	require.Contains(t, errs, "--skip")
	code, out, errs = r.Run(t, "checkpoint", "set", ids[19], "--skip", "--unchecked")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "could not be counted")
}

// TestABusThatTakesLessThanBefore: the limit of the stream is lowered while relay runs, so that the
// server refuses an event that relay does not expect to be refused. In an atomic batch it does not
// say which.
func TestABusThatTakesLessThanBefore(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"auto", "at_least_once"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			first := appendEvents(t, api, "user.created", 10, 100)
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", strings.Replace(natsConfig(api.URL(), bus.URL), "}]", ", delivery: "+mode+"}]", 1))
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 10 }, "it gets on")
			s, err := js.Stream(t.Context(), stream)
			require.NoError(t, err)
			conf := s.CachedInfo().Config
			conf.MaxMsgSize = 10 << 10
			_, err = js.UpdateStream(t.Context(), conf)
			require.NoError(t, err)
			ids := slices.Concat(first, eventsWithSize(t, api, 200, 123, 100<<10))
			require.Equal(t, exitDecides, r.Wait(t))
			have := eventIDs(t, js, stream)
			require.Equal(t, ids[:133], have[:min(133, len(have))], "everything before the event is on the bus")
			if mode == "auto" {
				require.Len(t, have, 133, "and nothing after it")
			}
			command := advised.FindStringSubmatch(r.Output())
			require.NotNil(t, command, r.Tail(2000))
			code, out, errs := r.Run(t, strings.Fields(command[1])...)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "skipped 1 event that followed its position: "+ids[133])
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == len(ids)-1 }, "the rest is on the bus")
			require.Equal(t, slices.Delete(slices.Clone(ids), 133, 134), eventIDs(t, js, stream))
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}
