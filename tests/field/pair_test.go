//go:build unix

package field

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/pipeline"
)

// stuckPair starts a relay that gets on, lets its bus refuse what comes next, and starts a standby.
// It requires that the active one stays active and that both say within two minutes that nothing
// moves, and then that both recover.
func stuckPair(t *testing.T, config string, refuse func(), events func(), permit func(), all func() bool) {
	t.Helper()
	a := newRelay(t, "a", config)
	b := a.twin(t, "b")
	a.Start(t)
	a.AwaitState(t, "", pipeline.Running)
	b.Start(t)
	b.AwaitState(t, "", pipeline.Standby)
	code, body := b.Ready()
	require.Equal(t, http.StatusOK, code, body)
	refuse()
	events()
	a.AwaitState(t, "", pipeline.Retrying)
	holder := a.Lane("").Holder
	stuck := time.Now()
	notReady := map[*relay]time.Duration{}
	for len(notReady) < 2 {
		require.Less(t, time.Since(stuck), 2*time.Minute, "one still says that it is ready")
		for _, r := range []*relay{a, b} {
			require.Equal(t, holder, r.Lane("").Holder, "no takeover from a live relay\n%s", a.Tail(2000))
			if code, _ := r.Ready(); code == http.StatusServiceUnavailable && notReady[r] == 0 {
				notReady[r] = time.Since(stuck)
			}
		}
		time.Sleep(time.Second)
	}
	require.Equal(t, pipeline.Retrying, a.Lane("").State)
	require.Equal(t, pipeline.Standby, b.Lane("").State)
	for name, r := range map[string]*relay{"active": a, "standby": b} {
		code, body := r.Ready()
		require.Equal(t, http.StatusServiceUnavailable, code, "%s: %s", name, body)
	}
	require.Greater(t, notReady[b], 45*time.Second, "a short time is not a reason")
	_, body = b.Ready()
	require.Contains(t, body, "although events wait")
	permit()
	a.Await(t, all, "everything is on the bus")
	for _, r := range []*relay{a, b} {
		r.Await(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, "it is ready again")
	}
	require.Equal(t, holder, a.Lane("").Holder)
	require.Equal(t, exitDone, b.Stop(t))
	require.Equal(t, exitDone, a.Stop(t))
}

// TestPairWhoseBusRefusesATopic: the active relay keeps its lease and neither says that it is
// ready.
func TestPairWhoseBusRefusesATopic(t *testing.T) {
	t.Parallel()
	for _, takeover := range []string{"", "takeover_after: 3s\n"} {
		t.Run("nats "+takeover, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 20, 0)
			users := func(deny ...string) []*server.User {
				return []*server.User{
					{Username: "relay", Password: "secret", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: deny}}},
					{Username: "test", Password: "secret"},
				}
			}
			bus := newNATS(t, func(o *server.Options) { o.Users = users() })
			permit := func(deny ...string) {
				opts := bus.opts
				opts.Users = users(deny...)
				require.NoError(t, bus.ReloadOptions(&opts))
			}
			js := bus.connect(t, nats.UserInfo("test", "secret"))
			config := strings.Replace(natsConfig(api.URL(), bus.URL), "}]", ", auth: {user: relay, password: secret}}]", 1) + takeover
			stuckPair(t, config,
				func() { permit("dsync.user.created") },
				func() {
					appendEvents(t, api, "user.updated", 10, 0)
					time.Sleep(50 * time.Millisecond)
					appendEvents(t, api, "dsync.user.created", 10, 0)
				},
				func() { permit() },
				func() bool { return countEvents(js, stream) == 40 })
		})
	}
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		bus := newKfake(t)
		api := newAPI(t)
		appendEvents(t, api, "user.created", 20, 0)
		var behind atomic.Bool
		bus.Fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			bus.Fake.KeepControl()
			produce := req.(*kmsg.ProduceRequest)
			if !behind.Load() || !slices.ContainsFunc(produce.Topics, func(t kmsg.ProduceRequestTopic) bool { return t.Topic == bus.Prefix+"dsync.user.created" }) {
				return nil, nil, false
			}
			resp := produce.ResponseKind().(*kmsg.ProduceResponse)
			for _, topic := range produce.Topics {
				answer := kmsg.NewProduceResponseTopic()
				answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
				for _, p := range topic.Partitions {
					partition := kmsg.NewProduceResponseTopicPartition()
					partition.Partition, partition.ErrorCode = p.Partition, kerr.NotEnoughReplicas.Code
					answer.Partitions = append(answer.Partitions, partition)
				}
				resp.Topics = append(resp.Topics, answer)
			}
			return resp, nil, true
		})
		stuckPair(t, bus.config(api.URL(), ", create: {partitions: 1}"), func() { behind.Store(true) },
			func() { appendEvents(t, api, "dsync.user.created", 10, 0) }, func() { behind.Store(false) },
			func() bool { return bus.count(t) == 30 })
	})
}
