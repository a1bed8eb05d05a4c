package router

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

func TestWhere(t *testing.T) {
	t.Parallel()
	data := `{"id":"user_1","organization_id":"org_test","count":5,"share":0.5,"active":true,"email":"a@test.example","list":[1,"x"],"none":null,"nested":{"a":"b"}}`
	e := newEvent(t, "user.created", data)
	for text, want := range map[string]error{
		`organization_id == "org_test"`:                    nil,
		`type == "user.created" && data.id == "user_1"`:    nil,
		`type.startsWith("user.")`:                         nil,
		`data.count == 5 && data.count > 4`:                nil,
		`data.count > 4.5 && data.share < 1`:               nil,
		`data.active == true`:                              nil,
		`data.email.endsWith("@test.example")`:             nil,
		`data.email.matches("^[a-z]+@test[.]example$")`:    nil,
		`"x" in data.list && data.list.exists(i, i == 1)`:  nil,
		`data.none == null`:                                nil,
		`data.nested.a == "b"`:                             nil,
		`!has(data.missing)`:                               nil,
		`data.missing == "x" || true`:                      nil,
		`event.event == type && event.id == "event_01H"`:   nil,
		`has(event.context) && !has(event.other)`:          nil,
		`timestamp(event.created_at).getFullYear() > 2025`: nil,
		`data.missing == "x"`:                              errWhereField,
		`data.none.x == "x"`:                               errWhereField,
		`event.data.missing == "x"`:                        errWhereField,
		`data.email.contains(data.count)`:                  errWhereType,
		`data.count && true`:                               errWhereType,
		`int(data.email) == 1`:                             errWhereOther,
		strings.Repeat(`[1,2,3,4,5,6,7,8,9].all(a,`, 7) + `a > 0` + strings.Repeat(")", 7): errWhereCost,
	} {
		program, err := compileWhere(text)
		require.NoError(t, err, text)
		c := condition{program}
		holds, err := c.holds(&subjectOfWhere{event: e})
		require.Equal(t, want, err, text)
		require.Equal(t, want == nil, holds, text)
	}
	c := condition{}
	var err error
	c.program, err = compileWhere(`data.id == "x"`)
	require.NoError(t, err)
	_, err = c.holds(&subjectOfWhere{event: &source.Event{Event: "user.created", Raw: []byte(`{"data":`)}})
	require.Equal(t, errWhereJSON, err)
	_, err = c.holds(&subjectOfWhere{event: &source.Event{Event: "user.created", Raw: []byte(`{}`)}})
	require.Equal(t, errWhereField, err)
}

// TestWhereFaults: what is wrong with an expression is said with its line and column.
func TestWhereFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`organisation_id == "x"`:           "line 1, column 1: undeclared reference to 'organisation_id'; its variables are type, organization_id, data and event",
		"type == \"a\" &&\n  foo == 1":     "line 2, column 3: undeclared reference to 'foo'",
		`type == `:                         "line 1, column 9: Syntax error",
		`type < 1`:                         "line 1, column 6: found no matching overload",
		`data < 1`:                         "line 1, column 6: found no matching overload",
		`type.matches("(((")`:              "line 1, column 14: invalid matches argument",
		`data.active`:                      `must give true or false, and gives dyn; compare the value, as in data.state == "active"`,
		`"x"`:                              "must give true or false, and gives string",
		`timestamp("x") == timestamp("y")`: "is not a valid expression",
		" ":                                "line 1, column",
		strings.Repeat("x", maxWhere+1):    "is longer than 4096 bytes",
		strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200): "is not a valid expression",
	} {
		_, err := New(Config{Routes: []Route{{Events: []string{"*"}, Where: text}}})
		var key *KeyError
		require.ErrorAs(t, err, &key, text)
		require.Equal(t, "routes[0].where", key.Key())
		require.ErrorContains(t, err, want)
	}
}

// TestWhereFallsThrough: an event goes to the first route whose types and expression match it.
func TestWhereFallsThrough(t *testing.T) {
	t.Parallel()
	var failed []int
	r := newRouter(t, Config{Prefix: "p.", Routes: []Route{
		{Events: []string{"*"}, Where: `organization_id == "org_test"`, Drop: true},
		{Events: []string{"user.*"}, Where: `data.state == "active"`, Topic: "active"},
		{Events: []string{"dsync.*"}, Topic: "directory"},
		{Events: []string{"user.*"}, Where: `data.kind == 1`, Topic: "kinds"},
	}, WhereFailed: func(route int, _ *source.Event, err error) {
		require.ErrorIs(t, err, errWhereField)
		failed = append(failed, route)
	}})
	for _, c := range []struct {
		eventType, data, want string
		failed                []int
	}{
		{"user.created", `{"organization_id":"org_test","state":"active"}`, "", nil},
		{"user.created", `{"organization_id":"org_1","state":"active"}`, "p.active", nil},
		{"user.created", `{"organization_id":"org_1","state":"inactive","kind":1}`, "p.kinds", nil},
		{"user.created", `{"organization_id":"org_1"}`, "p.user.created", []int{1, 3}},
		{"dsync.user.created", `{"organization_id":"org_1"}`, "p.directory", nil},
		{"dsync.user.created", `{"organization_id":"org_test"}`, "", nil},
		{"future.thing", `{"organization_id":"org_test"}`, "", nil},
		{"future.thing", `{}`, "p.future.thing", nil},
	} {
		failed = nil
		e := newEvent(t, c.eventType, c.data)
		topic, dropped := r.Destination(e)
		require.Equal(t, c.want, topic, c)
		require.Equal(t, c.want == "", dropped)
		require.Empty(t, failed, "only what is published counts")
		batch, err := r.Route(e)
		require.NoError(t, err)
		require.Equal(t, c.failed, failed)
		if c.want == "" {
			require.Empty(t, batch)
		} else {
			require.Equal(t, c.want, batch[0].Topic)
		}
	}
	topics, dropped := r.Resolve("user.created")
	require.Equal(t, []string{"p.active", "p.kinds", "p.user.created"}, topics)
	require.True(t, dropped)
	require.Equal(t, []string{"p.active", "p.directory", "p.kinds", "p.user.created"}, r.Topics([]string{"user.created", "dsync.user.created"}))
}

