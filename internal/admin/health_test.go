package admin_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/pipeline"
)

func TestJudge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	held := checkpoint.Checkpoint{Revision: 1}
	reads := checkpoint.Checkpoint{Revision: 1, Snapshot: &checkpoint.Snapshot{StartedAt: ago(time.Hour)}}
	hasRead := checkpoint.Checkpoint{Revision: 1, Snapshot: &checkpoint.Snapshot{StartedAt: ago(2 * time.Hour), FinishedAt: ago(time.Hour)}}
	for _, c := range []struct {
		name   string
		status pipeline.Status
		poll   time.Duration // 1s where zero
		reason string        // empty where ready
	}{
		{"at the tip", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Second), AtTip: true}, 0, ""},
		{"polled just in time", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Minute - 1)}, 0, ""},
		{"polled too long ago", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Minute)}, 0, "no good answer from the Events API for 1m0s"},
		{"silent at the tip", pipeline.Status{State: pipeline.Running, LastPoll: ago(130*time.Second + 900*time.Millisecond), AtTip: true}, 0,
			"no good answer from the Events API for 2m10s"},
		{"slow polling", pipeline.Status{State: pipeline.Running, LastPoll: ago(5*time.Minute - 1)}, time.Minute, ""},
		{"slow polling, missed", pipeline.Status{State: pipeline.Running, LastPoll: ago(5 * time.Minute)}, time.Minute,
			"no good answer from the Events API for 5m0s"},
		{"never polled", pipeline.Status{State: pipeline.Running, Since: ago(3 * time.Second)}, 0, "no good answer from the Events API yet for 3s"},
		{"never polled, since it reads a snapshot", pipeline.Status{State: pipeline.Running, Since: ago(time.Hour), Checkpoint: reads}, 0, ""},
		{"not polled for long, since it reads a snapshot", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Hour), Checkpoint: reads}, 0, ""},
		{"not polled for long after a snapshot", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Hour), Checkpoint: hasRead}, 0,
			"no good answer from the Events API for 1h0m0s"},
		{"never polled, since an unknown time", pipeline.Status{State: pipeline.Running}, 0, "no good answer from the Events API yet"},
		{"busy", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Second), Unacked: ago(time.Minute - 1)}, 0, ""},
		{"reading paused by the budget", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Hour), Unacked: ago(30 * time.Second)}, 0, ""},
		{"stuck", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Second), Unacked: ago(65 * time.Second)}, 0,
			"the oldest event read waits for 1m5s to be acknowledged"},
		{"stuck and not polled", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Hour), Unacked: ago(time.Minute)}, time.Hour,
			"the oldest event read waits for 1m0s to be acknowledged"},
		{"one failed attempt", pipeline.Status{State: pipeline.Retrying, Since: ago(12 * time.Second), Reason: "publishing: no responders",
			Unacked: ago(13 * time.Second), Checkpoint: held}, 0, ""},
		{"retrying for a minute", pipeline.Status{State: pipeline.Retrying, Since: ago(time.Minute), Reason: "publishing: no responders", Checkpoint: held}, 0,
			"trying again for 1m0s: publishing: no responders"},
		{"retrying before it ever held its position", pipeline.Status{State: pipeline.Retrying, Since: ago(12 * time.Second),
			Reason: "taking up the position: no responders"}, 0, "trying again for 12s: taking up the position: no responders"},
		{"retrying for long", pipeline.Status{State: pipeline.Retrying, Since: ago(12 * time.Second), Reason: "publishing: no responders", Unacked: ago(65 * time.Second)}, 0,
			"the oldest event read waits for 1m5s to be acknowledged: publishing: no responders"},
		{"retrying before the first poll", pipeline.Status{State: pipeline.Retrying, Since: ago(time.Hour), Reason: "taking up the position: refused"}, 0,
			"trying again for 1h0m0s: taking up the position: refused"},
		{"before Run", pipeline.Status{}, 0, "starting: the position has not been taken up yet"},
		{"starting", pipeline.Status{State: pipeline.Starting}, 0, "starting: the position has not been taken up yet"},
		{"stopped", pipeline.Status{State: pipeline.Stopped, Reason: "cursor lost", LastPoll: now, AtTip: true}, 0, "stopped: cursor lost"},
		{"stopped in order", pipeline.Status{State: pipeline.Stopped, LastPoll: now}, 0, "stopped"},
		{"stopped with events waiting", pipeline.Status{State: pipeline.Stopped, Reason: "cursor lost", Unacked: ago(time.Hour)}, 0, "stopped: cursor lost"},
		{"standing by", pipeline.Status{State: pipeline.Standby, Reason: "holder a is active"}, 0, ""},
		{"retrying until an operator acts", pipeline.Status{State: pipeline.Retrying, Since: ago(time.Second), Reason: "publishing: the stream is sealed",
			Action: "use another stream", Checkpoint: held}, 0, "trying again for 1s: publishing: the stream is sealed; use another stream"},
		{"stopped, with what to do", pipeline.Status{State: pipeline.Stopped, Reason: "cursor lost", Action: "choose another"}, 0,
			"stopped: cursor lost; choose another"},
		{"stopped, with a reason that says what to do", pipeline.Status{State: pipeline.Stopped, Reason: "cursor lost: choose another", Action: "choose another"}, 0,
			"stopped: cursor lost: choose another"},
		{"standing by beside a holder that does not get on", pipeline.Status{State: pipeline.Standby, Reason: "holder a is active", Waiting: ago(75 * time.Second)}, 0,
			"the position has not moved for 1m15s although events wait: holder a is active"},
		{"standing by beside a holder that retries", pipeline.Status{State: pipeline.Standby, Reason: "holder a is active", Waiting: ago(59 * time.Second)}, 0, ""},
		{"only just taken over what did not move before", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Second), Unacked: ago(time.Second),
			Waiting: ago(2 * time.Minute), Checkpoint: held}, 0, "the position has not moved for 2m0s although events wait"},
		{"retrying only just now, and stuck before", pipeline.Status{State: pipeline.Retrying, Since: ago(time.Second), Reason: "publishing: denied",
			Unacked: ago(time.Second), Waiting: ago(time.Minute), Checkpoint: held}, 0, "the position has not moved for 1m0s although events wait: publishing: denied"},
		{"a long queue that moves", pipeline.Status{State: pipeline.Running, LastPoll: ago(time.Second), Unacked: ago(5 * time.Minute),
			MovedAt: ago(5 * time.Second), Waiting: ago(5 * time.Second), Checkpoint: held}, 0, ""},
		{"a state yet to come", pipeline.Status{State: "dreaming", LastPoll: now}, 0, "in an unknown state, dreaming"},
		{"a clock set back", pipeline.Status{State: pipeline.Running, Since: ago(-time.Hour), LastPoll: ago(-time.Hour), Unacked: ago(-time.Hour)}, 0, ""},
		{"a clock set back while retrying", pipeline.Status{State: pipeline.Retrying, Since: ago(-time.Hour)}, 0, "trying again for 0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.poll == 0 {
				c.poll = time.Second
			}
			v := admin.Judge(c.status, now, c.poll)
			if c.reason == "" {
				require.True(t, v.Ready, v.Reason)
				return
			}
			require.False(t, v.Ready)
			require.NotEqual(t, admin.Healthy, v.Health, "a lane that is not ready is not healthy")
			require.Equal(t, c.reason, v.Reason)
		})
	}
}

