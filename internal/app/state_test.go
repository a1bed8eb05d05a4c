package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/config"
	"workos-relay/router"
)

// TestAChangeOfStateTopicsOpensTheBusAgain: a bus is told of its state topics when it is opened,
// and the events of the source can change them without a key of the sink.
func TestAChangeOfStateTopicsOpensTheBusAgain(t *testing.T) {
	t.Parallel()
	lane := func(types ...string) *Lane {
		r, err := router.New(router.Config{State: []string{"*"}, Types: types})
		require.NoError(t, err)
		return &Lane{Sink: &config.Sink{Name: "kafka"}, Router: r}
	}
	users, both := []string{"user.created", "user.deleted", "user.updated"}, []string{"user.created", "user.deleted", "user.updated", "role.created", "role.deleted", "role.updated"}
	changes := []config.Change{{Key: "source.events"}}
	same := planned{lane: lane(users...), old: &member{lane: lane(users...)}}
	require.False(t, same.needsBus(changes))
	more := planned{lane: lane(both...), old: &member{lane: lane(users...)}}
	require.True(t, more.needsBus(changes))
}