// TestWhereOfARouteThatRedacts: an event for which it cannot be evaluated does not go out as it is.
//
// P11: what a route redacts reaches no topic.
func TestWhereOfARouteThatRedacts(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{DeadLetter: "dead", Routes: []Route{{Events: []string{"user.*"}, Where: `data.state == "active"`, Redact: []string{"data.email"}}}})
	e := newEvent(t, "user.created", `{"id":"user_1","email":"hidden"}`)
	_, err := r.Route(e)
	var rejected *sink.RejectedError
	require.ErrorAs(t, err, &rejected)
	require.Contains(t, rejected.Reason, "routes[0].where cannot be evaluated for the event: it reads a field that the event does not have")
	letter, err := r.DeadLetter(e, rejected.Topic, rejected.Reason, 0, 0)
	require.NoError(t, err)
	require.NotContains(t, string(letter.Body), "hidden")
	require.Empty(t, r.Redacted(e).Raw)

	e = newEvent(t, "user.created", `{"id":"user_1","email":"hidden","state":"active"}`)
	require.NotContains(t, string(routeOne(t, r, e).Body), "hidden")
	require.NotContains(t, string(r.Redacted(e).Raw), "hidden")
	e = newEvent(t, "user.created", `{"id":"user_1","email":"shown","state":"inactive"}`)
	require.Contains(t, string(routeOne(t, r, e).Body), "shown")
}

// FuzzWhere: no expression and no event make relay panic or take long, and an event is routed the
// same way each time.
func FuzzWhere(f *testing.F) {
	for _, seed := range [][2]string{
		{`organization_id == "org_test"`, `{"organization_id":"org_test"}`},
		{`data.list.all(x, x.matches(data.pattern))`, `{"list":["a"],"pattern":"(a*)*b"}`},
		{`data.list.map(x, data.list.map(y, x + y)).size() > 3`, `{"list":["a","b",1,null,{}]}`},
		{`has(data.a.b) && data.a.b[0] == 1u`, `{"a":{"b":[1]}}`},
		{`duration(data.d) > duration("1s") || b"x" == bytes(data.d)`, `{"d":"2s"}`},
		{`{1: data}[1] == event.data ? type in ["a"] : data[data.k]`, `{"k":"v","v":false}`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, text, data string) {
		program, err := compileWhere(text)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		c := condition{program}
		e := &source.Event{ID: "event_1", Event: "user.created", Raw: []byte(`{"data":` + data + `}`), Data: []byte(data)}
		began := time.Now()
		holds, err := c.holds(&subjectOfWhere{event: e})
		require.Less(t, time.Since(began), 30*time.Second)
		require.False(t, holds && err != nil)
		again, errAgain := c.holds(&subjectOfWhere{event: e})
		require.Equal(t, holds, again)
		require.Equal(t, err, errAgain)
	})
}

// BenchmarkWhere is the cost of an expression that reads the data of an event.
func BenchmarkWhere(b *testing.B) {
	for _, text := range []string{`organization_id != "org_test"`, `data.id != "x"`} {
		b.Run(text, func(b *testing.B) {
			r := newRouter(b, Config{Routes: []Route{{Events: []string{"*"}, Where: text, Topic: "t"}}})
			e := newEvent(b, "user.created", `{"id":"user_1","organization_id":"org_1","raw":"`+strings.Repeat("lorem ipsum ", 60)+`"}`)
			b.ReportAllocs()
			batch := make([]sink.Message, 0, 1)
			for b.Loop() {
				if _, err := r.Append(batch, e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestWhereAndState: what a route drops by its expression changes no state, neither by an event nor
// by a snapshot.
func TestWhereAndState(t *testing.T) {
	t.Parallel()
	drop := Route{Events: []string{"*"}, Where: `organization_id == "org_test"`, Drop: true}
	r := keeping(t, Config{Routes: []Route{drop}}, "directory_user")
	for organization, want := range map[string]int{"org_test": 0, "org_1": 1} {
		data := `{"id":"du_1","organization_id":"` + organization + `"}`
		batch, err := r.Route(newEvent(t, "dsync.user.created", data))
		require.NoError(t, err)
		require.Len(t, batch, want)
		batch, err = r.AppendObject(nil, &state.Change{Entity: "directory_user", Key: "du_1", Object: []byte(data)}, "run_1")
		require.NoError(t, err)
		require.Len(t, batch, want)
	}
	batch, err := r.AppendObject(nil, &state.Change{Entity: "directory_user", Key: "du_1"}, "run_1")
	require.NoError(t, err)
	require.Len(t, batch, 1, "what removes an object goes out in any case")

	_, err = New(Config{State: []string{"user"}, Types: allTypes(t), Routes: []Route{{Events: []string{"user.*"}, Where: `data.id == "x"`, Redact: []string{"data.email"}}}})
	require.ErrorContains(t, err, "the routes redact user.created and user.created in different ways")
	_, err = New(Config{State: []string{"user"}, Types: allTypes(t), Routes: []Route{{Events: []string{"user.*"}, Where: `data.id == "x"`, Redact: []string{"data.id"}}}})
	require.ErrorContains(t, err, "whose objects are known by id")
}
