//go:build unix

package field

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/source/sourcetest"
)

// stateVerified is what `relay verify --state --json` says.
type stateVerified struct {
	Entities []struct {
		Entity                                                       string
		Listed, Stored, Missing, Stale, Ghosts, Unsettled, Unchecked int
		LeftOut                                                      int `json:"left_out"`
		Undecided                                                    int
	} `json:"entities"`
	Missing, Stale, Ghosts struct {
		Count    int
		Examples []struct{ Entity, Key, Differs string }
	}
	NotCompared []struct{ Entity, Why string } `json:"not_compared"`
	Faults      int
	Repair      *struct {
		Run      string
		Entities []string
		Left     []any
	}
}

// found returns the faults as "finding entity key".
func (v stateVerified) found() []string {
	out := []string{}
	for _, e := range v.Missing.Examples {
		out = append(out, "missing "+e.Entity+" "+e.Key)
	}
	for _, e := range v.Stale.Examples {
		out = append(out, "stale "+e.Entity+" "+e.Key)
	}
	for _, e := range v.Ghosts.Examples {
		out = append(out, "ghost "+e.Entity+" "+e.Key)
	}
	return out
}

func (r *relay) verifyState(t testing.TB, want int, flags ...string) stateVerified {
	t.Helper()
	code, out, errs := r.Run(t, append([]string{"verify", "--state", "--json", "--wait", "3s"}, flags...)...)
	require.Equal(t, want, code, "%s\n%s", out, errs)
	var v stateVerified
	require.NoError(t, json.Unmarshal([]byte(out), &v), out)
	return v
}

// vandal changes the state on a bus by hand. A nil value removes the object.
type vandal func(t testing.TB, entity, key string, value []byte)

// changeAnything makes a change of which events tell. It never deletes a directory or an
// organization: WorkOS removes what is in a directory without events.
func changeAnything(w *sourcetest.World, random *rand.Rand) {
	one := func(entity string) string {
		keys := w.Keys(entity)
		if len(keys) == 0 {
			return ""
		}
		return keys[random.IntN(len(keys))]
	}
	entities := []string{"organization", "user", "organization_membership", "connection", "role", "organization_role", "directory_user", "directory_group"}
	entity := entities[random.IntN(len(entities))]
	parents := map[string][]string{
		"organization_membership": {one("organization"), one("user")}, "connection": {one("organization")}, "organization_role": {one("organization")},
		"directory_user": {one("directory")}, "directory_group": {one("directory")},
	}
	// What cannot be done, for example since there is no such object, is left out.
	switch random.IntN(6) {
	case 0:
		_, _ = w.Create(entity, parents[entity]...)
	case 1:
		if entity != "organization" {
			_ = w.Delete(entity, one(entity))
		}
	case 2:
		_ = w.AddMember(one("directory_group"), one("directory_user"))
	default:
		_ = w.Update(entity, one(entity))
	}
}

