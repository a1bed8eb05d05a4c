//go:build unix

package field

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
	"workos-relay/source/sourcetest"
)

// stateBuses are buses that keep state, each with the settings that users get.
var stateBuses = map[string]func(*testing.T) (sink string, state func(entities ...string) map[string]map[string]string){
	"kafka": func(t *testing.T) (string, func(...string) map[string]map[string]string) {
		k := newKfake(t)
		return fmt.Sprintf("name: bus, type: kafka, brokers: [%s], topic_prefix: %s", strings.Join(k.Brokers, ", "), k.Prefix),
			func(...string) map[string]map[string]string { return stateOnKafka(t, k) }
	},
	"nats": func(t *testing.T) (string, func(...string) map[string]map[string]string) {
		srv := newNATS(t, nil)
		js := srv.connect(t)
		return fmt.Sprintf("name: bus, type: nats, url: %q", srv.URL), func(entities ...string) map[string]map[string]string {
			all := map[string]map[string]string{}
			for _, entity := range entities {
				if objects, err := bucketState(t.Context(), js, "STATE_"+entity); err == nil {
					all[entity] = objects
				}
			}
			return all
		}
	},
}

// holds reports whether the state has the objects of these entities of the world and no others.
func holds(w *sourcetest.World, have map[string]map[string]string, entities ...string) bool {
	for _, entity := range entities {
		want := w.State()[entity]
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

// read reports whether the lane has finished a snapshot and carried every event.
func (r *relay) read() bool {
	l := r.Lane("bus")
	return l.Snapshot != nil && l.Snapshot.FinishedAt != nil && l.AtTip
}

// edit replaces a part of the configuration file.
func (r *relay) edit(t *testing.T, from, to string) {
	t.Helper()
	text := r.text(t)
	require.Equal(t, 1, strings.Count(text, from))
	r.WriteConfig(t, strings.Replace(text, from, to, 1))
}

// TestANewLaneBeginsWithASnapshot: with state.entities alone a new lane reads what WorkOS has
// before its first event, also if it is killed before that is finished. It reads an entity that is
// added later as well.
func TestANewLaneBeginsWithASnapshot(t *testing.T) {
	t.Parallel()
	for bus, prepare := range stateBuses {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 11, Organizations: 3, Users: 900, Roles: 2}))
			sink, state := prepare(t)
			r := newRelay(t, "relay", fmt.Sprintf("id: first-%s\n", bus)+strings.Replace(sourceConfig(api.URL()), "poll_interval", "rate_limit: 4, poll_interval", 1)+
				"sinks: [{"+sink+", state: {entities: [organization, user]}}]\n")
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "state: reads a snapshot of organization, user before the first event")
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("bus").Snapshot != nil }, "the snapshot has begun")
			r.Kill()
			for range 20 {
				api.World().Change()
			}
			r.edit(t, "rate_limit: 4", "rate_limit: 80")
			r.Start(t)
			r.Await(t, r.read, "the snapshot is finished")
			require.Empty(t, r.Lane("bus").StateUnread)
			r.Await(t, func() bool { return holds(api.World(), state("organization", "user"), "organization", "user") }, "the state is the world")
			run := r.Lane("bus").Snapshot.Run
			require.Equal(t, exitDone, r.Stop(t))

			r.Start(t)
			r.Await(t, r.read, "it goes on")
			require.Equal(t, run, r.Lane("bus").Snapshot.Run, "no entity is read twice")
			require.Equal(t, exitDone, r.Stop(t))
			r.edit(t, "[organization, user]", "[organization, user, role]")
			r.Start(t)
			r.Await(t, func() bool { return r.read() && r.Lane("bus").Snapshot.Run != run }, "the entity that was added is read")
			require.Equal(t, "role", r.Lane("bus").Snapshot.Entities[len(r.Lane("bus").Snapshot.Entities)-1].Entity)
			r.Await(t, func() bool { return holds(api.World(), state("role"), "role") }, "the state is the world")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestALaneThatGetsStateLaterSaysWhatItLacks: it begins no snapshot by itself, unless the
