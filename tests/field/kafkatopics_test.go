//go:build unix

package field

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
)

// storedIn returns the topic, without the prefix of the relay, and the event id of each committed
// record of the relay's topics, sorted.
func (k *kafka) storedIn(t testing.TB) (out []string) {
	t.Helper()
	for _, records := range k.read(t) {
		for _, r := range records {
			for _, h := range r.Headers {
				if h.Key == "event-id" {
					out = append(out, strings.TrimPrefix(r.Topic, k.Prefix)+" "+string(h.Value))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestTopicsFromTheEventOnKafka: a topic is created before the first event that goes there, hostile
// values lead to the dead letters, the bound on topics holds events back until it is raised, every
// command that looks at topics works with that, and a topic that is deleted stops relay.
func TestTopicsFromTheEventOnKafka(t *testing.T) {
	t.Parallel()
	for mode, key := range lostModes {
		t.Run("fake/"+mode, func(t *testing.T) {
			t.Parallel()
			testTopicsFromTheEvent(t, newKfake(t), key)
		})
		t.Run("real/"+mode, func(t *testing.T) {
			t.Parallel()
			testTopicsFromTheEvent(t, realKafka(t), key)
		})
	}
}

func testTopicsFromTheEvent(t *testing.T, bus *kafka, mode string) {
	api := newAPI(t)
	session := func(org string) routed {
		return routed{"session.created", fmt.Sprintf(`{"id":"s","organization_id":%q}`, org)}
	}
	first := appendRouted(t, api, session("org_1"), routed{"user.created", `{"id":"u"}`}, session("org_1"))
	config := byOrganization + bus.config(api.URL(), `, events: ["session.*", "user.*"], create: {partitions: 2, max_topics: 3}`+mode)
	r := newRelay(t, "relay", config)
	await := func(id string) {
		t.Helper()
		r.Await(t, func() bool { return r.Lane("kafka").AtTip && r.Lane("kafka").Position.EventID == id }, "every event is settled")
	}
	code, out, errs := r.Check(t, "--verbose")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, bus.Prefix+"workos.*.>")
	require.Contains(t, out, "0 topics of at most 3 (create.max_topics), others are created when an event needs them: 2 partitions")
	r.Start(t)
	await(first[2])
	want := []string{"workos.org_1.session.created " + first[0], "workos.none.user.created " + first[1], "workos.org_1.session.created " + first[2]}
	requireStoredIn := func() {
		t.Helper()
		slices.Sort(want)
		require.Equal(t, want, bus.storedIn(t))
	}
	requireStoredIn()
	described, err := bus.Admin.ListTopics(t.Context(), bus.Prefix+"workos.org_1.session.created")
	require.NoError(t, err)
	require.Len(t, described[bus.Prefix+"workos.org_1.session.created"].Partitions, 2)

	all := newTail(t, r, "all", "--since", "earliest", "--envelope")
	all.Start(t)
	require.Eventually(t, func() bool { return len(tailed(t, all)) == len(want) }, patient, often, "tail reads the topics that there are")
	var hostile []routed
	for _, v := range hostileValues {
		hostile = append(hostile, session(v))
	}
	more := appendRouted(t, api, append(hostile, session("org_2"))...)
	await(more[len(more)-1])
	for _, id := range more[:len(hostile)] {
		want = append(want, "relay.dead_letter "+id)
	}
	want = append(want, "workos.org_2.session.created "+more[len(hostile)])
	requireStoredIn()
	require.Eventually(t, func() bool { return len(tailed(t, all)) == len(want) }, patient, often, "tail follows the topics that come")
	all.Kill()

	held := appendRouted(t, api, session("org_1"), session("org_3"), session("org_1"), session("org_4"))
	r.Await(t, func() bool {
		l := r.Lane("kafka")
		const why = "workos.org_3.session.created is not created: sinks[kafka].create.max_topics is 3, and the routes have made 3 topics already"
		return l.State == pipeline.Retrying && l.Position.EventID == held[0] &&
			strings.Contains(l.Action, "raise sinks[kafka].create.max_topics") && strings.Contains(l.Reason, bus.Prefix+why)
	}, "the lane holds the event back and says why")
	want = append(want, "workos.org_1.session.created "+held[0])
	requireStoredIn()
	code, out, errs = r.Check(t)
	require.Contains(t, out+errs, "3 topics of placeholders, and create.max_topics is 3", code)
	r.WriteConfig(t, strings.Replace(r.text(t), "max_topics: 3", "max_topics: 20", 1))
	code, out, errs = r.Run(t, "reload")
	require.Equal(t, exitDone, code, out+errs)
	await(held[3])
	want = append(want, "workos.org_3.session.created "+held[1], "workos.org_1.session.created "+held[2], "workos.org_4.session.created "+held[3])
	requireStoredIn()

	code, out, errs = r.Run(t, "types", "--asyncapi")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "address: "+bus.Prefix+"workos.{organization_id}.{type}")
	code, out, errs = r.Run(t, "replay", "--since", "earliest", "--until", "latest", "--dry-run")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "workos.org_1.session.created")
	v := r.verify(t, exitDone)
	require.Equal(t, len(hostileValues), v.Parked)
	require.Equal(t, len(want), v.Events)

	require.Equal(t, exitDone, r.Stop(t))
	r.Start(t)
	last := appendRouted(t, api, session("org_5"))
	await(last[0])
	want = append(want, "workos.org_5.session.created "+last[0])
	requireStoredIn()
	r.Kill() // what was just made is remembered
	_, err = bus.Admin.DeleteTopic(t.Context(), bus.Prefix+"workos.org_5.session.created")
	require.NoError(t, err)
	r.Start(t)
	require.Contains(t, endsWithQuestion(t, r), "kafka topic "+bus.Prefix+"workos.org_5.session.created was deleted")
	code, out, errs = r.Run(t, "checkpoint", "set", "--lane", "kafka", last[0])
	require.Equal(t, exitDone, code, out+errs)
	r.Start(t)
	again := appendRouted(t, api, session("org_5"))
	await(again[0])
	want = append(slices.DeleteFunc(want, func(s string) bool { return strings.HasSuffix(s, last[0]) }), "workos.org_5.session.created "+again[0])
	requireStoredIn()
	if mode != "" {
		return // only exactly_once has a standby with another directory
	}
	standby := r.twin(t, "standby")
	standby.Start(t)
	standby.AwaitState(t, "kafka", pipeline.Standby)
	require.Equal(t, exitDone, r.Stop(t))
	r = standby
	taken := appendRouted(t, api, session("org_5"), session("org_6"))
	await(taken[1])
	want = append(want, "workos.org_5.session.created "+taken[0], "workos.org_6.session.created "+taken[1])
	requireStoredIn()
}

// text returns the configuration file of the relay.
func (r *relay) text(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(r.Config)
	require.NoError(t, err)
	return string(text)
}
