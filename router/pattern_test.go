package router

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func TestTopicsFromTheEvent(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{Prefix: "p.", Routes: []Route{
		{Events: []string{"dsync.user.*"}, Topic: "dir.{data.directory_id}.users"},
		{Events: []string{"*"}, Topic: "workos.{organization_id:none}.{type}"},
	}})
	require.Equal(t, []string{"p.dir.*.users", "p.workos.*.>"}, r.Topics([]string{"dsync.user.created", "user.created", "session.created"}))
	require.Equal(t, "p.workos.{organization_id:none}.{type}", r.Text("p.workos.*.>"))
	require.Equal(t, "other", r.Text("other"))
	for _, c := range []struct{ eventType, data, want, reason string }{
		{"user.created", `{"id":"u"}`, "p.workos.none.user.created", ""},
		{"session.created", `{"organization_id":"org_1"}`, "p.workos.org_1.session.created", ""},
		{"organization.created", `{"object":"organization","id":"org_1"}`, "p.workos.org_1.organization.created", ""},
		{"dsync.user.created", `{"directory_id":"d-1"}`, "p.dir.d-1.users", ""},
		{"dsync.user.created", `{"directory_id":12}`, "p.dir.12.users", ""},
		{"future.thing", `{}`, "p.workos.none.future.thing", ""},
		{"dsync.user.created", `{}`, "", "the event has no value for {data.directory_id} in the topic"},
		{"dsync.user.created", `{"directory_id":{"a":1}}`, "", "the event has no value for {data.directory_id}"},
		{"user.created", `{"organization_id":"none"}`, "", `is the fallback, "none", of events without a value`},
		{"user.created", `{"organization_id":"a.b"}`, "", `cannot be a part of a topic: '.' is not allowed`},
		{"user.created", `{"organization_id":"*"}`, "", `'*' is not allowed`},
		{"user.created", `{"organization_id":">"}`, "", `'>' is not allowed`},
		{"user.created", `{"organization_id":"a b"}`, "", `' ' is not allowed`},
		{"user.created", `{"organization_id":"a\r\nPUB x"}`, "", `'\r' is not allowed`},
		{"user.created", `{"organization_id":"ä"}`, "", `'ä' is not allowed`},
		{"user.created", `{"organization_id":"` + strings.Repeat("x", maxToken+1) + `"}`, "", "it has 129 characters, and 128 are allowed"},
		{"bad type", `{}`, "", "the topic that the values of the event make is not a valid name"},
		{"a..b", `{}`, "", "is not a valid name"},
		{strings.Repeat("x", 300), `{}`, "", "characters, and 249 are allowed"},
	} {
		e := newEvent(t, c.eventType, c.data)
		batch, err := r.Route(e)
		if c.reason == "" {
			require.NoError(t, err)
			require.Equal(t, c.want, batch[0].Topic)
			require.True(t, sink.HasTopic(r.Topics([]string{c.eventType}), c.want), c.want)
			topic, _ := r.Destination(e)
			require.Equal(t, c.want, topic)
			continue
		}
		var rejected *sink.RejectedError
		require.ErrorAs(t, err, &rejected, c)
		require.Contains(t, rejected.Reason, c.reason)
		require.Contains(t, rejected.Topic, "{", "it names the topic as written")
	}
}

// TestATopicByTypeKeepsOutOfOthers: an event of a type that relay does not know does not go where
// the values of events lead.
//
// P15: what comes from outside does not choose where relay writes.
func TestATopicByTypeKeepsOutOfOthers(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{Routes: []Route{{Events: []string{"session.*"}, Topic: "workos.{organization_id}.{type}"}}})
	_, err := r.Route(newEvent(t, "workos.org_1.session.created", `{}`))
	require.ErrorContains(t, err, "no event may go there by its type")
	require.Equal(t, "other.thing", routeOne(t, r, newEvent(t, "other.thing", `{}`)).Topic)
}

