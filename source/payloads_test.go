package source

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
)

// TestOddPayloadsAreRelayed serves events whose payload does not fit the schema. They are yielded
// like any other, reported by type, and named once in the log.
func TestOddPayloadsAreRelayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(5, epoch.Add(-time.Hour))
		for i := range api.events {
			api.events[i].typ = RoleUpdated // with the payload {}
		}
		s, logs := api.stream()
		s.Events = []string{RoleUpdated}
		var odd []OddPayloadInfo
		s.Hooks.OnOddPayload = func(i OddPayloadInfo) { odd = append(odd, i) }
		pages, err := take(t, s, checkpoint.Position{}, 1)
		require.NoError(t, err)
		require.Len(t, ids(pages), 5)
		require.Len(t, odd, 5)
		require.Equal(t, RoleUpdated, odd[0].Type)
		require.Contains(t, odd[0].Why, "is missing")
		require.Equal(t, 1, logs.FilterMessageSnippet("does not fit the schema").Len())
	})
}

func TestPayloadsAreComparedNowAndThen(t *testing.T) {
	t.Parallel()
	var c payloadCheck
	odd := 0
	hooks := &Hooks{OnOddPayload: func(OddPayloadInfo) { odd++ }}
	events := make([]Event, 1000)
	for i := range events {
		events[i] = Event{ID: "event_1", Event: RoleUpdated, Data: json.RawMessage(`{}`)}
	}
	c.compare(events, hooks, zap.NewNop())
	require.Equal(t, payloadsCompared+(1000-payloadsCompared)/payloadsBetween, odd)
	c.compare([]Event{{Event: "future.created", Data: json.RawMessage(`7`)}}, hooks, zap.NewNop())
	require.Len(t, c.seen, 1)
}
