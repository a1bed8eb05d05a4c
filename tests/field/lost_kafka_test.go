//go:build unix

package field

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// TestTopicDeleted deletes a topic of events, or the topic of the position, while relay runs, and
// while it stands still; and makes it again, as a broker that creates topics by itself does.
func TestTopicDeleted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		real       bool
		mode       string
		what, when string
		again      bool
	}{
		{false, "auto", "events", "running", false},
		{false, "auto", "events", "idle", true},
		{false, "auto", "position", "stopped", false},
		{false, "auto", "position", "running", true},
		{false, "at_least_once", "events", "running", false},
		{false, "at_least_once", "events", "stopped", true},
		{true, "auto", "events", "stopped", true},
		{true, "at_least_once", "events", "running", true},
	} {
		name := fmt.Sprintf("real=%v/%s/%s/%s/again=%v", c.real, c.mode, c.what, c.when, c.again)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var bus *kafka
			if c.real {
				bus = realKafka(t)
			} else {
				bus = newKfake(t)
			}
			testTopicDeleted(t, bus, lostModes[c.mode], c.what, c.when, c.again)
		})
	}
}

func testTopicDeleted(t *testing.T, bus *kafka, key, what, when string, again bool) {
	const users, others = 50, 30
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	api := newAPI(t)
	appendEvents(t, api, "user.created", users, 0)
	appendEvents(t, api, "session.created", others, 0)
	r := newRelay(t, "relay", bus.config(api.URL(), key))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("").Events == users+others }, "all events are committed")
	topic := bus.Prefix + "user.created"
	if what == "position" {
		topic = "relay.position." + bus.ID + ".kafka"
	}
	if when == "stopped" {
		require.Equal(t, exitDone, r.Stop(t))
	}
	before, err := bus.Admin.ListTopics(ctx, topic)
	require.NoError(t, err)
	_, err = bus.Admin.DeleteTopic(ctx, topic)
	require.NoError(t, err)
	if again {
		created := func() bool {
			var configs map[string]*string
			if what == "position" {
				configs = map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
			}
			res, err := bus.Admin.CreateTopic(ctx, int32(len(before[topic].Partitions)), 1, configs, topic) //nolint:gosec // a few
			return err == nil && res.Err == nil
		}
		require.Eventually(t, created, patient, often)
	}
	switch when {
	case "running":
		appendEvents(t, api, "user.created", 10, 0)
	case "stopped":
		r.Start(t)
	}
	if what == "position" && when == "running" && again && storedAgain(t, r, users+others+10) {
		return
	}
	said := endsWithQuestion(t, r)
	if again {
		require.Contains(t, said, "kafka topic "+topic+" was deleted and made again")
	} else {
		require.Contains(t, said, "kafka topic "+topic+" was deleted")
	}
	if what == "events" {
		require.Regexp(t, `relay had stored (about )?(50|60) events`, said)
	}
	require.Contains(t, said, "relay checkpoint set --lane kafka event_")
	r.Start(t) // it asks again
	require.Contains(t, endsWithQuestion(t, r), "kafka topic "+topic+" was deleted")

	code, out, errs := r.Run(t, "checkpoint", "reset")
	require.Equal(t, exitDone, code, out+errs)
	r.Start(t)
	total := len(api.IDs(sourcetest.Filter{}))
	r.Await(t, func() bool { return r.Lane("").Events == uint64(total) }, "all events are published again") //nolint:gosec // a few
	require.Equal(t, exitDone, r.Stop(t))
	all, err := bus.Admin.ListCommittedOffsets(ctx, bus.Prefix+"user.created")
	require.NoError(t, err)
	var n int64
	all.Each(func(o kadm.ListedOffset) { n += o.Offset })
	require.GreaterOrEqual(t, n, int64(users))
}

// storedAgain reports whether relay had stored its position in the new topic before it looked
// whether the topic is still the one that it knows, and requires then that nothing is missing.
func storedAgain(t *testing.T, r *relay, events uint64) bool {
	t.Helper()
	goesOn := func() bool {
		return r.times("the destination was made again and holds the position that was committed last") > 0
	}
	require.Eventually(t, func() bool { return goesOn() || !r.Runs() }, patient, often, "relay neither ends nor goes on\n%s", r.Tail(3000))
	if !goesOn() {
		return false
	}
	r.Await(t, func() bool { return r.Lane("").Events == events }, "all events are committed")
	require.Equal(t, exitDone, r.Stop(t))
	r.Start(t)
	r.AwaitState(t, "", pipeline.Running)
	require.Equal(t, exitDone, r.Stop(t))
	verifyIsClean(t, r)
	return true
}
