package router

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

func allTypes(t testing.TB) []string {
	t.Helper()
	types, err := source.Expand([]string{"*"})
	require.NoError(t, err)
	return types
}

func keeping(t testing.TB, cfg Config, entities ...string) *Router {
	t.Helper()
	cfg.State, cfg.Types = entities, allTypes(t)
	return newRouter(t, cfg)
}

// stateOf returns the state message of e, or false.
func stateOf(t testing.TB, r *Router, e *source.Event) (sink.Message, bool) {
	t.Helper()
	batch, err := r.AppendState(nil, e, nil)
	require.NoError(t, err)
	if len(batch) == 0 {
		return sink.Message{}, false
	}
	require.Len(t, batch, 1)
	return batch[0], true
}

const userData = `{"object":"user","id":"user_1","email":"a@example.com","updated_at":"2026-11-23T10:20:30.120Z"}`

func TestStateMessage(t *testing.T) {
	t.Parallel()
	r := keeping(t, Config{Prefix: "x."}, "user", "organization_membership")
	require.Equal(t, []sink.StateTopic{{Topic: "x.state.organization_membership", Entity: "organization_membership"}, {Topic: "x.state.user", Entity: "user"}}, r.StateTopics())
	e := newEvent(t, "user.updated", userData)
	m, ok := stateOf(t, r, e)
	require.True(t, ok)
	require.Equal(t, sink.Message{
		Topic: "x.state.user", Entity: "user", Key: []byte("user_1"), Body: []byte(userData), Position: e.Position(), Created: e.CreatedAt,
		Headers: []sink.Header{
			{Key: "event-id", Value: "event_01H"}, {Key: "event-type", Value: "user.updated"}, {Key: "event-created-at", Value: "2026-11-23T10:20:30.120Z"},
			{Key: "entity", Value: "user"},
		},
	}, m)
	require.False(t, m.Removes())

	m, ok = stateOf(t, r, newEvent(t, "user.deleted", userData))
	require.True(t, ok)
	require.True(t, m.Removes())
	require.Equal(t, "user_1", string(m.Key))
	require.Empty(t, m.ID)

	m, ok = stateOf(t, r, newEvent(t, "organization_membership.created", `{"id":"om_1","organization_id":"org_1"}`))
	require.True(t, ok)
	require.Equal(t, "org_1", header(m, HeaderOrganization))

	for _, e := range []*source.Event{
		newEvent(t, "session.created", `{"id":"session_1"}`),            // not asked for
		newEvent(t, "authentication.sso_started", `{"id":"session_1"}`), // changes nothing
		newEvent(t, "user.created", `{"email":"a@example.com"}`),        // has no key
	} {
		_, ok = stateOf(t, r, e)
		require.False(t, ok, e.Event)
	}
	batch, err := newRouter(t, Config{}).AppendState(nil, e, nil)
	require.NoError(t, err)
	require.Empty(t, batch)
}

func TestAdmitDecidesOnAChange(t *testing.T) {
	t.Parallel()
	r := keeping(t, Config{}, "user")
	for _, admitted := range []bool{true, false} {
		var asked []state.Change
		batch, err := r.AppendState(nil, newEvent(t, "user.updated", userData), func(e *source.Event, c *state.Change) bool {
			require.Equal(t, "event_01H", e.ID)
			asked = append(asked, *c)
			return admitted
		})
		require.NoError(t, err)
		require.Len(t, asked, 1)
		require.Equal(t, time.Date(2026, 11, 23, 10, 20, 30, 120e6, time.UTC), asked[0].UpdatedAt)
		require.Equal(t, admitted, len(batch) == 1)
	}
}

// TestALateEventOnlyRemoves: what it sets may be older than what is kept. A membership that it
// removes may have been made again.
func TestALateEventOnlyRemoves(t *testing.T) {
	t.Parallel()
	r := keeping(t, Config{}, "user", "directory_group_membership")
	for eventType, want := range map[string]bool{"user.created": false, "user.updated": false, "user.deleted": true, "dsync.group.user_removed": false} {
		e := newEvent(t, eventType, `{"id":"u","user":{"id":"u"},"group":{"id":"g"}}`)
		_, ok := stateOf(t, r, e)
		require.True(t, ok)
		e.LateSince = time.Now()
		_, ok = stateOf(t, r, e)
		require.Equal(t, want, ok, eventType)
	}
}

