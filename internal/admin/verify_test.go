package admin_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
)

// TestVerifyText: what could not be compared is not said to be without a fault.
func TestVerifyText(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	at := now.Add(-time.Minute)
	state := &admin.VerifiedState{Objects: 4}
	const span = "from earliest to 2026-11-01T11:00:00Z"
	for _, c := range []struct {
		last       admin.Verified
		says, code string
	}{
		{admin.Verified{Events: 9}, "9 events " + span + ": no fault found", ""},
		{admin.Verified{Events: 9, Expired: 2}, "9 events " + span + ": no fault found, 2 no longer kept by the bus", ""},
		{admin.Verified{Events: 9, State: state}, "9 events " + span + " and 4 objects of the state: no fault found", ""},
		{admin.Verified{Events: 9, Expired: 9, Unknown: true}, "9 events " + span + ": nothing could be compared: the bus keeps none of the 9 events", "R1610"},
		{
			admin.Verified{Events: 9, Expired: 9, Unknown: true, State: state},
			"9 events " + span + " and 4 objects of the state: no fault found in the state, no event could be compared: the bus keeps none of the 9 events", "R1610",
		},
		{
			admin.Verified{Events: 9, Missing: 1, Faults: 1, Commands: []string{"relay verify"}},
			"9 events " + span + ": FAULTS: 1 missing; `relay verify` shows the faults", "R1609",
		},
	} {
		c.last.EndedAt, c.last.Since, c.last.Until = at, "earliest", now.Add(-time.Hour)
		l := admin.LaneStatus{Verify: &admin.VerifyStatus{Last: &c.last}}
		require.Equal(t, "verification: 1m ago, "+c.says, l.VerifyText(now))
		require.Equal(t, c.code, l.VerifyCode())
	}
	l := admin.LaneStatus{Verify: &admin.VerifyStatus{Last: &admin.Verified{EndedAt: at, State: state}, Failed: "compare the events: no answer", FailedAt: &at}}
	require.Equal(t, "verification: 1m ago, 4 objects of the state: no fault found; the attempt 1m ago was not finished because compare the events: no answer", l.VerifyText(now))
}