func TestTopicsThatCannotHavePlaceholders(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string]string{
		"{organization_id}.x":                "begins with a placeholder",
		"a.{}":                               "is not a path into an event: it is empty",
		"a.{data..id}":                       "a name between dots is empty",
		"a.{data.*}":                         "'*' is not allowed",
		"a.{data.id":                         "a { is not closed",
		"a.b{data.id}":                       "a placeholder stands alone between dots",
		"a.{data.id}b":                       "a placeholder stands alone between dots",
		"a.{data.id}{data.x}":                "a placeholder stands alone between dots",
		"a.}":                                "a placeholder stands alone between dots",
		"a.{data.id}.":                       "a part between dots is empty",
		"a..{data.id}":                       "a part between dots is empty",
		".{data.id}":                         "a part between dots is empty",
		"a.{data.id:}":                       `the fallback "" of a placeholder cannot be a part of a topic: it is empty`,
		"a.{data.id:x.y}":                    "'.' is not allowed",
		"a.{data.id:*}":                      "'*' is not allowed",
		"a.*.{data.id}":                      "'*' is not allowed",
		"a.{type:x}":                         "{type} needs no fallback",
		"a.{event}":                          "write {type} for the event type",
		"state.{data.id}":                    "could be a topic of state",
		"relay.{data.id}":                    "where relay keeps its positions",
		"relay.{data.id}.x":                  "where relay keeps its positions",
		"relay.position.{data.id}":           "where relay keeps its positions",
		"user.{data.id}":                     "could become user.created, the topic of that event type",
		"dsync.{type}":                       "the topic of that event type",
		"dead.{data.id}":                     "could become dead.letter, the topic of dead letters",
		"static.{data.id}":                   "could become static.topic, the topic of routes[0]",
		"other.x.{data.id}":                  "could become the same as other.{data.id}.y, which has another form",
		"a.{data.email}":                     "is taken out by redact",
		"a.{data.idp_id}":                    "takes out or pseudonymizes data.idp_id",
		"a.{organization_id:none}":           "takes out or pseudonymizes data.user.organization_id",
		strings.Repeat("a", 130) + ".{type}": "",
		"other.{data.id}.y":                  "",
		"other.{data.x}.y":                   "",
	} {
		_, err := New(Config{DeadLetter: "dead.letter", RedactionKey: redactionKey, Routes: []Route{
			{Events: []string{"session.*"}, Topic: "static.topic"},
			{Events: []string{"vault.*"}, Topic: "other.{data.id}.y"},
			{Events: []string{"user.*"}, Topic: topic, Redact: []string{"data.email", "data.user"}, Pseudonymize: []string{"data.idp_id"}},
		}})
		if want == "" {
			require.NoError(t, err, topic)
			continue
		}
		require.ErrorContains(t, err, want, topic)
		require.ErrorContains(t, err, "routes[2].topic")
	}
}

// TestTheTopicIsOfTheRedactedEvent: what a route takes out is in no topic.
func TestTheTopicIsOfTheRedactedEvent(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{Routes: []Route{{Events: []string{"*"}, Topic: "a.{data.list.0:none}", Redact: []string{"data.other"}}}})
	require.Equal(t, "a.x", routeOne(t, r, newEvent(t, "user.created", `{"list":["x"],"other":1}`)).Topic)
}

// FuzzPlaceholder: for any topic of the configuration and any value of the event, the topic of a
// message is a legal name that the pattern stands for, two values never share one, and no value
// leads to positions, state or another topic.
func FuzzPlaceholder(f *testing.F) {
	for _, seed := range [][3]string{
		{"workos.{data.v}.{type}", "org_1", "none"}, {"a.{data.v:none}", "none", ""}, {"a.{data.v:none}", "a.b", "*"},
		{"relay.{data.v}.x", "position", "p"}, {"state.{data.v}", "user", "x"}, {"a.{data.v}.b.{type}.c", ">", "\x00"}, {"{a}{b}", "x", "y"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	legal := regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	f.Fuzz(func(t *testing.T, topic, one, two string) {
		r, err := New(Config{DeadLetter: "dead.letter", Routes: []Route{{Events: []string{"*"}, Topic: topic}}})
		if err != nil {
			return
		}
		patterns := r.Topics([]string{"user.created"})
		require.Len(t, patterns, 1)
		route := func(v string) (string, bool) {
			data, err := json.Marshal(map[string]string{"v": v})
			require.NoError(t, err)
			batch, err := r.Route(newEvent(t, "user.created", string(data)))
			if err != nil {
				var rejected *sink.RejectedError
				require.ErrorAs(t, err, &rejected)
				return "", false
			}
			got := batch[0].Topic
			require.Regexp(t, legal, got)
			require.LessOrEqual(t, len(got), maxTopic)
			require.True(t, sink.Matches(patterns[0], got), "%s %s", patterns[0], got)
			require.False(t, isPositions(got))
			if sink.IsPattern(patterns[0]) {
				require.False(t, strings.HasPrefix(got, "state."))
				require.NotEqual(t, "dead.letter", got)
				first, _, _ := strings.Cut(topic, ".")
				require.True(t, strings.HasPrefix(got, first+"."), "%s %s", first, got)
			}
			return got, true
		}
		a, okA := route(one)
		b, okB := route(two)
		if okA && okB && a == b && strings.Contains(topic, "{data.v") {
			clean := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
			require.Equal(t, clean(one), clean(two), "two values share %s", a)
		}
	})
}