// TestVerifyOfTheState: with every entity, redaction, routes that drop by where, and encodings a
// correct state shows no difference, also while the world changes. What was damaged by hand is
// found by its key, and a repair has the running relay mend it.
func TestVerifyOfTheState(t *testing.T) {
	t.Parallel()
	const state = `, state: {entities: ["*"], snapshot: first_start}`
	const routes = `
routes:
- {events: [organization_membership.*], where: 'data.user_id.matches("[A-H]$$")', drop: true}
- {events: ["dsync.user.*"], redact: [data.email, data.emails, data.raw_attributes], pseudonymize: [data.username]}
- {events: ["dsync.group.user_*"], redact: [data.user.email]}
redaction: {key: a-redaction-key-of-32-characters!}
`
	for name, on := range map[string]func(t testing.TB, api string) (string, vandal){
		"kafka": func(t testing.TB, api string) (string, vandal) {
			k := newKfake(t)
			client, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...))
			require.NoError(t, err)
			t.Cleanup(client.Close)
			return k.config(api, state) + "encoding: cloudevents_structured\n", func(t testing.TB, entity, key string, value []byte) {
				if value != nil {
					value = fmt.Appendf(nil, `{"specversion":"1.0","id":"x","source":"x","type":"x","data":%s}`, value)
				}
				require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: k.Prefix + "state." + entity, Key: []byte(key), Value: value}).FirstErr())
			}
		},
		"nats": func(t testing.TB, api string) (string, vandal) {
			js := newNATS(t, nil)
			client := js.connect(t)
			return strings.Replace(natsConfig(api, js.URL), "}]", state+"}]", 1), func(t testing.TB, entity, key string, value []byte) {
				if value == nil {
					s, err := client.Stream(t.Context(), "KV_STATE_"+entity)
					require.NoError(t, err)
					require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("$KV.STATE_"+entity+"."+key)))
					return
				}
				_, err := client.PublishMsg(t.Context(), &nats.Msg{Subject: "state." + entity + "." + key, Data: value})
				require.NoError(t, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{
				Seed: 3, Organizations: 6, Users: 60, Connections: 4, Roles: 3, Directories: 4, DirectoryUsers: 120, Groups: 2, GroupMembers: 5,
			}))
			w := api.World()
			random := rand.New(rand.NewPCG(1, 2))
			for range 200 {
				changeAnything(w, random)
			}
			config, damage := on(t, api.URL())
			r := newRelay(t, "relay", config+routes)
			r.Start(t)
			caughtUp := func() bool {
				l := r.Lane("")
				return l.Snapshot != nil && l.Snapshot.FinishedAt != nil && l.Position.EventID == last(api.IDs(sourcetest.Filter{}))
			}
			require.NoError(t, w.Update("user", w.Keys("user")[0]))
			r.Await(t, caughtUp, "the snapshot is finished and all events are there")

			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
						changeAnything(w, random)
					}
				}
			}()
			v := r.verifyState(t, exitDone)
			close(stop)
			<-stopped
			require.Equal(t, []string{}, v.found())
			// There are objects enough for what follows, also if many were deleted.
			group, err := w.Create("directory_group", w.Keys("directory")[0])
			require.NoError(t, err)
			for range 4 {
				_, err := w.Create("user")
				require.NoError(t, err)
				member, err := w.Create("directory_user", w.Keys("directory")[0])
				require.NoError(t, err)
				require.NoError(t, w.AddMember(group, member))
			}
			r.Await(t, caughtUp, "all events are there")

			v = r.verifyState(t, exitDone)
			require.Equal(t, []string{}, v.found())
			world, compared, leftOut := w.State(), map[string]bool{}, 0
			for _, e := range v.Entities {
				require.Equal(t, len(world[e.Entity]), e.Listed, e.Entity)
				require.Zero(t, e.Undecided+e.Unsettled+e.Unchecked, e.Entity)
				compared[e.Entity] = true
				leftOut += e.LeftOut
			}
			for entity := range world {
				require.True(t, compared[entity], entity)
			}
			require.Positive(t, leftOut)
			var not []string
			for _, n := range v.NotCompared {
				not = append(not, n.Entity)
			}
			require.Equal(t, []string{"connected_account", "flag_rule", "flag_target", "session", "waitlist_user"}, not)

			some := func(entity string, n int) string { return slices.Sorted(maps.Keys(world[entity]))[n] }
			user, older, bare, edited := some("user", 0), some("user", 1), some("user", 2), some("user", 3)
			membership := some("directory_group_membership", 0)
			damage(t, "user", user, nil)
			damage(t, "user", older, world["user"][older].Data)
			damage(t, "user", bare, fmt.Appendf(nil, `{"object":"user","id":%q,"updated_at":%q}`, bare, world["user"][bare].UpdatedAt.Format("2006-01-02T15:04:05.000Z")))
			damage(t, "user", edited, []byte(strings.Replace(string(world["user"][edited].Data), `"email":"`, `"email":"other.`, 1)))
			damage(t, "directory_group_membership", membership, nil)
			damage(t, "directory_user", "directory_user_01KGHOST", []byte(`{"object":"directory_user","id":"directory_user_01KGHOST"}`))
			// What follows comes behind what was deleted, so that a bucket of NATS tells at once
			// how far it has come.
			of, member, _ := strings.Cut(some("directory_group_membership", 1), "/")
			require.NoError(t, w.RemoveMember(of, member))
			require.NoError(t, w.AddMember(of, member))
			require.NoError(t, w.Update("user", older))
			r.Await(t, caughtUp, "all events are there")
			damage(t, "user", older, world["user"][older].Data)
			v = r.verifyState(t, exitFailed)
			want := []string{"missing user " + user, "missing directory_group_membership " + membership, "stale user " + older, "stale user " + bare, "stale user " + edited, "ghost directory_user directory_user_01KGHOST"}
			require.ElementsMatch(t, want, v.found())
			require.Equal(t, len(want), v.Faults)

			code, out, errs := r.Run(t, "verify", "--state", "--wait", "3s", "--repair")
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "stale: the bus has another version")
			require.Contains(t, out, "0 faults left")
			v = r.verifyState(t, exitDone, "--entities", "user,directory_user,directory_group_membership")
			require.Equal(t, []string{}, v.found())
			require.Len(t, v.Entities, 3)
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}