func TestStateIsRedactedLikeItsEvents(t *testing.T) {
	t.Parallel()
	routes := []Route{
		{Events: []string{"user.deleted"}, Redact: []string{"data.other"}},
		{Events: []string{"user.*"}, Redact: []string{"data.email", "context"}, Pseudonymize: []string{"data.name"}},
		{Events: []string{"organization_domain.*"}, Redact: []string{"data.verification_token"}},
	}
	r := keeping(t, Config{Routes: routes, RedactionKey: redactionKey}, "user", "organization_domain")
	want := `{"id":"user_1","name":"` + pseudo("Ann") + `","n":1}`
	m, ok := stateOf(t, r, newEvent(t, "user.created", `{"id":"user_1","email":"a@example.com","name":"Ann","n":1}`))
	require.True(t, ok)
	require.Equal(t, want, string(m.Body))

	object := []byte(`{"id":"user_1","email":"a@example.com","name":"Ann","n":1}`)
	entity, _ := state.Lookup("user")
	c, ok := entity.Of(object)
	require.True(t, ok)
	batch, err := r.AppendObject(nil, &c, "run_1")
	require.NoError(t, err)
	require.Equal(t, want, string(batch[0].Body), "what a snapshot reads is treated in the same way")

	m, ok = stateOf(t, r, newEvent(t, "organization_domain.verification_failed", `{"reason":"x","organization_domain":{"id":"d","verification_token":"s"}}`))
	require.True(t, ok)
	require.JSONEq(t, `{"id":"d"}`, string(m.Body), "also inside of something else")

	bad := newEvent(t, "user.created", `{"id":"user_1"}`)
	bad.Data = []byte(`{"id":"user_1","email":`)
	_, err = r.AppendState(nil, bad, nil)
	require.EqualError(t, err, "the user user_1 cannot be redacted: it is not well-formed JSON, or the whole of it is taken out")
}

// TestStateShowsNoRedactedOrganization: what a route takes out of the event is not in the headers
// of the state either, also of a removal and of what a snapshot reads.
func TestStateShowsNoRedactedOrganization(t *testing.T) {
	t.Parallel()
	for name, route := range map[string]Route{
		"redacted":      {Redact: []string{"data.organization_id"}},
		"pseudonymized": {Pseudonymize: []string{"data.organization_id"}},
	} {
		for _, encoding := range []Encoding{Raw, CloudEvents, CloudEventsStructured} {
			route.Events = []string{"organization_membership.*"}
			r := keeping(t, Config{Relay: "r", Routes: []Route{route}, RedactionKey: redactionKey, Encoding: encoding}, "organization_membership")
			object := `{"object":"organization_membership","id":"om_1","user_id":"user_1","organization_id":"org_secret"}`
			var all []sink.Message
			for _, eventType := range []string{"organization_membership.created", "organization_membership.deleted"} {
				m, ok := stateOf(t, r, newEvent(t, eventType, object))
				require.True(t, ok)
				all = append(all, m)
			}
			entity, _ := state.Lookup("organization_membership")
			c, ok := entity.Of([]byte(object))
			require.True(t, ok)
			batch, err := r.AppendObject(nil, &c, "run_1")
			require.NoError(t, err)
			for _, m := range append(all, batch...) {
				require.NotContains(t, fmt.Sprintf("%s %s %q", m.Key, m.Body, m.Headers), "org_secret", "%s, %s", name, encoding)
			}
		}
	}
}

