//go:build unix

package field

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
)

// bucketsOf are the entities whose state the tests keep. Events tell of each change of these.
var bucketsOf = []string{"organization", "organization_membership", "user"}

// changeWorld makes n changes of the objects of bucketsOf.
func changeWorld(t testing.TB, w *sourcetest.World, random *rand.Rand, n int) {
	t.Helper()
	one := func(entity string) string {
		keys := w.Keys(entity)
		if len(keys) == 0 {
			return ""
		}
		return keys[random.IntN(len(keys))]
	}
	for range n {
		organization, user, membership := one("organization"), one("user"), one("organization_membership")
		var err error
		switch random.IntN(8) {
		case 0:
			_, err = w.Create("organization")
		case 1, 2:
			_, err = w.Create("user")
		case 3:
			if organization != "" && user != "" {
				_, err = w.Create("organization_membership", organization, user)
			}
		case 4:
			if user != "" && w.Count("user") > 5 {
				err = w.Delete("user", user)
			}
		case 5:
			if organization != "" {
				err = w.Update("organization", organization)
			}
		case 6:
			if membership != "" {
				err = w.Update("organization_membership", membership)
			}
		case 7:
			if user != "" {
				err = w.Update("user", user)
			}
		}
		require.NoError(t, err)
	}
}

// bucketState reads a bucket with the plain client: keys, and each value by get.
func bucketState(ctx context.Context, js jetstream.JetStream, bucket string) (map[string]string, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, err
	}
	lister, err := kv.ListKeys(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for key := range lister.Keys() {
		e, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		all[key] = string(e.Value())
	}
	return all, nil
}

// awaitBuckets waits until the buckets hold what the world has, and nothing else. The prefix begins
// their names.
func awaitBuckets(t testing.TB, r *relay, js jetstream.JetStream, prefix string, w *sourcetest.World) {
	t.Helper()
	want := w.State()
	for _, entity := range bucketsOf {
		r.Await(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			have, err := bucketState(ctx, js, prefix+"STATE_"+entity)
			if err != nil || len(have) != len(want[entity]) {
				return false
			}
			for key, o := range want[entity] {
				if have[key] != string(o.Data) {
					return false
				}
			}
			return true
		}, "bucket %sSTATE_%s holds the %d objects of the world", prefix, entity, len(want[entity]))
	}
}

// TestStateInBuckets: with users' defaults, the buckets come to hold the present state whenever
// relay is killed, and with the embedded server the server too. A client that watches a bucket ends
// with the same state. A bucket that is deleted comes back complete.
func TestStateInBuckets(t *testing.T) {
	t.Parallel()
	const section = "state: {entities: [organization, organization_membership, user], snapshot: never}"
	for name, start := range map[string]func(t *testing.T) (url, sink string){
		"embedded": func(t *testing.T) (url, sink string) {
			address := testaddr.Free(t)
			return "nats://" + address, fmt.Sprintf("url: embedded, embedded: {listen: %q}", address)
		},
		"exactly_once": func(t *testing.T) (url, sink string) {
			bus := newNATS(t, nil)
			return bus.URL, fmt.Sprintf("url: %q", bus.URL)
		},
		"at_least_once": func(t *testing.T) (url, sink string) {
			bus := newNATS(t, nil)
			return bus.URL, fmt.Sprintf("url: %q, delivery: at_least_once", bus.URL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, 16)) //nolint:gosec // what happens, not a secret
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 1}))
			url, sink := start(t)
			r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, %s, %s}]\n", sink, section))
			js := (&natsServer{URL: url}).connect(t, nats.RetryOnFailedConnect(true), nats.ReconnectWait(50*time.Millisecond))
			changeWorld(t, api.World(), random, 50)
			for range 5 {
				r.Start(t)
				changeWorld(t, api.World(), random, 60)
				time.Sleep(200*time.Millisecond + time.Duration(random.IntN(600))*time.Millisecond)
				changeWorld(t, api.World(), random, 5)
				r.Kill()
			}
			r.Start(t)
			awaitBuckets(t, r, js, "", api.World())

			kv, err := js.KeyValue(t.Context(), "STATE_user")
			require.NoError(t, err)
			watch, err := kv.WatchAll(t.Context())
			require.NoError(t, err)
			changeWorld(t, api.World(), random, 100)
			awaitBuckets(t, r, js, "", api.World())
			seen, want := map[string]string{}, api.World().State()["user"]
			same := func() bool {
				for key, o := range want {
					if seen[key] != string(o.Data) {
						return false
					}
				}
				return len(seen) == len(want)
			}
			for !same() {
				select {
				case e := <-watch.Updates():
					switch {
					case e == nil: // what was there is told
					case e.Operation() == jetstream.KeyValuePut:
						seen[e.Key()] = string(e.Value())
					default:
						delete(seen, e.Key())
					}
				case <-time.After(patient):
					require.Fail(t, "the client that watches does not see the state")
				}
			}

			require.NoError(t, js.DeleteKeyValue(t.Context(), "STATE_user"))
			require.Equal(t, exitDone, r.Stop(t))
			if name == "embedded" {
				r.Start(t)
				awaitBuckets(t, r, js, "", api.World())
				require.Equal(t, exitDone, r.Stop(t))
				return
			}
			if err := js.DeleteKeyValue(t.Context(), "STATE_user"); err != nil { // relay may have made it again before it stopped
				require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
			}
			code, out, errs := r.Run(t, "verify", "--since", "earliest", "--until", time.Now().Add(time.Minute).UTC().Format(time.RFC3339))
			require.Equal(t, exitDone, code, "%s%s", out, errs)
			code, out, errs = r.Check(t)
			require.Equal(t, exitDone, code, "%s%s", out, errs)
			require.Contains(t, out, "bucket STATE_user, to be created")
			require.Contains(t, out, "bucket STATE_organization, replicas 1")
			r.Start(t)
			awaitBuckets(t, r, js, "", api.World())
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestStateInBucketsElsewhere: the buckets are with the stream, in the account whose JetStream API
// relay imports, or in another domain than that of the server that relay is connected to.
func TestStateInBucketsElsewhere(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) (js jetstream.JetStream, sink string){
		"imports": func(t *testing.T) (jetstream.JetStream, string) {
			bus := newNATS(t, importing(t))
			return bus.connect(t, nats.UserInfo("bus", "bus")), fmt.Sprintf("url: %q, auth: {user: relay, password: relay}, api_prefix: bus.API", bus.URL)
		},
		"domain": func(t *testing.T) (jetstream.JetStream, string) {
			hub, leaf, _ := hubAndLeaf(t)
			return hub.connect(t), fmt.Sprintf("url: %q, domain: hub", leaf.URL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(2, 16)) //nolint:gosec // what happens, not a secret
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 2}))
			js, sink := start(t)
			r := newRelay(t, "relay", sourceConfig(api.URL())+
				fmt.Sprintf("sinks: [{name: nats, type: nats, topic_prefix: workos., state: {entities: [organization, organization_membership, user], snapshot: never}, %s}]\n", sink))
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, "%s%s", out, errs)
			changeWorld(t, api.World(), random, 60)
			r.Start(t)
			awaitBuckets(t, r, js, "workos_", api.World())
			require.Equal(t, exitDone, r.Stop(t))
			code, out, errs = r.Check(t)
			require.Equal(t, exitDone, code, "%s%s", out, errs)
			require.Contains(t, out, "bucket workos_STATE_user, replicas 1")
		})
	}
}
