package admin_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/pipeline"
)

func TestStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	active := running("nats", now)
	active.Type, active.Holder, active.SourceNow, active.Events, active.Rate = "nats", "me", now, 7, 2.5
	active.Unacked, active.UnackedAt = now.Add(-1500*time.Millisecond), now.Add(-2*time.Second)
	active.Read = checkpoint.Position{EventID: "event_2", CreatedAt: now.Add(-time.Second)}
	active.TipAt = now.Add(-time.Minute)
	active.Checkpoint = checkpoint.Checkpoint{
		Position: checkpoint.Position{EventID: "event_1", CreatedAt: now.Add(-time.Minute)}, Mode: checkpoint.ExactlyOnce, Holder: "me",
		UpdatedAt: now.Add(-3 * time.Second), Refused: []checkpoint.Refused{{Type: "vault.data.read"}},
	}
	standby := pipeline.Status{Lane: "kafka", Type: "kafka", Holder: "me", State: pipeline.Standby, Since: now, Reason: "holder you is active"}
	standby.Checkpoint.Holder = "you"
	stopped := pipeline.Status{Lane: "out", State: pipeline.Stopped, Since: now, Reason: "stopped at event event_9"}
	base := start(t, admin.Config{
		ID: "workos", Version: "1.2.3", PollInterval: everySecond, Now: func() time.Time { return now },
		Outlet: func(lane string) admin.Outlet {
			return map[string]admin.Outlet{"nats": {Destination: "nats stream WORKOS", Topics: 2, Topic: "a, b", DeadLetterTopic: "dead"}}[lane]
		},
		Lanes: func() []pipeline.Status { return []pipeline.Status{active, standby, stopped} },
	})
	r := request(t, "GET", base+"/api/v1/status")
	require.Equal(t, http.StatusOK, r.StatusCode, "a probe gets an answer, ready or not")
	body := r.json(t)
	lanes := body["lanes"].([]any)
	delete(body, "lanes")
	require.Equal(t, map[string]any{
		"version": "1.2.3", "id": "workos", "started": "2026-01-02T02:04:05Z", "now": "2026-01-02T02:04:05Z",
		"health": "degraded", "ready": false, "reasons": []any{"lane out: stopped: stopped at event event_9"}, "writable": false, "unasked_event_types": []any{}, "requests": nil,
	}, body)
	require.Equal(t, map[string]any{
		"name": "nats", "type": "nats", "destination": "nats stream WORKOS", "topics": 2.0, "topic": "a, b", "dead_letter_topic": "dead", "state": "running", "since": "2026-01-02T01:04:05Z", "reason": "", "action": "",
		"delivery": nil, "dead_letters": nil, "rate_limited_until": nil,
		"health": "healthy", "health_reason": "", "code": "", "failures": 0.0,
		"mode": "exactly_once", "holder": "me", "self": "me", "active": true,
		"position": map[string]any{"event_id": "event_1", "created_at": "2026-01-02T02:03:05Z"},
		"read":     map[string]any{"event_id": "event_2", "created_at": "2026-01-02T02:04:04Z"},
		"moved_at": "2026-01-02T02:04:02Z", "last_poll": "2026-01-02T02:04:05Z", "at_tip": false, "tip_at": "2026-01-02T02:03:05Z",
		"lag_seconds": 2.0, "unacknowledged_seconds": 1.5, "events": 7.0, "rate": 2.5, "ready": true, "reasons": []any{}, "settings": []any{}, "refused_types": []any{"vault.data.read"}, "snapshot": nil, "snapshot_requested": false, "state_unread": []any{}, "verify": nil,
	}, lanes[0])
	second := lanes[1].(map[string]any)
	require.Equal(t, []any{"you", "me", false, true, nil}, []any{second["holder"], second["self"], second["active"], second["ready"], second["lag_seconds"]})
	third := lanes[2].(map[string]any)
	require.Equal(t, []any{"stopped: stopped at event event_9"}, third["reasons"])
	require.Equal(t, []any{"degraded", "stopped: stopped at event event_9", "R1209"}, []any{third["health"], third["health_reason"], third["code"]})
}