func TestObjectOfASnapshot(t *testing.T) {
	t.Parallel()
	r := keeping(t, Config{}, "directory_user")
	entity, _ := state.Lookup("directory_user")
	c, ok := entity.Of([]byte(`{"id":"du_1","organization_id":"org_1"}`))
	require.True(t, ok)
	batch, err := r.AppendObject(nil, &c, "run_1")
	require.NoError(t, err)
	require.Equal(t, []sink.Message{{
		Topic: "state.directory_user", Entity: "directory_user", Key: []byte("du_1"), Body: c.Object,
		Headers: []sink.Header{{Key: "organization-id", Value: "org_1"}, {Key: "relay-snapshot", Value: "run_1"}, {Key: "entity", Value: "directory_user"}},
	}}, batch)

	c.Object = nil
	batch, err = r.AppendObject(batch[:0], &c, "run_1")
	require.NoError(t, err)
	require.True(t, batch[0].Removes())
	require.Equal(t, []sink.Header{{Key: "relay-snapshot", Value: "run_1"}, {Key: "entity", Value: "directory_user"}}, batch[0].Headers)

	batch, err = r.AppendObject(nil, &state.Change{Entity: "user", Key: "u"}, "run_1")
	require.NoError(t, err)
	require.Empty(t, batch, "the lane does not keep users")
}

// TestStateInCloudEvents: the attributes are those of the change, since those of the event belong
// to another message.
func TestStateInCloudEvents(t *testing.T) {
	t.Parallel()
	for _, binding := range []Binding{NATS, Kafka} {
		for _, encoding := range []Encoding{CloudEvents, CloudEventsStructured} {
			r := keeping(t, Config{Relay: "r", Binding: binding, Encoding: encoding}, "user")
			m, ok := stateOf(t, r, newEvent(t, "user.updated", userData))
			require.True(t, ok)
			event := decodeBinary
			if encoding == CloudEventsStructured {
				event = decodeStructured
			}
			e := event(t, binding, m)
			require.NoError(t, e.Validate())
			require.Equal(t, "event_01H", e.ID())
			require.Equal(t, "relay/r/state/user", e.Source())
			require.Equal(t, "com.workos.state.user", e.Type())
			require.Equal(t, "user_1", e.Subject())
			require.JSONEq(t, userData, string(e.Data()))

			m, ok = stateOf(t, r, newEvent(t, "user.deleted", userData))
			require.True(t, ok)
			require.True(t, m.Removes(), "what removes an object has no body in any encoding")
		}
	}
}

func TestNoEventTakesThePlaceOfState(t *testing.T) {
	t.Parallel()
	_, err := keeping(t, Config{Prefix: "x."}, "user").Append(nil, newEvent(t, "state.user", `{}`))
	var rejected *sink.RejectedError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, "x.state.user", rejected.Topic)
	_, err = keeping(t, Config{Prefix: "x."}, "user").Append(nil, newEvent(t, "state.user.user_01", `{}`))
	require.ErrorAs(t, err, &rejected, "on NATS an object is there")
	_, err = keeping(t, Config{}, "organization").Append(nil, newEvent(t, "state.user", `{}`))
	require.ErrorAs(t, err, &rejected, "another lane may keep it on the same bus")
}

// TestNoTypeLeadsToATopicOfAnother is about types that nobody asked for, which is what WorkOS's
// answer may hold.
func TestNoTypeLeadsToATopicOfAnother(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{Prefix: "x.", DeadLetter: "relay.dead", Routes: []Route{{Events: []string{"session.*"}, Topic: "leavers"}, {Events: []string{"user.created"}, Topic: "user.updated"}}})
	for _, name := range []string{"relay.dead", "leavers", "state.user", "state.user.user_01"} {
		var rejected *sink.RejectedError
		_, err := r.Append(nil, newEvent(t, name, `{}`))
		require.ErrorAs(t, err, &rejected, name)
		require.Equal(t, "x."+name, rejected.Topic)
	}
	require.Equal(t, "x.user.updated", routeOne(t, r, newEvent(t, "user.updated", `{}`)).Topic, "a known type shares its own topic")
	require.Equal(t, "x.future.type", routeOne(t, r, newEvent(t, "future.type", `{}`)).Topic)
}

