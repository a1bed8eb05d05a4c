//go:build unix

package field

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/pipeline"
	"workos-relay/tests/testkit"
)

// TestTailFromKafka: relay tail prints what is committed on the topics, each partition in its
// order, and goes on with what comes. It leaves no consumer group and does not disturb the lane.
func TestTailFromKafka(t *testing.T) {
	t.Parallel()
	for name, bus := range map[string]func(*testing.T) *kafka{
		"fake": func(t *testing.T) *kafka { return newKfake(t, kfake.NumBrokers(3)) },
		"real": func(t *testing.T) *kafka { return realKafka(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const events = 300
			k, api := bus(t), newAPI(t, backlog(events))
			r := newRelay(t, "relay", k.config(api.URL(), ""))
			r.Start(t)
			r.AwaitState(t, "kafka", pipeline.Running)
			r.Await(t, func() bool { return k.count(t) == events }, "the backlog is on the bus")
			abortOn(t, k, k.Prefix+"dsync.user.created")

			tail := newTail(t, r, "all", "--since", "earliest", "--envelope")
			tail.Start(t)
			require.Eventually(t, func() bool { return len(tailed(t, tail)) == events }, patient, often, "tail prints the backlog")
			latest := newTail(t, r, "latest", "--events", "dsync.user.*", "--envelope")
			latest.Start(t)
			require.Eventually(t, func() bool { // latest begins at some time after its start
				appendEvents(t, api, "dsync.user.created", 1, 0)
				appendEvents(t, api, "user.created", 1, 0)
				return len(tailed(t, latest)) > 0
			}, patient, 10*often, "tail prints what comes")
			want := api.Len()
			require.Eventually(t, func() bool { return len(tailed(t, tail)) == want }, patient, often, "tail goes on")

			held, at := k.read(t), map[string]map[string]int{}
			for place, records := range held {
				at[place] = map[string]int{}
				for i, record := range records {
					at[place][idOf(t, record.Value)] = i
				}
			}
			last := map[string]int{}
			for _, m := range tailed(t, tail) {
				found := false
				for place, ids := range at {
					if i, here := ids[idOf(t, m.Body)]; here {
						require.True(t, strings.HasPrefix(place, m.Topic+"/"), "%s is not on %s", m.Topic, place)
						require.Equal(t, last[place], i, "%s in order", place)
						last[place], found = i+1, true
					}
				}
				require.True(t, found)
				require.NotContains(t, string(m.Body), "aborted")
			}
			for _, m := range tailed(t, latest) {
				require.Equal(t, k.Prefix+"dsync.user.created", m.Topic, "the filter holds")
			}
			if k.Fake != nil {
				groups, err := k.Admin.ListGroups(t.Context())
				require.NoError(t, err)
				require.Empty(t, groups, "tail has no consumer group")
			}
			for _, p := range []*testkit.Process{tail, latest} {
				p.Signal(t, syscall.SIGTERM)
				require.Equal(t, exitDone, p.Wait(t), p.Output())
			}
			r.AwaitState(t, "kafka", pipeline.Running)
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestTailWithoutATopic: a filter that no topic can match is refused at once.
func TestTailWithoutATopic(t *testing.T) {
	t.Parallel()
	k, api := newKfake(t), newAPI(t)
	r := newRelay(t, "relay", k.config(api.URL(), ""))
	code, _, errs := r.Run(t, "tail", "--from-sink", "--events", "no.such")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `no topic of this sink matches "no.such"`)
}

// newTail prepares relay tail --from-sink beside a running relay.
func newTail(t *testing.T, r *relay, name string, args ...string) *testkit.Process {
	return testkit.NewProcess(t, "tail-"+name, relayBinary, nil, append([]string{"tail", "--from-sink", "--config", r.Config}, args...)...)
}

// envelope is a line of relay tail --envelope.
type envelope struct {
	Topic string
	Key   string
	Body  json.RawMessage
}

// tailed returns what a tail has printed so far.
func tailed(t *testing.T, p *testkit.Process) (all []envelope) {
	t.Helper()
	for line := range strings.Lines(p.Output()) {
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "\n") {
			continue
		}
		var m envelope
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		all = append(all, m)
	}
	return all
}

func idOf(t *testing.T, body []byte) string {
	t.Helper()
	var e struct{ ID string }
	require.NoError(t, json.Unmarshal(body, &e))
	return e.ID
}

// abortOn leaves an aborted transaction on a topic.
func abortOn(t *testing.T, k *kafka, topic string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...), kgo.TransactionalID(k.ID+"-aborted"))
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.BeginTransaction())
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte(`{"id":"aborted"}`)}).FirstErr())
	require.NoError(t, client.EndTransaction(t.Context(), kgo.TryAbort))
}