// TestTheActivityOfALane is told as far as it is true of its state.
func TestTheActivityOfALane(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	soon, later, past := now.Add(time.Second), now.Add(time.Minute), now.Add(-time.Second)
	waits := map[string]*time.Time{"running": &soon, "starting": &past, "retrying": &later, "standby": nil, "paused": &later, "stopped": &later}
	lanes := []pipeline.Status{}
	for _, state := range pipeline.States() {
		lanes = append(lanes, pipeline.Status{Lane: string(state), State: state})
	}
	activity := func(lane string) admin.Activity {
		return admin.Activity{
			Delivery:         &admin.Delivery{WindowSeconds: 300, Events: 7, P50Seconds: 0.25, P99Seconds: 1.5},
			DeadLetters:      &admin.DeadLetters{Events: 1, Newest: &admin.DeadLetter{EventID: "event_1", Type: "user.created", Reason: "too large", At: now}},
			RateLimitedUntil: waits[lane],
		}
	}
	requests := admin.Requests{PerSecond: 4.5, Limit: 80, RateLimited: 3, RateLimitedAt: &now}
	status := func() map[string]any {
		return request(t, "GET", start(t, admin.Config{
			ID: "workos", Now: func() time.Time { return now }, Lanes: func() []pipeline.Status { return lanes }, Activity: activity,
			Requests: func() *admin.Requests { r := requests; return &r },
		})+"/api/v1/status").json(t)
	}
	body := status()
	require.Equal(t, map[string]any{
		"per_second": 4.5, "limit": 80.0, "rate_limited": 3.0, "rate_limited_at": "2026-01-02T03:04:05Z", "waiting_until": "2026-01-02T03:05:05Z",
	}, body["requests"])
	until := map[string]any{}
	for _, l := range body["lanes"].([]any) {
		l := l.(map[string]any)
		until[l["name"].(string)] = l["rate_limited_until"]
		require.Equal(t, map[string]any{
			"events": 1.0, "newest": map[string]any{"event_id": "event_1", "type": "user.created", "reason": "too large", "at": "2026-01-02T03:04:05Z"},
		}, l["dead_letters"])
		if l["name"] == "standby" {
			require.Nil(t, l["delivery"])
			continue
		}
		require.Equal(t, map[string]any{"window_seconds": 300.0, "events": 7.0, "p50_seconds": 0.25, "p99_seconds": 1.5}, l["delivery"])
	}
	require.Equal(t, map[string]any{
		"running": "2026-01-02T03:04:06Z", "starting": nil, "retrying": "2026-01-02T03:05:05Z", "standby": nil, "paused": nil, "stopped": nil,
	}, until)
	delete(waits, "running")
	delete(waits, "retrying")
	require.Nil(t, status()["requests"].(map[string]any)["waiting_until"], "no lane waits")
}

// TestTheStatusSaysWhatIsUnread: which state topics may lack objects, why, and what reads them.
func TestTheStatusSaysWhatIsUnread(t *testing.T) {
	lane := admin.LaneStatus{Name: "kafka"}
	require.Empty(t, lane.StateText())
	lane.StateUnread = admin.UnreadOf([]pipeline.UnreadEntity{{Entity: "user"}, {Entity: "role", Reason: "WorkOS answered 403"}})
	require.Equal(t, "state: not all objects of user, role were read; WorkOS refuses role: WorkOS answered 403; `relay snapshot --lane kafka --entities user,role` reads them", lane.StateText())
	s := &checkpoint.Snapshot{Run: "run_1", Entities: []string{"user", "role"}, Entity: "user", Refused: []checkpoint.SnapshotRefusal{{Entity: "role", Reason: "WorkOS answered 403"}}}
	lane.Snapshot = admin.SnapshotOf(s, time.Now())
	require.Empty(t, lane.StateText(), "a snapshot goes on")
	require.Equal(t, "WorkOS answered 403", lane.Snapshot.Entities[1].Refused)
	require.Empty(t, lane.Snapshot.Entities[0].Refused)
}

