package app

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
	"workos-relay/sink"
)

// verifierOf returns a verifier of a lane that verifies itself each day, and what it logs.
func verifierOf() (*verifier, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.InfoLevel)
	cfg := &config.Config{}
	cfg.Verify.Every = 24 * time.Hour
	m := &member{lane: &Lane{Config: cfg, Sink: &config.Sink{Kind: &sink.Kind{ReadsBack: true}}}}
	return &verifier{
		relay: &Relay{cfg: cfg}, member: m, metrics: telemetry.NewMetrics("test").Lane("nats"), log: zap.New(core),
	}, logs
}

// TestOutcomeOfHalfARun: what one comparison has found counts if the other one fails, and what that
// has found before stays.
func TestOutcomeOfHalfARun(t *testing.T) {
	t.Parallel()
	v, _ := verifierOf()
	at := time.Now()
	run := func(out admin.Verified, events, state bool, err error) {
		r := &verifying{verifier: v, started: at, outcome: out}
		r.compared.events, r.compared.state = events, state
		v.noted(r, err)
	}
	unread := errors.New("no answer")

	run(admin.Verified{Commands: []string{"relay verify --state --lane nats"}, State: &admin.VerifiedState{Objects: 3, Ghosts: 1}}, false, true, unread)
	require.Equal(t, 1, v.status.Last.Faults)
	require.Equal(t, "no answer", v.status.Failed)

	missing := admin.Verified{Since: "earliest", Events: 9, Missing: 2, Commands: []string{"relay verify --lane nats"}}
	run(missing, true, false, unread)
	require.Equal(t, 3, v.status.Last.Faults, "%+v", v.status.Last)
	require.Equal(t, []string{"relay verify --lane nats", "relay verify --state --lane nats"}, v.status.Last.Commands)
	require.Equal(t, 1, v.status.Last.State.Ghosts)

	run(admin.Verified{}, false, false, unread)
	require.Equal(t, 3, v.status.Last.Faults)

	run(admin.Verified{State: &admin.VerifiedState{Objects: 3}}, false, true, unread)
	require.Equal(t, []int{2, 2, 9}, []int{v.status.Last.Missing, v.status.Last.Faults, v.status.Last.Events})
	require.Equal(t, []string{"relay verify --lane nats"}, v.status.Last.Commands)

	run(admin.Verified{Since: "earliest", Events: 9}, true, true, nil)
	require.Zero(t, v.status.Last.Faults)
	require.Empty(t, v.status.Last.Commands)
	require.Empty(t, v.status.Failed)
}

// TestNothingIsClaimedOfWhatIsNotKept: the log says that the bus holds everything only if all of it
// was compared.
func TestNothingIsClaimedOfWhatIsNotKept(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		out  admin.Verified
		says string
	}{
		{admin.Verified{Events: 9}, "verified: the bus holds what WorkOS has"},
		{admin.Verified{Events: 9, Expired: 1}, "verified: no fault in what the bus still keeps"},
		{admin.Verified{Events: 9, Expired: 9, Unknown: true}, "the verification of the lane says nothing of the events"},
	} {
		v, logs := verifierOf()
		r := &verifying{verifier: v, started: time.Now(), outcome: c.out}
		r.compared.events, r.compared.state = true, true
		v.noted(r, nil)
		require.Equal(t, c.says, logs.All()[0].Message)
		require.Equal(t, 1, logs.Len())
	}
}

// TestRunsBeginBeforeWhatIsMissing: another event that is missing may be older than the first one.
func TestRunsBeginBeforeWhatIsMissing(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	begin := checkpoint.Position{CreatedAt: at}
	v, _ := verifierOf()
	r := &verifying{verifier: v, missing: at.Add(time.Hour)}
	r.span.Until = at.Add(24 * time.Hour)
	tenure := tenure{begun: true, begin: begin}
	tenure.goOn(r, at.Add(25*time.Hour))
	require.Equal(t, checkpoint.Position{CreatedAt: at.Add(59 * time.Minute)}, tenure.since)
	r.missing = time.Time{}
	tenure.goOn(r, at.Add(26*time.Hour))
	require.Equal(t, checkpoint.Position{CreatedAt: at.Add(23 * time.Hour)}, tenure.since)
}