func TestStateIsValidated(t *testing.T) {
	t.Parallel()
	types := allTypes(t)
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"unknown":   {Config{State: []string{"directory_usr"}}, `state.entities "directory_usr" is not a known entity; did you mean "directory_user"?`},
		"not asked": {Config{State: []string{"user"}, Types: []string{"user.created"}}, `state.entities user cannot be kept, because this sink does not carry user.deleted, user.updated: add to events what is missing, or leave the entity out`},
		"dropped":   {Config{State: []string{"user"}, Routes: []Route{{Events: []string{"user.updated"}, Drop: true}}}, `state.entities user cannot be kept, because this sink does not carry user.updated: add to events what is missing, or leave the entity out`},
		"none":      {Config{State: []string{"*"}, Types: []string{"session.created"}}, `state.entities stands for no entity of which this sink carries all events`},
		"key taken": {Config{State: []string{"user"}, Routes: []Route{{Events: []string{"*"}, Redact: []string{"data.*"}}}}, `state.entities names user, whose objects are known by id, and a route takes that out of user.created; keep the value, or leave the entity out`},
		"key replaced": {
			Config{State: []string{"group_membership"}, RedactionKey: redactionKey, Routes: []Route{{Events: []string{"group.member_removed"}, Pseudonymize: []string{"data.group_id"}}}},
			`state.entities names group_membership, whose objects are known by group_id, and a route takes that out of group.member_removed; keep the value, or leave the entity out`,
		},
		"two forms": {
			Config{State: []string{"user"}, Routes: []Route{{Events: []string{"user.created"}, Redact: []string{"data.email"}}}},
			`state.entities names user, and the routes redact user.created and user.updated in different ways; its objects have one form, so give both types the same redact and pseudonymize`,
		},
		"route there": {Config{State: []string{"user"}, Prefix: "p.", Routes: []Route{{Events: []string{"session.*"}, Topic: "state.user"}}}, `routes[0].topic "p.state.user" is a topic of state, where only the newest version of each object is kept; events need their own topic`},
		"route below": {Config{State: []string{"user"}, Routes: []Route{{Events: []string{"session.*"}, Topic: "state.user.x"}}}, `routes[0].topic "state.user.x" is a topic of state, where only the newest version of each object is kept; events need their own topic`},
		"letters":     {Config{State: []string{"user"}, DeadLetter: "state.user"}, `dead_letter.topic "state.user" is a topic of state, where only the newest version of each object is kept; dead letters need their own topic`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.cfg.Types == nil {
				test.cfg.Types = types
			}
			_, err := New(test.cfg)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, test.want)
			var key *KeyError
			require.ErrorAs(t, err, &key)
		})
	}
	r := newRouter(t, Config{State: []string{"*"}, Types: types, Routes: []Route{{Events: []string{"user.updated"}, Drop: true}}})
	require.Len(t, r.Entities(), len(state.Entities())-2, "neither users, of which events are dropped, nor tokens, whose events are opt-in")
}

func TestWhatARouteMayLeaveOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		route Route
		want  bool
	}{
		"another":                  {Route{Events: []string{"user.*"}, Where: `data.name == "Bob"`, Drop: true}, false},
		"this one":                 {Route{Events: []string{"user.*"}, Where: `data.name == "Ann"`, Drop: true}, true},
		"its removal":              {Route{Events: []string{"user.*"}, Where: `type == "user.deleted"`, Drop: true}, true},
		"what only the event has":  {Route{Events: []string{"user.*"}, Where: `event.context.client_id == "x"`, Drop: true}, true},
		"a route that drops none":  {Route{Events: []string{"user.*"}, Where: `data.missing == "x"`, Topic: "elsewhere"}, false},
		"a route of other objects": {Route{Events: []string{"organization.*"}, Where: `true`, Drop: true}, false},
	} {
		r := keeping(t, Config{Routes: []Route{c.route}}, "user")
		require.Equal(t, c.want, r.MayLeaveOut("user", []byte(`{"id":"user_1","name":"Ann"}`)), name)
		require.False(t, r.MayLeaveOut("session", []byte(`{}`)), "the lane does not keep it")
	}
}
