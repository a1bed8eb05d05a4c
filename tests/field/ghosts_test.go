//go:build unix

package field

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// TestASnapshotRemovesWhatIsGone deletes a directory, of whose users, groups and members WorkOS
// sends no events, and roles without an event. The next snapshot takes them out of the state, and
// leaves everything else.
func TestASnapshotRemovesWhatIsGone(t *testing.T) {
	t.Parallel()
	entities := strings.Split(strings.TrimPrefix(strings.Split(kept, "]")[0], "state: {entities: ["), ", ")
	for bus, prepare := range map[string]func(*testing.T) (sink string, state func() map[string]map[string]string){
		"kafka": func(t *testing.T) (string, func() map[string]map[string]string) {
			k := newKfake(t)
			return fmt.Sprintf("{name: bus, type: kafka, brokers: [%s], topic_prefix: %s, %s}", strings.Join(k.Brokers, ", "), k.Prefix, kept),
				func() map[string]map[string]string { return stateOnKafka(t, k) }
		},
		"nats": func(t *testing.T) (string, func() map[string]map[string]string) {
			srv := newNATS(t, nil)
			js := srv.connect(t)
			return fmt.Sprintf("{name: bus, type: nats, url: %q, %s}", srv.URL, kept), func() map[string]map[string]string {
				all := map[string]map[string]string{}
				for _, entity := range entities {
					if objects, err := bucketState(t.Context(), js, "STATE_"+entity); err == nil {
						all[entity] = objects
					}
				}
				return all
			}
		},
	} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{
				Seed: 3, Organizations: 2, Users: 5, Roles: 3, Directories: 3, DirectoryUsers: 60, Groups: 2, GroupMembers: 4,
			}))
			world := api.World()
			_, err := world.Create("organization_role", world.Keys("organization")[0])
			require.NoError(t, err)
			sink, state := prepare(t)
			r := newRelay(t, "relay", fmt.Sprintf("id: ghosts-%s\n", bus)+sourceConfig(api.URL())+"sinks: ["+sink+"]\n")
			r.Start(t)
			finished := func() bool {
				l := r.Lane("bus")
				return l.Snapshot != nil && l.Snapshot.FinishedAt != nil && l.AtTip
			}
			r.Await(t, finished, "the first snapshot is finished")
			holds := func() bool { return sameObjects(world, state()) }
			r.Await(t, holds, "the state is the world")

			require.NoError(t, world.Delete("directory", world.Keys("directory")[1]))
			r.Await(t, func() bool { return len(state()["directory"]) == 2 }, "the directory is removed")
			r.Await(t, func() bool { return len(state()["directory_user"]) == 60 }, "its users have no events, and stay")
			for _, entity := range []string{"role", "organization_role"} {
				require.NoError(t, world.Vanish(entity, world.Keys(entity)[0]))
			}
			code, out, errs := r.Run(t, "snapshot")
			require.Equal(t, exitDone, code, out+errs)
			r.Await(t, finished, "the second snapshot is finished")
			r.Await(t, holds, "what is gone is out of the state")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// sameObjects reports whether the state has the keys of the world and no others.
func sameObjects(w *sourcetest.World, have map[string]map[string]string) bool {
	for entity, want := range w.State() {
		if len(have[entity]) != len(want) {
			return false
		}
		for key := range want {
			if _, there := have[entity][key]; !there {
				return false
			}
		}
	}
	return true
}
