//go:build unix

package field

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// kept are the entities of the World.
const kept = "state: {entities: [organization, user, organization_membership, connection, role, organization_role, directory, directory_user, directory_group, directory_group_membership], snapshot: first_start}"

// TestASnapshotSurvivesKills: relay is killed 30 times while it reads a snapshot of
// objects that change, and later. In the end the state topics have what WorkOS has, and the events
// of what changed were published.
func TestASnapshotSurvivesKills(t *testing.T) {
	t.Parallel()
	world := sourcetest.WorldConfig{
		Seed: 7, Organizations: 30, Users: 4000, Connections: 30, Roles: 5, Directories: 40, DirectoryUsers: 40_000, Groups: 3, GroupMembers: 20,
	}
	api := newAPI(t, sourcetest.WithWorld(world), sourcetest.WithLatency(5*time.Millisecond, 10*time.Millisecond))
	const bus = "kafka"
	k := newKfake(t)
	config := k.config(api.URL(), ", "+kept)
	config = strings.Replace(config, "poll_interval", "rate_limit: 200, poll_interval", 1)
	r := newRelay(t, "relay", config)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 30 {
		for range 20 {
			api.World().Change()
		}
		r.Start(t)
		var before uint64
		r.Await(t, func() bool {
			s := r.Lane(bus).Snapshot
			if s == nil {
				return false
			}
			var objects uint64
			for _, e := range s.Entities {
				objects += e.Objects
			}
			if before == 0 {
				before = objects + 1
			}
			return s.FinishedAt != nil || objects > before+uint64(200+rnd.IntN(1500)) //nolint:gosec // small
		}, "the snapshot gets on")
		r.Kill()
	}
	r.Start(t)
	changed := time.Now()
	for time.Since(changed) < 3*time.Second {
		api.World().Change()
		time.Sleep(5 * time.Millisecond)
	}
	r.Await(t, func() bool {
		l := r.Lane(bus)
		return l.Snapshot != nil && l.Snapshot.FinishedAt != nil && l.AtTip && l.Position.EventID == last(api.IDs(sourcetest.Filter{}))
	}, "the snapshot is finished and all events are there")
	requireState(t, api.World(), stateOnKafka(t, k), true)
	require.Equal(t, exitDone, r.Stop(t))
}

// stateOnKafka reads the state topics as a consumer does.
func stateOnKafka(t *testing.T, k *kafka) map[string]map[string]string {
	t.Helper()
	return stateIn(k.read(t), k.Prefix)
}
