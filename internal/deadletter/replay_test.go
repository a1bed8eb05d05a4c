package deadletter

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/conf/secret"
	"workos-relay/internal/republish"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

func routerWith(t *testing.T, key string, routes ...router.Route) *router.Router {
	t.Helper()
	r, err := router.New(router.Config{Relay: "workos", DeadLetter: topic, Routes: routes, RedactionKey: secret.String(key)})
	require.NoError(t, err)
	return r
}

// published is a sink that keeps what it is given.
type published struct{ messages []sink.Message }

func (p *published) Publish(_ context.Context, batch []sink.Message) error {
	for _, m := range batch {
		m.Headers = slices.Clone(m.Headers) // the caller uses them again
		p.messages = append(p.messages, m)
	}
	return nil
}

// TestAReplayedEventTakesTheRouteOfToday: between parking and replay the routes changed. An event
// takes the route that it would take as WorkOS sent it, and holds what that route leaves in it.
//
// P11: also if something else was taken out before.
func TestAReplayedEventTakesTheRouteOfToday(t *testing.T) {
	t.Parallel()
	const data = `{"id":"user_1","email":"a@b","name":"Ada","team":"red"}`
	const key, otherKey = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	all := []string{"*"}
	where := []router.Route{{Events: all, Topic: "red", Where: `has(data.team) && data.team == "red"`}, {Events: all, Topic: "others"}}
	hidden := func(paths ...string) router.Route { return router.Route{Events: all, Redact: paths} }
	for name, c := range map[string]struct {
		before, now []router.Route
		nowKey      string
		asks        bool // the Events API
	}{
		"nothing is taken out":          {},
		"where, nothing is taken out":   {now: where},
		"the value that chose is gone":  {before: []router.Route{hidden("data.team")}, now: where, asks: true},
		"something else is gone":        {before: []router.Route{hidden("data.name")}, now: where, asks: true},
		"nothing is taken out any more": {before: []router.Route{hidden("data.email")}, asks: true},
		"more is taken out now":         {before: []router.Route{hidden("data.email")}, now: []router.Route{hidden("data.email", "data.name")}, asks: true},
		"less is taken out now":         {before: []router.Route{hidden("data.email", "data.name")}, now: []router.Route{hidden("data.email")}, asks: true},
		"the same is taken out":         {before: []router.Route{hidden("data.email", "data.name")}, now: []router.Route{{Events: all, Topic: "people", Redact: []string{"data.name", "data.email"}}}},
		"it is taken out only now":      {now: []router.Route{hidden("data.email")}},
		"a pseudonym stays":             {before: []router.Route{{Events: all, Pseudonymize: []string{"data.email"}}}, now: []router.Route{{Events: all, Topic: "people", Pseudonymize: []string{"data.email"}}}},
		"a pseudonym of another key":    {before: []router.Route{{Events: all, Pseudonymize: []string{"data.email"}}}, now: []router.Route{{Events: all, Pseudonymize: []string{"data.email"}}}, nowKey: otherKey, asks: true},
		"removed, now a pseudonym":      {before: []router.Route{hidden("data.email")}, now: []router.Route{{Events: all, Pseudonymize: []string{"data.email"}}}, asks: true},
		"a part of the topic is gone":   {before: []router.Route{hidden("data.team")}, now: []router.Route{{Events: all, Topic: "teams.{data.team:none}"}}, asks: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := event(t, "event_1", 0, data)
			if c.nowKey == "" {
				c.nowKey = key
			}
			b := &bus{logs: make([][]sink.Stored, 1)}
			b.park(t, routerWith(t, key, c.before...), 0, begin, e)
			x, asked := read(t, b), false
			now := routerWith(t, c.nowKey, c.now...)
			out := &published{}
			run := func(find func() (*source.Event, error)) Outcome {
				replay := &Replay{
					Index: x, Router: now, Carries: func(string) bool { return true },
					Publisher: &republish.Publisher{Sink: out, Mark: sink.Header{Key: router.HeaderReplay, Value: "run"}, ShutdownTimeout: time.Minute, Logger: zap.NewNop()},
					Find:      func(context.Context, *Letter) (*source.Event, error) { asked = true; return find() },
				}
				outcome, err := replay.Run(t.Context(), x.Open())
				require.NoError(t, err)
				return outcome
			}
			outcome := run(func() (*source.Event, error) { again := event(t, "event_1", 0, data); return &again, nil })
			require.Equal(t, Outcome{Published: 1}, outcome)
			require.Equal(t, c.asks, asked)
			want, err := now.Route(&e)
			require.NoError(t, err)
			require.Len(t, out.messages, 2)
			require.Equal(t, want[0].Topic, out.messages[0].Topic)
			require.Equal(t, string(want[0].Key), string(out.messages[0].Key))
			require.Equal(t, string(want[0].Body), string(out.messages[0].Body))
			require.Equal(t, topic, out.messages[1].Topic)

			b.add(0, begin, out.messages[1])
			require.Empty(t, read(t, b).Open())

			if c.asks {
				out.messages = nil
				outcome = run(func() (*source.Event, error) { return nil, &NotFoundError{errors.New("it is not listed")} })
				require.Len(t, outcome.Failed, 1, "it stays a dead letter rather than to take a wrong route")
				require.Empty(t, out.messages)
			}
		})
	}
}

// TestALateEventStaysLate: an event that came late, and was parked, is marked as late when it comes
// back, also if WorkOS is asked for it.
func TestALateEventStaysLate(t *testing.T) {
	t.Parallel()
	e := event(t, "event_1", 0, "{}")
	e.LateSince = begin
	b := &bus{logs: make([][]sink.Stored, 1)}
	b.park(t, newRouter(t, router.Route{Events: []string{"*"}, Redact: []string{"data.name"}}), 0, begin, e)
	x := read(t, b)
	contents, err := x.Load(t.Context(), x.Letters)
	require.NoError(t, err)
	content := contents[x.Letters[0]]
	got, _, err := content.EventOf(x.Letters[0], newRouter(t), func() (*source.Event, error) {
		fresh := event(t, "event_1", 0, "{}")
		return &fresh, nil
	})
	require.NoError(t, err)
	require.Equal(t, begin, got.LateSince)
}
