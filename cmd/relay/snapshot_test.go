package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
	"workos-relay/pipeline"
)

// answers is a relay that says one thing after the other, and the last one for ever.
type answers struct {
	said []answer
	n    int
}

type answer struct {
	status admin.Status
	err    error
}

func (a *answers) Status(context.Context) (admin.Status, error) {
	now := a.said[min(a.n, len(a.said)-1)]
	a.n++
	return now.status, now.err
}

// TestFollowingASnapshotEnds: following a snapshot ends with the snapshot or with a reason, if the
// relay, the lane or the request is lost too, and says meanwhile what it waits for.
func TestFollowingASnapshotEnds(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	says := func(change func(*admin.LaneStatus)) answer {
		l := admin.LaneStatus{
			Name: "kafka", State: pipeline.Running, Holder: "me", Self: "me", Active: true,
			Snapshot: &admin.SnapshotStatus{Run: "before", FinishedAt: &start},
		}
		change(&l)
		return answer{status: admin.Status{Started: start, Now: start, Lanes: []admin.LaneStatus{l}}}
	}
	asked := says(func(l *admin.LaneStatus) { l.SnapshotRequested = true })
	begun := &admin.SnapshotStatus{Run: "run", Entity: "user", Entities: []admin.SnapshotEntity{{Entity: "user", Objects: 7}}}
	reads := says(func(l *admin.LaneStatus) { l.Snapshot = begun })
	lost := says(func(*admin.LaneStatus) {})
	done := says(func(l *admin.LaneStatus) { l.Snapshot = &admin.SnapshotStatus{Run: "run", FinishedAt: &start} })
	silent := answer{err: &admin.UnreachableError{Addr: "127.0.0.1:9", Err: errors.New("refused")}}
	restarted := func(a answer) answer {
		a.status.Started = start.Add(time.Minute)
		return a
	}
	taken := says(func(l *admin.LaneStatus) { l.State, l.Holder, l.Active = pipeline.Standby, "other", false })
	for name, test := range map[string]struct {
		said []answer
		want string // of the error; empty for none
		says string
	}{
		"it is finished":                    {said: []answer{asked, reads, done}, says: "7 objects of user"},
		"it is finished at once":            {said: []answer{done}},
		"the lane is paused before":         {said: []answer{says(func(l *admin.LaneStatus) { l.SnapshotRequested, l.State = true, pipeline.Paused }), reads, done}, says: "not begun yet; the lane is paused: `relay resume kafka`"},
		"the lane is paused meanwhile":      {said: []answer{says(func(l *admin.LaneStatus) { l.Snapshot, l.State = begun, pipeline.Paused }), done}, says: "7 objects of user (entity 1 of 1), 7 objects in all; the lane is paused"},
		"the API fails":                     {said: []answer{says(func(l *admin.LaneStatus) { l.Snapshot, l.State, l.Reason = begun, pipeline.Retrying, "down" }), done}, says: "retrying: down"},
		"another run was asked for as well": {said: []answer{says(func(l *admin.LaneStatus) { l.Snapshot, l.SnapshotRequested = done.status.Lanes[0].Snapshot, true }), reads, done}},
		"lost by a reload":                  {said: []answer{asked, lost}, want: "lane kafka does not read the snapshot any more"},
		"ended by a reload":                 {said: []answer{reads, says(func(l *admin.LaneStatus) { l.Snapshot = nil })}, want: "lane kafka does not read the snapshot any more"},
		"the lane is removed":               {said: []answer{asked, {status: admin.Status{Started: start, Lanes: []admin.LaneStatus{{Name: "nats"}}}}}, want: "the relay has no lane kafka any more"},
		"a takeover before it began":        {said: []answer{asked, taken}, want: "another relay, other, has taken lane kafka over before the snapshot began"},
		"a takeover of a paused lane":       {said: []answer{asked, says(func(l *admin.LaneStatus) { l.State, l.Holder = pipeline.Paused, "other" })}, want: "another relay, other, has taken lane kafka over"},
		"a takeover and back":               {said: []answer{asked, lost}, want: "another relay had the lane meanwhile"},
		"a takeover that continues it": {said: []answer{reads, says(func(l *admin.LaneStatus) {
			l.State, l.Holder, l.Snapshot = pipeline.Standby, "other", begun
		}), says(func(l *admin.LaneStatus) {
			l.State, l.Holder, l.Snapshot = pipeline.Standby, "other", done.status.Lanes[0].Snapshot
		})}},
		"a restart before it began": {said: []answer{asked, silent, restarted(says(func(l *admin.LaneStatus) { l.State, l.Holder, l.Snapshot = pipeline.Starting, "", nil })), restarted(lost)}, want: "relay was restarted before the snapshot began"},
		"a restart meanwhile":       {said: []answer{reads, silent, {status: admin.Status{Started: start}}, restarted(says(func(l *admin.LaneStatus) { l.Holder, l.Snapshot = "", nil })), restarted(reads), restarted(done)}},
		"the relay is gone":         {said: []answer{reads, silent}, want: "relay has not answered for 5m0s", says: "relay does not answer; waiting for it"},
		"the lane stops":            {said: []answer{reads, says(func(l *admin.LaneStatus) { l.State, l.Reason = pipeline.Stopped, "full" })}, want: "the lane has stopped: full"},
		"the answer cannot be used": {said: []answer{reads, {err: errors.New("401")}}, want: "401"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				var out bytes.Buffer
				f := follower{relay: &answers{said: test.said}, out: &out, lane: "kafka", before: "before", started: start}
				got, err := f.follow(ctx)
				require.NoError(t, ctx.Err(), "it waits for ever")
				require.Contains(t, out.String(), test.says)
				if test.want != "" {
					require.ErrorContains(t, err, test.want)
					return
				}
				require.NoError(t, err)
				require.Equal(t, "run", got.Run)
			})
		})
	}
}