// configuration asks for it. relay says which state topics lack objects, and how to read them.
func TestALaneThatGetsStateLaterSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	for bus, prepare := range stateBuses {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 12, Organizations: 3, Users: 20, Roles: 2}))
			for range 20 {
				api.World().Change()
			}
			sink, state := prepare(t)
			r := newRelay(t, "relay", fmt.Sprintf("id: later-%s\n", bus)+sourceConfig(api.URL())+"sinks: [{"+sink+"}]\n")
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("bus").AtTip }, "the events are carried")
			require.Empty(t, r.Lane("bus").StateUnread)
			r.edit(t, "}]", ", state: {entities: [organization, user]}}]")
			code, out, errs := r.Run(t, "reload")
			require.Equal(t, exitDone, code, out+errs)
			r.Await(t, func() bool { return len(r.Lane("bus").StateUnread) == 2 && r.Lane("bus").AtTip }, "relay says what it lacks")
			r.Says(t, "state topics lack the objects that no event has told of, since no snapshot has read them")
			_, out, _ = r.Run(t, "status")
			require.Contains(t, out, "lane bus: state: not all objects of organization, user were read; `relay snapshot --lane bus --entities organization,user` reads them")
			require.Contains(t, r.Metrics(), "relay_state_unread_entities{lane=\"bus\"} 2\n")
			code, out, errs = r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "state: not all objects of organization, user were read; `relay snapshot --lane bus --entities organization,user` reads them")
			require.Nil(t, r.Lane("bus").Snapshot)

			code, out, errs = r.Run(t, "snapshot", "--entities", "user")
			require.Equal(t, exitDone, code, out+errs)
			require.Equal(t, []admin.UnreadEntity{{Entity: "organization"}}, r.Lane("bus").StateUnread)
			run := r.Lane("bus").Snapshot.Run
			require.Equal(t, exitDone, r.Stop(t))
			r.edit(t, "[organization, user]", "[organization, user], snapshot: first_start")
			r.Start(t)
			r.Await(t, func() bool { return r.read() && r.Lane("bus").Snapshot.Run != run }, "the configuration asks for the rest")
			require.Empty(t, r.Lane("bus").StateUnread)
			r.Await(t, func() bool { return holds(api.World(), state("organization", "user"), "organization", "user") }, "the state is the world")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// listRefusals are answers of an API, or of what is in front of it, to a key that may not read a
// list.
var listRefusals = map[string]http.HandlerFunc{
	"403": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "req_1")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"message":"This key may not read it."}`)
	},
	"401": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-Id", "req_1")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"message":"Unauthorized"}`)
	},
	"404 of an emulator": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Cannot GET", http.StatusNotFound) },
	"501":                func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotImplemented) },
}

// TestARefusedListHoldsNoEvents: a new lane goes on without the lists that WorkOS refuses, with the
// objects of the others, and says which it lacks until they are read. What it cannot look for it
// does not remove.
func TestARefusedListHoldsNoEvents(t *testing.T) {
	t.Parallel()
	for name, refuse := range listRefusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var refuses atomic.Bool
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 13, Organizations: 3, Users: 20, Roles: 2}))
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if refuses.Load() && (req.URL.Path == "/organizations" || strings.HasPrefix(req.URL.Path, "/user_management/users")) {
					refuse(w, req)
					return
				}
				api.ServeHTTP(w, req)
			}))
			t.Cleanup(front.Close)
			for range 20 {
				api.World().Change()
			}
			sink, state := stateBuses["kafka"](t)
			r := newRelay(t, "relay", fmt.Sprintf("id: refused-%d\n", len(name))+sourceConfig(front.URL)+"sinks: [{"+sink+", state: {entities: [user]}}]\n")
			r.Start(t)
			r.Await(t, r.read, "users are read")
			users := len(state()["user"])
			require.Equal(t, exitDone, r.Stop(t))

			refuses.Store(true)
			r.edit(t, "[user]", "[organization, user, organization_membership, role]")
			r.Start(t)
			r.Await(t, func() bool { return r.read() && len(r.Lane("bus").StateUnread) >= 2 }, "the snapshot goes on without what is refused")
			code, out, errs := r.Run(t, "snapshot", "--entities", "user")
			require.Equal(t, exitFailed, code, out+errs)
			require.Contains(t, errs, "WorkOS refuses lists, so that their state topics may lack objects; let the API key read them, then run relay snapshot --entities user: user: ")
			unread := r.Lane("bus").StateUnread
			require.Len(t, unread, 3)
			for i, entity := range []string{"organization", "user", "organization_membership"} {
				require.Equal(t, entity, unread[i].Entity)
				require.NotEmpty(t, unread[i].Reason)
			}
			_, out, _ = r.Run(t, "status")
			require.Contains(t, out, "`relay snapshot --lane bus --entities organization,user,organization_membership` reads them")
			require.Contains(t, out, "WorkOS refuses organization: ")
			require.Contains(t, r.Metrics(), "relay_state_unread_entities{lane=\"bus\"} 3\n")
			require.Contains(t, r.Output(), "snapshot: WorkOS refuses a list")
			r.Await(t, func() bool { return holds(api.World(), state(), "role") }, "the roles are there")
			require.Len(t, state()["user"], users, "none is removed")
			for range 20 {
				api.World().Change()
			}
			ids := api.IDs(sourcetest.Filter{})
			r.Await(t, func() bool { return r.Lane("bus").Position.EventID == ids[len(ids)-1] }, "events go on")

			refuses.Store(false)
			code, out, errs = r.Run(t, "snapshot", "--entities", "organization,user,organization_membership")
			require.Equal(t, exitDone, code, out+errs)
			require.Empty(t, r.Lane("bus").StateUnread)
			r.Await(t, func() bool {
				return holds(api.World(), state(), "organization", "user", "organization_membership", "role")
			}, "the state is the world")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}
