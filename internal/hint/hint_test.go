package hint

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
	"workos-relay/source"
)

func TestTextAndAction(t *testing.T) {
	t.Parallel()
	const goOn = "the command is `relay checkpoint set --lane nats`"
	const (
		after = "`relay checkpoint set event_7 --lane nats --skip` goes on after the newest event that was found there, user.created of 2026-01-01T00:00:00Z: " +
			"it repeats nothing up to there, and skips each earlier event that is not there (then run `relay verify --since earliest --until 2026-01-01T00:00:00Z --lane nats`, which finds those); "
		begin = "`relay checkpoint set earliest --lane nats` begins at the earliest event that WorkOS has: it skips nothing, and repeats every event that is there already; " +
			"`relay checkpoint set latest --lane nats --skip` begins with the next event: it repeats nothing, and skips every event until now that is not there"
	)
	at := checkpoint.Position{EventID: "event_7", CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for name, tt := range map[string]struct {
		err          error
		text, action string
	}{
		"passing": {errors.New("the bus is down"), "the bus is down", ""},
		"lost": {
			fmt.Errorf("%w: it was purged; say where to go on", checkpoint.ErrLost),
			"checkpoint lost: it was purged; say where to go on; " + goOn, "say where to go on; " + goOn,
		},
		"corrupt": {
			operator.Require(fmt.Errorf("file: %w", checkpoint.ErrCorrupt), "say where to go on"),
			"file: checkpoint corrupt; say where to go on; " + goOn, "say where to go on; " + goOn,
		},
		"cursor": {
			fmt.Errorf("reading: %w", source.ErrCursorLost),
			"reading: cursor lost; choose where to go on; " + goOn, "choose where to go on; " + goOn,
		},
		"stopped": {
			&pipeline.StopError{Lane: "nats", EventID: "event_7", Type: "user.created", Err: errors.New("too large")},
			"stopped at event event_7 (user.created): too large; configure dead_letter to park such events, or skip this one event; " +
				"`relay checkpoint set event_7 --lane nats --skip` skips it",
			"configure dead_letter to park such events, or skip this one event; `relay checkpoint set event_7 --lane nats --skip` skips it",
		},
		"stopped at a late event": {
			&pipeline.StopError{Lane: "nats", EventID: "event_7", Type: "user.created", Late: true, Err: errors.New("too large")},
			"stopped at event event_7 (user.created): too large; configure dead_letter to park such events, or take user.created out of source.events",
			"configure dead_letter to park such events, or take user.created out of source.events",
		},
		"destination lost": {
			&pipeline.LostError{Lane: "nats", What: "stream WORKOS was deleted", Position: at},
			"checkpoint lost: stream WORKOS was deleted; restore it and start relay again, or say where to go on; " +
				"`relay checkpoint set --lane nats event_7` goes on after the last event that is known to be published and leaves the loss as it is, " +
				"`relay checkpoint reset --lane nats` publishes again from source.start",
			"restore it and start relay again, or say where to go on; " +
				"`relay checkpoint set --lane nats event_7` goes on after the last event that is known to be published and leaves the loss as it is, " +
				"`relay checkpoint reset --lane nats` publishes again from source.start",
		},
		"destination lost, and written to since": {
			&pipeline.LostError{Lane: "nats", What: "stream WORKOS ends 3 messages before the end that it had", Position: at, Overwritten: true},
			"checkpoint lost: stream WORKOS ends 3 messages before the end that it had; say where to go on; " +
				"`relay checkpoint set --lane nats event_7` goes on after the last event that is known to be published and leaves the loss as it is, " +
				"`relay checkpoint reset --lane nats` publishes again from source.start",
			"say where to go on; " +
				"`relay checkpoint set --lane nats event_7` goes on after the last event that is known to be published and leaves the loss as it is, " +
				"`relay checkpoint reset --lane nats` publishes again from source.start",
		},
		"no position, and nothing of the lane was found": {
			&pipeline.HeldError{Lane: "nats", Destination: "nats stream WORKOS", Reason: "no checkpoint"},
			"checkpoint lost: no checkpoint, but nats stream WORKOS already holds messages on the topics of lane nats, so this is not a first start; say where to go on; " + begin,
			"say where to go on; " + begin,
		},
		"no position": {
			&pipeline.HeldError{Lane: "nats", Destination: "nats stream WORKOS", Reason: "no checkpoint", Newest: &pipeline.FoundEvent{ID: "event_7", Type: "user.created", CreatedAt: at.CreatedAt}},
			"checkpoint lost: no checkpoint, but nats stream WORKOS already holds messages on the topics of lane nats, so this is not a first start; say where to go on; " + after + begin,
			"say where to go on; " + after + begin,
		},
		"mode changed": {
			&pipeline.ModeError{Lane: "nats", Have: checkpoint.AtLeastOnce, Text: "another mode", Action: "take its position along"},
			"another mode: take its position along; the command is `relay checkpoint set --lane nats --from file`",
			"take its position along; the command is `relay checkpoint set --lane nats --from file`",
		},
		"two positions": {
			&pipeline.ModeError{Lane: "nats", Text: "two positions", Action: "say which one holds"},
			"two positions: say which one holds; the command is `relay checkpoint set --lane nats --from file` or `--from bus`",
			"say which one holds; the command is `relay checkpoint set --lane nats --from file` or `--from bus`",
		},
		"of another lane": {
			&pipeline.LaneError{Lane: "kafka", Err: checkpoint.ErrLost},
			"lane kafka: checkpoint lost; say where to go on; the command is `relay checkpoint set --lane kafka`",
			"say where to go on; the command is `relay checkpoint set --lane kafka`",
		},
		"pattern": {
			fmt.Errorf("--events: %w", &source.PatternError{Pattern: "nothing.*"}),
			"--events: \"nothing.*\" matches no known event type; `relay types` lists them", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.text, Text("nats", tt.err))
			require.Equal(t, tt.action, Action("nats", tt.err))
		})
	}
	require.Equal(t, "checkpoint lost; say where to go on; the command is `relay checkpoint set`", Text("", checkpoint.ErrLost))
}

func TestArgument(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 1, time.UTC)
	require.Equal(t, "event_1", argument(checkpoint.Position{EventID: "event_1", CreatedAt: at}))
	require.Equal(t, "2026-01-01T00:00:00.000000001Z", argument(checkpoint.Position{CreatedAt: at}))
	require.Equal(t, "earliest", argument(checkpoint.Position{}))
}
