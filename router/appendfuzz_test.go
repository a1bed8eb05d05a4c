package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
)

// fuzzedRouters are routers whose topics events could lead astray, by the kinds of routes.
func fuzzedRouters(t testing.TB) []*Router {
	t.Helper()
	var all []*Router
	var types []string
	for _, known := range source.Catalogue() {
		types = append(types, known.Name)
	}
	for _, prefix := range []string{"", "relay.", "relay.position", "acme.", "state.", strings.Repeat("p", 200) + "."} {
		for _, routes := range [][]Route{
			nil,
			{{Events: []string{"dsync.*"}, Topic: "directories"}, {Events: []string{"user.created"}, Topic: "position"}, {Events: []string{"x.*"}, Drop: true}},
			{{Events: []string{"*"}, Topic: "w.{organization_id:none}.{type}"}},
			{{Events: []string{"*"}, Topic: "w.{data.id}", Where: `has(data.name) && data.name != ""`}, {Events: []string{"user.*"}, Pseudonymize: []string{"data.name"}}},
		} {
			for _, encoding := range []Encoding{Raw, CloudEventsStructured} {
				cfg := Config{
					Relay: "workos", Prefix: prefix, DeadLetter: "dead_letter", Encoding: encoding, Routes: routes, RedactionKey: redactionKey,
					State: []string{"user"}, Types: types,
				}
				r, err := New(cfg)
				if err != nil {
					cfg.State = nil // the routes take away what state needs
					if r, err = New(cfg); err != nil {
						continue // a topic that would be one of the forbidden ones
					}
				}
				all = append(all, r)
			}
		}
	}
	require.Greater(t, len(all), 20)
	return all
}

// legalOnBothBuses reports whether Kafka takes a name for a topic, and NATS for a subject.
func legalOnBothBuses(topic string) bool {
	for token := range strings.SplitSeq(topic, ".") {
		if token == "" || strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return false
		}
	}
	return len(topic) <= 249
}

// FuzzAppend routes an event of any type, id and values. It goes to no topic of relay's own, and
// its topic is legal on both buses, or is its type by name, which a sink rejects. The same event
// gives the same messages, wherever they are put.
//
// P15.
func FuzzAppend(f *testing.F) {
	for _, eventType := range []string{
		"user.created", "dsync.user.created", "future.type", "relay.position", "relay.position.workos.nats", "position.workos.nats", ".workos.nats", "s.workos.nats",
		"relay.dead_letter", "dead_letter", "state.user", "state.user.user_1", "user.user_1", "state", "directories", "w.org_1.user.created", "w", "",
		".", "..", "a..b", "a.", "*", ">", "a.>", "a b", "\x00", "\xff", "é", strings.Repeat("x", 249), strings.Repeat("x", 1100), "User.Created", "{type}",
	} {
		f.Add(eventType, "event_01H", "org_1", "user_1", "Ada")
	}
	f.Add("user.created", "", "none", "", "")
	f.Add("user.created", "dead_letter.event_01H", "a.b", "*", "hmac-sha256:")
	f.Add("user.created", " \n", "é", ">", strings.Repeat("n", 1000))
	routers := fuzzedRouters(f)
	f.Fuzz(func(t *testing.T, eventType, id, organization, object, name string) {
		text := func(s string) string { return quote(t, s) }
		data := `{"object":"user","id":` + text(object) + `,"organization_id":` + text(organization) + `,"name":` + text(name) + `}`
		raw := `{"object":"event","id":` + text(id) + `,"event":` + text(eventType) + `,"data":` + data + `,"created_at":"2026-11-23T10:20:30.120Z"}`
		event := func() *source.Event {
			return &source.Event{ID: id, Event: eventType, Data: json.RawMessage(data), Raw: json.RawMessage(raw)}
		}
		for _, r := range routers {
			messages, err := r.Append(nil, event())
			if err != nil {
				var rejected *sink.RejectedError
				require.ErrorAs(t, err, &rejected)
				require.Empty(t, messages)
			}
			require.LessOrEqual(t, len(messages), 1)
			topics, _ := r.Resolve(eventType)
			for _, m := range messages {
				require.False(t, isPositions(m.Topic), m.Topic)
				require.NotEqual(t, r.DeadLetterTopic(), m.Topic)
				require.False(t, slices.ContainsFunc(r.StateTopics(), func(s sink.StateTopic) bool {
					return m.Topic == s.Topic || strings.HasPrefix(m.Topic, s.Topic+".")
				}), m.Topic)
				require.True(t, legalOnBothBuses(m.Topic) || m.Topic == r.prefix+eventType, "%q", m.Topic)
				require.True(t, slices.ContainsFunc(topics, func(p string) bool { return p == m.Topic || sink.IsPattern(p) && sink.Matches(p, m.Topic) }), "%q is not one of %q", m.Topic, topics)
				require.NotEmpty(t, m.ID+string(m.Key)+id)
				require.Empty(t, m.Entity)
			}
			if len(messages) > 0 {
				n := len(messages)
				messages, err = r.AppendState(messages, event(), nil)
				require.NoError(t, err)
				for _, m := range messages[n:] {
					require.True(t, slices.Contains(r.StateTopics(), sink.StateTopic{Topic: m.Topic, Entity: m.Entity}), m.Topic)
				}
			}
			again := make([]sink.Message, 1, 4)
			again[:3][1].Headers = []sink.Header{{Key: "left", Value: "behind"}, {}, {}, {}, {}, {}, {}, {}, {}, {}}
			again, errAgain := r.Append(again, event())
			if len(again) > 1 {
				again, errAgain = r.AppendState(again, event(), nil)
			}
			requireSameMessages(t, messages, again[1:])
			require.Equal(t, errText(err), errText(errAgain))
		}
	})
}

func errText(err error) string { return errors.Join(err, errors.New("")).Error() }

func requireSameMessages(t *testing.T, want, got []sink.Message) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		w, g := &want[i], &got[i]
		same := w.Topic == g.Topic && w.ID == g.ID && w.Entity == g.Entity && bytes.Equal(w.Key, g.Key) && bytes.Equal(w.Body, g.Body) && slices.Equal(w.Headers, g.Headers)
		require.True(t, same, "%v\n%v", w, g)
	}
}