func TestHealth(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	held := checkpoint.Checkpoint{Revision: 1}
	failing := func(since time.Duration, failures int, action string) pipeline.Status {
		return pipeline.Status{Lane: "nats", State: pipeline.Retrying, Since: ago(since), Reason: "publishing: no responders", Action: action,
			Failures: failures, Checkpoint: held}
	}
	for _, c := range []struct {
		name   string
		status pipeline.Status
		health admin.Health
		reason string
	}{
		{"running", pipeline.Status{State: pipeline.Running, LastPoll: now}, admin.Healthy, ""},
		{"far behind", pipeline.Status{State: pipeline.Running, LastPoll: now, SourceNow: now, UnackedAt: ago(80 * 24 * time.Hour), Unacked: now}, admin.Healthy, ""},
		{"standing by", pipeline.Status{State: pipeline.Standby, Reason: "holder a is active"}, admin.Healthy, ""},
		{"a failure that may be over at once", failing(10*time.Second-1, 3, ""), admin.Healthy, ""},
		{"a failure that lasts", failing(10*time.Second, 4, ""), admin.Degraded, "trying again for 10s, 4 attempts failed: publishing: no responders"},
		{"one attempt that lasts", failing(12*time.Second, 1, ""), admin.Degraded, "trying again for 12s: publishing: no responders"},
		{"a failure that needs an operator", failing(time.Second, 1, "open the stream"), admin.ActionNeeded,
			"trying again for 1s: publishing: no responders; open the stream"},
		{"paused", pipeline.Status{Lane: "nats", State: pipeline.Paused, Since: ago(time.Second)}, admin.Degraded, "paused by hand for 1s; `relay resume nats` ends it"},
		{"starting", pipeline.Status{State: pipeline.Starting}, admin.Degraded, "starting: the position has not been taken up yet"},
		{"stopped, and will be started again", pipeline.Status{State: pipeline.Stopped, Reason: "refused"}, admin.Degraded, "stopped: refused"},
		{"stopped until an operator acts", pipeline.Status{State: pipeline.Stopped, Reason: "cursor lost", Action: "choose another"}, admin.ActionNeeded,
			"stopped: cursor lost; choose another"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := admin.Judge(c.status, now, time.Second)
			require.Equal(t, c.health, v.Health)
			require.Equal(t, c.reason, v.Reason)
		})
	}
}

func TestTheWorstHealthCounts(t *testing.T) {
	all := admin.Healths()
	for i, a := range all {
		for j, b := range all {
			require.Equal(t, all[max(i, j)], a.Worse(b))
		}
		require.Equal(t, a, admin.Health("").Worse(a))
	}
}