// TestTheStatusOfASnapshot: while it goes on, or is only asked for, a text says how far it is and
// what it waits for.
func TestTheStatusOfASnapshot(t *testing.T) {
	lane := admin.LaneStatus{Name: "kafka", State: pipeline.Running}
	require.Empty(t, lane.SnapshotText(time.Now()))
	began := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	s := &checkpoint.Snapshot{
		Run: "run_1", Entities: []string{"organization", "user", "directory"}, StartedAt: began, Entity: "user",
		Counts: []checkpoint.SnapshotCount{{Entity: "organization", Objects: 7, Removed: 2}, {Entity: "user", Objects: 593, Skipped: 1, Dropped: 4}},
	}
	lane.Snapshot = admin.SnapshotOf(s, began)
	require.Equal(t, []admin.SnapshotEntity{
		{Entity: "organization", Done: true, Objects: 7, Removed: 2}, {Entity: "user", Objects: 593, Skipped: 1, Dropped: 4}, {Entity: "directory"},
	}, lane.Snapshot.Entities)
	far := "snapshot: 593 objects of user (entity 2 of 3), 600 objects in all in 1m0s, 10/s, 4 dropped by routes, 1 skipped; "
	for state, tail := range map[pipeline.State]string{
		pipeline.Running:  "events follow when it is finished",
		pipeline.Retrying: "events follow when it is finished",
		pipeline.Paused:   "the lane is paused: `relay resume kafka` lets it go on",
		pipeline.Standby:  "the active relay reads it",
		pipeline.Stopped:  "the lane has stopped",
	} {
		lane.State = state
		require.Equal(t, far+tail, lane.SnapshotText(began.Add(time.Minute)))
	}
	s.Counts[1].Lists, s.Counts[1].Parents = 3, 40
	lane.Snapshot = admin.SnapshotOf(s, began)
	require.Contains(t, lane.SnapshotText(began), "of user (entity 2 of 3, list 3 of 40), 600")
	s.Counts[1].Lists = 30
	lane.Snapshot = admin.SnapshotOf(s, began.Add(72*time.Minute))
	require.Contains(t, lane.SnapshotText(began.Add(72*time.Minute)), "/s, about 24m left of user, 4 dropped by routes")
	require.Nil(t, lane.Snapshot.RemainingSeconds)
	s.Before = []checkpoint.SnapshotCount{{Entity: "directory", Objects: 3598}}
	lane.Snapshot = admin.SnapshotOf(s, began.Add(72*time.Minute))
	require.Contains(t, lane.SnapshotText(began.Add(72*time.Minute)), "/s, about 1h36m left, 4 dropped by routes")
	s.Counts[1].Lists, s.Counts[1].Parents = 3, 0 // nobody has counted them
	lane.Snapshot = admin.SnapshotOf(s, began)
	require.Contains(t, lane.SnapshotText(began), "of user (entity 2 of 3, list 3), 600")
	s.Counts[1].Lists = 0
	s.Comparing = true
	lane.Snapshot = admin.SnapshotOf(s, began)
	require.Contains(t, lane.SnapshotText(began), "looking for what only the bus has of user (entity 2 of 3)")
	s.FinishedAt = began.Add(time.Hour)
	lane.Snapshot, lane.State = admin.SnapshotOf(s, began), pipeline.Paused
	require.True(t, lane.Snapshot.Entities[2].Done)
	require.Empty(t, lane.SnapshotText(began.Add(time.Hour)))
	lane.SnapshotRequested = true
	require.Equal(t, "snapshot: asked for, and not begun yet; the lane is paused: `relay resume kafka` lets it go on", lane.SnapshotText(began))
}
