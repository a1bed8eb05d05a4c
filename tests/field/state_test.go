//go:build unix

package field

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// TestStateOnKafka lets relay keep every entity of a world that changes while it runs, is killed
// and starts again. At the end the state topics hold the world: each object as its last event told,
// and none that was removed, except for those of a deleted directory, of which WorkOS sends no
// events.
func TestStateOnKafka(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		bus  func(testing.TB) *kafka
		more string
		seed uint64
	}{
		"fake, exactly_once":  {func(t testing.TB) *kafka { return newKfake(t) }, "", 1},
		"fake, at_least_once": {func(t testing.TB) *kafka { return newKfake(t) }, "delivery: at_least_once, ", 2},
		"real, exactly_once":  {realKafka, "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus := test.bus(t)
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: test.seed}))
			r := newRelay(t, "relay", "takeover_after: 3s\n"+bus.config(api.URL(), ", "+test.more+`state: {entities: ["*"], snapshot: never}, create: {partitions: 2, config: {min.compaction.lag.ms: "0"}}`))
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			for round := range 3 {
				for range 150 {
					api.World().Change()
				}
				r.Start(t)
				some := uint64(1 + 60*round) //nolint:gosec // a few; relay is killed while it catches up
				r.Await(t, func() bool { return r.Lane("").Events >= some }, "relay carries events")
				r.Kill()
			}
			for range 50 {
				api.World().Change()
			}
			r.Start(t)
			ids := api.IDs(sourcetest.Filter{})
			r.Await(t, func() bool { return r.Lane("").Position.EventID == ids[len(ids)-1] }, "all events are committed")
			requireWorld(t, api.World(), bus.settled(t), bus.Prefix)

			code, out, errs = r.Run(t, "verify", "--since", "earliest", "--until", time.Now().Add(time.Minute).UTC().Format(time.RFC3339))
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, fmt.Sprintf("%d events of the source", len(ids)))
			code, out, errs = r.Run(t, "replay", "--since", "earliest", "--until", "latest")
			require.Equal(t, exitDone, code, out+errs)
			requireWorld(t, api.World(), bus.settled(t), bus.Prefix) // old events, published again, change no state
			require.Equal(t, exitDone, r.Stop(t))

			code, out, errs = r.Check(t, "--verbose")
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, bus.Prefix+"state.directory_user  <- the state of each directory_user  2 partitions")
			require.Contains(t, out, "cleanup.policy compact")
			require.NotContains(t, out, "Kafka will keep only the last event of each key")
		})
	}
}

// settled returns what read does once no transaction is open any more: Kafka ends one after it has
// told relay that it will.
func (k *kafka) settled(t testing.TB) map[string][]*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	require.Eventually(t, func() bool {
		names, err := k.topics(ctx)
		require.NoError(t, err)
		stable, err := k.Admin.ListCommittedOffsets(ctx, names...)
		require.NoError(t, err)
		ends, err := k.Admin.ListEndOffsets(ctx, names...)
		require.NoError(t, err)
		open := false
		ends.Each(func(o kadm.ListedOffset) {
			s, ok := stable.Lookup(o.Topic, o.Partition)
			open = open || !ok || s.Offset != o.Offset
		})
		return !open
	}, patient, often)
	return k.read(t)
}

// stateIn returns the objects, by entity and key, that the records of each partition leave behind.
func stateIn(all map[string][]*kgo.Record, prefix string) map[string]map[string]string {
	have := map[string]map[string]string{}
	for _, records := range all {
		for _, r := range records {
			entity, isState := strings.CutPrefix(r.Topic, prefix+"state.")
			switch {
			case !isState:
				continue
			case have[entity] == nil:
				have[entity] = map[string]string{}
			}
			if r.Value == nil {
				delete(have[entity], string(r.Key))
			} else {
				have[entity][string(r.Key)] = string(r.Value)
			}
		}
	}
	return have
}

