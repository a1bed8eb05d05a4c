package nats

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

// TestTopicsThatArePatterns: a pattern is bound as a wildcard in both modes, takes the place of the
// subjects that it stands for, and is looked at as every topic is.
func TestTopicsThatArePatterns(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	pattern := []string{"workos.*.>", "dead"}
	s := open(t, created(srv.url()))
	require.NoError(t, s.Prepare(t.Context(), []string{"workos.org_1.user.created", "dead"}))
	held, err := s.Holds(t.Context(), pattern)
	require.NoError(t, err)
	require.False(t, held)

	l := s.Ledger(laneID)
	status, err := l.Inspect(t.Context(), pattern)
	require.NoError(t, err)
	require.True(t, status[0].Creates)
	require.Empty(t, status[0].Problems)
	require.NoError(t, l.Prepare(t.Context(), pattern))
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	require.Equal(t, []string{"dead", "workos.*.>", positionOfLane}, st.CachedInfo().Config.Subjects)
	require.NoError(t, s.Publish(t.Context(), events(1, 1, "workos.org_2.user.created")))
	held, err = s.Holds(t.Context(), pattern)
	require.NoError(t, err)
	require.True(t, held)
	held, err = s.Holds(t.Context(), []string{"workos.*", "workos.org_1.>"})
	require.NoError(t, err)
	require.False(t, held)
	logs, err := s.Logs(t.Context(), pattern, time.Time{})
	require.NoError(t, err)
	require.Len(t, logs, 1)

	for _, bad := range illegal {
		m := events(2, 1, bad)
		var rejected *sink.RejectedError
		require.ErrorAs(t, s.Publish(t.Context(), m), &rejected, bad)
	}
	for _, bad := range []string{"*.a", ">", "a.>.b", "a.x*", "a.*x", "a..*"} {
		require.ErrorContains(t, s.Prepare(t.Context(), []string{bad}), "is not a legal subject", bad)
	}
}