// requireWorld requires that the state topics among the records hold the world.
func requireWorld(t testing.TB, w *sourcetest.World, all map[string][]*kgo.Record, prefix string) {
	t.Helper()
	for _, records := range all {
		for _, r := range records {
			entity, isState := strings.CutPrefix(r.Topic, prefix+"state.")
			if !isState {
				require.NotNil(t, r.Value, r.Topic)
				continue
			}
			require.Equal(t, entity, headerOf(r, "entity"))
			require.NotEmpty(t, headerOf(r, "event-id"))
		}
	}
	requireState(t, w, stateIn(all, prefix), false)
}

// requireState compares state topics, by entity and key, with the World; listed if objects may also
// be as the lists show them. What was deleted with its directory has no event, and may be there.
func requireState(t testing.TB, w *sourcetest.World, have map[string]map[string]string, listed bool) {
	t.Helper()
	objects, wrong, world := 0, 0, w.State()
	complain := func(format string, args ...any) {
		if wrong++; wrong < 10 {
			t.Errorf(format, args...)
		}
	}
	for entity, want := range world {
		for key, o := range want {
			objects++
			value, there := have[entity][key]
			switch {
			case !there:
				complain("%s %s is missing", entity, key)
			case entity == "directory_group_membership": // its user and group may have changed since
			case value != string(o.Data) && (!listed || value != string(o.Listed)):
				complain("%s %s is\n%s\ninstead of\n%s", entity, key, value, o.Data)
			}
		}
	}
	for entity, objects := range have {
		for key, value := range objects {
			if _, there := world[entity][key]; there {
				continue
			}
			var object struct {
				Directory string `json:"directory_id"`
			}
			require.NoError(t, json.Unmarshal([]byte(value), &object))
			if _, there := world["directory"][object.Directory]; there || object.Directory == "" {
				complain("%s %s is still there: %s", entity, key, value)
			}
		}
	}
	require.Greater(t, objects, 20)
	require.Zero(t, wrong)
}

// TestACompactedStateTopicIsNoLoss: Kafka removes versions of a user that newer ones replace, while
// relay runs and while it stands still. Nothing is lost by that, and the state stays what it was.
func TestACompactedStateTopicIsNoLoss(t *testing.T) {
	t.Parallel()
	bus := realKafka(t)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{}))
	text := bus.config(api.URL(), `, events: ["user.*"], state: {entities: [user], snapshot: never}, create: {partitions: 1, config: {segment.ms: "100", min.cleanable.dirty.ratio: "0.01"}}`)
	r := newRelay(t, "relay", text)
	w := api.World()
	kept, err := w.Create("user")
	require.NoError(t, err)
	gone, err := w.Create("user")
	require.NoError(t, err)
	change := func(n int) {
		for range n {
			require.NoError(t, w.Update("user", kept))
		}
		ids := api.IDs(sourcetest.Filter{})
		r.Await(t, func() bool { return r.Lane("").Position.EventID == ids[len(ids)-1] }, "all events are committed")
	}
	topic := bus.Prefix + "state.user"
	stored := func() (n int) {
		for _, r := range of(bus.settled(t), topic) {
			require.Equal(t, topic, r.Topic)
			n++
		}
		return n
	}
	r.Start(t)
	change(50)
	require.NoError(t, w.Delete("user", gone))
	time.Sleep(150 * time.Millisecond) // the segment is rolled by the next record, if it is old enough
	change(1)
	require.Eventually(t, func() bool { return stored() < 20 }, patient, time.Second, "Kafka compacts the topic")
	ends, err := bus.Admin.ListEndOffsets(ctx, topic)
	require.NoError(t, err)
	end, _ := ends.Lookup(topic, 0)
	require.Greater(t, end.Offset, int64(50))

	require.Equal(t, exitDone, r.Stop(t))
	r.Start(t)
	change(5)
	r.AwaitState(t, "", pipeline.Running)
	code, out, errs := r.Run(t, "verify", "--since", "earliest", "--until", time.Now().Add(time.Minute).UTC().Format(time.RFC3339))
	require.Equal(t, exitDone, code, out+errs)
	last := map[string]string{}
	for _, r := range of(bus.settled(t), topic) {
		last[string(r.Key)] = string(r.Value)
	}
	for key, o := range w.Objects("user") {
		require.Equal(t, string(o.Data), last[key])
		delete(last, key)
	}
	require.Empty(t, last[gone])
}
