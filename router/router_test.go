package router

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
)

// newEvent returns an event as the source gives it, with the given data.
func newEvent(t testing.TB, eventType, data string) *source.Event {
	t.Helper()
	raw := `{"object":"event","id":"event_01H","event":` + quote(t, eventType) + `,"data":` + data +
		`,"created_at":"2026-11-23T10:20:30.120Z","context":{"x":12345678901234567890},"list":[{"name":"é"}]}`
	require.True(t, json.Valid([]byte(raw)), raw)
	return &source.Event{
		ID: "event_01H", Event: eventType, Data: json.RawMessage(data), Raw: json.RawMessage(raw),
		CreatedAt: time.Date(2026, 11, 23, 10, 20, 30, 120e6, time.UTC),
	}
}

func quote(t testing.TB, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	require.NoError(t, err)
	return string(b)
}

func newRouter(t testing.TB, cfg Config) *Router {
	t.Helper()
	r, err := New(cfg)
	require.NoError(t, err)
	return r
}

func routeOne(t testing.TB, r *Router, e *source.Event) sink.Message {
	t.Helper()
	batch, err := r.Route(e)
	require.NoError(t, err)
	require.Len(t, batch, 1)
	return batch[0]
}

func header(m sink.Message, key string) string {
	for _, h := range m.Headers {
		if h.Key == key {
			return h.Value
		}
	}
	return ""
}

func TestRouteByDefault(t *testing.T) {
	e := newEvent(t, "dsync.user.created", `{"object":"directory_user","id":"directory_user_1","organization_id":"org_1","directory_id":"directory_1"}`)
	m := routeOne(t, newRouter(t, Config{}), e)
	require.Equal(t, sink.Message{
		Topic: "dsync.user.created", Created: e.CreatedAt,
		Key: []byte("org_1"),
		ID:  "event_01H",
		Headers: []sink.Header{
			{Key: "event-id", Value: "event_01H"},
			{Key: "event-type", Value: "dsync.user.created"},
			{Key: "event-created-at", Value: "2026-11-23T10:20:30.120Z"},
			{Key: "organization-id", Value: "org_1"},
		},
		Body:     e.Raw,
		Position: checkpoint.Position{EventID: "event_01H", CreatedAt: e.CreatedAt},
	}, m)
}

func TestFirstMatchWins(t *testing.T) {
	r := newRouter(t, Config{Prefix: "workos.", DeadLetter: "relay.dead_letter", Routes: []Route{
		{Events: []string{"dsync.user.deleted"}},
		{Events: []string{"dsync.group.created", "dsync.user.*"}, Topic: "dsync.people", Key: "data.directory_id"},
		{Events: []string{"authentication.*", "+future.thing"}, Drop: true},
		{Events: []string{"authentication.sso_failed"}, Topic: "never"},
		{Events: []string{"vault.*"}, Topic: "vault"},
	}})
	for eventType, want := range map[string]string{
		"dsync.user.deleted":        "workos.dsync.user.deleted",
		"dsync.user.created":        "workos.dsync.people",
		"dsync.group.created":       "workos.dsync.people",
		"dsync.group.deleted":       "workos.dsync.group.deleted",
		"authentication.sso_failed": "",
		"future.thing":              "",
		"future.other":              "workos.future.other",
		"dsync.user.of_the_future":  "workos.dsync.people",
		"vault.data.read":           "workos.vault",
		"user.created":              "workos.user.created",
	} {
		topics, dropped := r.Resolve(eventType)
		require.Equal(t, want, strings.Join(topics, " "), eventType)
		require.Equal(t, want == "", dropped, eventType)
		topic, dropped := r.Destination(newEvent(t, eventType, `{"id":"x"}`))
		require.Equal(t, want, topic, eventType)
		require.Equal(t, want == "", dropped, eventType)
		batch, err := r.Route(newEvent(t, eventType, `{"id":"x"}`))
		require.NoError(t, err)
		if want == "" {
			require.Empty(t, batch)
		} else {
			require.Equal(t, want, batch[0].Topic)
		}
	}
	require.Equal(t, []string{"workos.dsync.people", "workos.dsync.user.deleted", "workos.user.created"},
		r.Topics([]string{"user.created", "dsync.user.updated", "dsync.user.created", "authentication.sso_failed", "dsync.user.deleted"}))
	require.Empty(t, r.Topics(nil))
	require.Equal(t, "workos.relay.dead_letter", r.DeadLetterTopic())
	require.Empty(t, newRouter(t, Config{Prefix: "workos."}).DeadLetterTopic())
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	r := newRouter(t, Config{Routes: []Route{{Events: []string{"user.deleted"}, Drop: true}}})
	batch, err := r.Append(nil, newEvent(t, "user.created", `{}`))
	require.NoError(t, err)
	batch, err = r.Append(batch, newEvent(t, "user.deleted", `{}`))
	require.NoError(t, err)
	batch, err = r.Append(batch, newEvent(t, "user.updated", `{}`))
	require.NoError(t, err)
	require.Equal(t, []string{"user.created", "user.updated"}, []string{batch[0].Topic, batch[1].Topic})

	bare := newEvent(t, "user.updated", `{}`)
	bare.Raw = nil
	same, err := r.Append(batch, bare)
	require.ErrorContains(t, err, "event_01H")
	require.Len(t, same, 2)
}

// An event of a type that no bus has a topic for is not held back: the sink refuses it by name.
func TestOddTypeGivesAMessage(t *testing.T) {
	m := routeOne(t, newRouter(t, Config{}), newEvent(t, "odd type.ü\r\n*", `{}`))
	require.Equal(t, "odd type.ü\r\n*", m.Topic)
	require.Equal(t, "odd type.ü%0D%0A*", header(m, HeaderType))
}

func TestKeyAndOrganization(t *testing.T) {
	for name, tt := range map[string]struct{ data, path, key, organization string }{
		"organization_id first":      {`{"id":"a","user_id":"b","directory_id":"c","user":{"organization_id":"d"},"sso":{"organization_id":"e"},"organization_id":"f","object":"organization"}`, "", "f", "f"},
		"the organization itself":    {`{"id":"org_9","object":"organization","directory_id":"c"}`, "", "org_9", "org_9"},
		"and object after id":        {`{"object":"organization","user":{"organization_id":"d"},"id":"org_9"}`, "", "org_9", "org_9"},
		"sso before user":            {`{"id":"a","user":{"organization_id":"d"},"sso":{"connection_id":"x","organization_id":"e"}}`, "", "e", "e"},
		"user":                       {`{"id":"a","directory_id":"c","user":{"id":"x","organization_id":"d"}}`, "", "d", "d"},
		"directory":                  {`{"id":"a","user_id":"b","directory_id":"directory_1"}`, "", "directory_1", ""},
		"user_id":                    {`{"id":"a","user_id":"user_1"}`, "", "user_1", ""},
		"id":                         {`{"object":"user","id":"user_2"}`, "", "user_2", ""},
		"nothing":                    {`{"email":"a@b.c"}`, "", "event_01H", ""},
		"nulls and empty ones":       {`{"organization_id":null,"sso":null,"user":"x","directory_id":"","user_id":[],"id":{}}`, "", "event_01H", ""},
		"only data's own members":    {`{"nested":{"organization_id":"no"},"id":"a"}`, "", "a", ""},
		"a number":                   {`{"organization_id":12345678901234567890}`, "", "12345678901234567890", "12345678901234567890"},
		"the first of two":           {`{"organization_id":"one","organization_id":"two"}`, "", "one", "one"},
		"an escaped name":            {`{"organization\u005fid":"org_\u00e9"}`, "", "org_é", "org_é"},
		"data not an object":         {`["organization_id","x"]`, "", "event_01H", ""},
		"path":                       {`{"organization_id":"org_1","directory_id":"directory_1"}`, "data.directory_id", "directory_1", "org_1"},
		"path to nothing":            {`{"organization_id":"org_1"}`, "data.directory_id", "org_1", "org_1"},
		"path to null":               {`{"organization_id":"org_1","directory_id":null}`, "data.directory_id", "org_1", "org_1"},
		"path to an empty string":    {`{"organization_id":"org_1","directory_id":""}`, "data.directory_id", "org_1", "org_1"},
		"path through what is none":  {`{"organization_id":"org_1","directory_id":"x"}`, "data.directory_id.id", "org_1", "org_1"},
		"path to a number":           {`{"n":1.50}`, "data.n", "1.50", ""},
		"path to a truth":            {`{"n":false}`, "data.n", "false", ""},
		"path to an object":          {`{"n":{"b": 1}}`, "data.n", `{"b": 1}`, ""},
		"path into a list":           {`{"emails":[{"value":"a"},{"value":"b"}]}`, "data.emails.1.value", "b", ""},
		"path with - and _":          {`{"custom_attributes":{"cost-center_2":"x"}}`, "data.custom_attributes.cost-center_2", "x", ""},
		"path outside data":          {`{}`, "context.x", "12345678901234567890", ""},
		"path to the id":             {`{"organization_id":"org_1"}`, "id", "event_01H", "org_1"},
		"path into a list of events": {`{}`, "list.0.name", "é", ""},
		"path to all of data":        {`{"a":[1, 2]}`, "data", `{"a":[1, 2]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRouter(t, Config{Routes: []Route{{Events: []string{"*"}, Key: tt.path}}})
			m := routeOne(t, r, newEvent(t, "future.created", tt.data)) // a type that the catalogue does not know
			require.Equal(t, tt.key, string(m.Key))
			require.Equal(t, tt.organization, header(m, HeaderOrganization))
		})
	}
}

func TestCreatedAt(t *testing.T) {
	for want, at := range map[string]time.Time{
		"":                               {},
		"2026-11-23T10:20:30.000Z":       time.Date(2026, 11, 23, 10, 20, 30, 0, time.UTC),
		"2026-11-23T04:50:30.120Z":       time.Date(2026, 11, 23, 10, 20, 30, 120e6, time.FixedZone("", 5*3600+1800)),
		"2026-11-23T10:20:30.123456Z":    time.Date(2026, 11, 23, 10, 20, 30, 123456e3, time.UTC),
		"2026-11-23T10:20:30.000000001Z": time.Date(2026, 11, 23, 10, 20, 30, 1, time.UTC),
	} {
		e := newEvent(t, "user.created", `{}`)
		e.CreatedAt = at
		m := routeOne(t, newRouter(t, Config{}), e)
		require.Equal(t, want, header(m, HeaderCreatedAt))
		require.Len(t, m.Headers, map[bool]int{true: 2, false: 3}[want == ""], "no header without a value")
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	long := strings.Repeat("x", 250)
	for name, tt := range map[string]struct {
		cfg  Config
		want map[string]string // key: part of the message
	}{
		"patterns": {Config{Routes: []Route{{Events: []string{"*"}}, {Events: []string{"user.*", "dsync.user.create", "dsinc.*", "", "+A"}}}}, map[string]string{
			"routes[1].events[1]": `did you mean "dsync.user.created"?`,
			"routes[1].events[2]": `did you mean "dsync.*"?`,
			"routes[1].events[3]": "no known event type",
			"routes[1].events[4]": "not an event type name",
		}},
		"no events": {Config{Routes: []Route{{Topic: "x"}}}, map[string]string{"routes[0].events": "names no event type"}},
		"drop": {Config{Routes: []Route{{Events: []string{"*"}, Drop: true, Topic: "x", Key: "data.id"}}}, map[string]string{
			"routes[0].topic": "drop", "routes[0].key": "drop",
		}},
		"topics": {Config{Routes: []Route{
			{Events: []string{"*"}, Topic: "a..b"}, {Events: []string{"*"}, Topic: ".a"}, {Events: []string{"*"}, Topic: "a."},
			{Events: []string{"*"}, Topic: "a b"}, {Events: []string{"*"}, Topic: "a.*"}, {Events: []string{"*"}, Topic: "ü"},
			{Events: []string{"*"}, Topic: long}, {Events: []string{"*"}, Topic: "relay.position.x.y"}, {Events: []string{"*"}, Topic: "."},
			{Events: []string{"*"}, Topic: long[1:]},
		}}, map[string]string{
			"routes[0].topic": "empty", "routes[1].topic": "empty", "routes[2].topic": "empty", "routes[3].topic": "' '",
			"routes[4].topic": "'*'", "routes[5].topic": "'ü'", "routes[6].topic": "250 characters", "routes[7].topic": "positions",
			"routes[8].topic": "empty",
		}},
		"topic with its prefix": {Config{Prefix: "relay.", Routes: []Route{{Events: []string{"*"}, Topic: "position"}, {Events: []string{"*"}, Topic: long[5:]}}}, map[string]string{
			"routes[0].topic": "positions", "routes[1].topic": "251 characters",
		}},
		"prefix":               {Config{Prefix: "a..", DeadLetter: "dead"}, map[string]string{"topic_prefix": "empty"}},
		"prefix too long":      {Config{Prefix: long[:240]}, map[string]string{"topic_prefix": "longest event type"}},
		"prefix for positions": {Config{Prefix: "relay.position."}, map[string]string{"topic_prefix": "positions"}},
		"keys": {Config{Routes: []Route{
			{Events: []string{"*"}, Key: "data..id"}, {Events: []string{"*"}, Key: "data.*"}, {Events: []string{"*"}, Key: "data.#"},
			{Events: []string{"*"}, Key: "@this"}, {Events: []string{"*"}, Key: "data|id"}, {Events: []string{"*"}, Key: `data\.id`},
			{Events: []string{"*"}, Key: "data.id."}, {Events: []string{"*"}, Key: long + long},
		}}, map[string]string{
			"routes[0].key": "empty", "routes[1].key": "'*'", "routes[2].key": "'#'", "routes[3].key": "'@'", "routes[4].key": "'|'",
			"routes[5].key": `'\\'`, "routes[6].key": "empty", "routes[7].key": "longer",
		}},
		"encoding":            {Config{Encoding: "xml"}, map[string]string{"encoding": "cloudevents_structured"}},
		"binding":             {Config{Binding: "amqp"}, map[string]string{"binding": "kafka"}},
		"source":              {Config{Encoding: CloudEvents}, map[string]string{"id": "CloudEvents"}},
		"dead letter":         {Config{DeadLetter: "a b"}, map[string]string{"dead_letter.topic": "' '"}},
		"dead letter routed":  {Config{DeadLetter: "x", Routes: []Route{{Events: []string{"*"}, Topic: "x"}}}, map[string]string{"dead_letter.topic": "need their own topic"}},
		"dead letter is type": {Config{DeadLetter: "user.created"}, map[string]string{"dead_letter.topic": "need their own topic"}},
		"dead letter place":   {Config{DeadLetter: "relay.position"}, map[string]string{"dead_letter.topic": "positions"}},
		"several": {Config{Encoding: "xml", Routes: []Route{{Events: []string{"usr.created"}, Topic: "a b"}}}, map[string]string{
			"encoding": "", "routes[0].events[0]": "", "routes[0].topic": "",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(tt.cfg)
			require.Error(t, err)
			have := map[string]string{}
			for _, fault := range err.(interface{ Unwrap() []error }).Unwrap() { //nolint:errorlint // what New promises
				var ke *KeyError
				require.ErrorAs(t, fault, &ke)
				require.NotContains(t, have, ke.Key(), "named twice: %v", fault)
				require.True(t, strings.HasPrefix(ke.Error(), ke.Key()+" "))
				have[ke.Key()] = ke.Error()
			}
			for key, says := range tt.want {
				require.Contains(t, have[key], says)
			}
			require.Len(t, have, len(tt.want), "%v", err)
		})
	}
	_, err := New(Config{Routes: []Route{{Events: []string{"dsync.user.create"}}}})
	var pe *source.PatternError
	require.ErrorAs(t, err, &pe)
}

func TestRouteValidatesRelativeToItself(t *testing.T) {
	require.NoError(t, Route{Events: []string{"not judged here"}, Topic: "a.b", Key: "data.id"}.Validate())
	var ke *KeyError
	require.ErrorAs(t, Route{Events: []string{"*"}, Topic: "a b"}.Validate(), &ke)
	require.Equal(t, "topic", ke.Key())
}

func FuzzConfig(f *testing.F) {
	f.Add("dsync.user.*", "dsync.user", "data.directory_id", "workos.", "dsync.user.created", []byte(`{"directory_id":"d"}`))
	f.Add("*", "", "data.emails.0.value", "", "user.created", []byte(`{"emails":[{"value":"x"}]}`))
	f.Add("+new.type", "a..b", "@this|#(x==1)", "-", "new.type", []byte(`{"id":`))
	f.Add("**s*", "x", "data.1", ".", "\xff", []byte("[]"))
	f.Fuzz(func(t *testing.T, pattern, topic, key, prefix, eventType string, data []byte) {
		r, err := New(Config{Prefix: prefix, Routes: []Route{{Events: []string{pattern}, Topic: topic, Key: key}}})
		if err != nil {
			var ke *KeyError
			require.ErrorAs(t, err, &ke)
			return
		}
		e := &source.Event{ID: "event_1", Event: eventType, Data: data, Raw: append(append([]byte(`{"data":`), data...), '}')}
		m := routeOne(t, r, e)
		require.NotEmpty(t, m.Key)
		require.Equal(t, []byte(e.Raw), m.Body)
		if topic != "" && source.Match(pattern, eventType) {
			require.Equal(t, prefix+topic, m.Topic)
			require.Empty(t, illegalTopic(m.Topic))
		} else {
			require.Equal(t, prefix+eventType, m.Topic)
		}
		if key != "" && m.Topic == prefix+topic && json.Valid(e.Raw) {
			requireKeyAsDecoded(t, e, key, string(m.Key))
		}
	})
}

// requireKeyAsDecoded finds the value at path by decoding the event as a whole, and compares it if
// it is a string and no name occurs twice.
func requireKeyAsDecoded(t *testing.T, e *source.Event, path, key string) {
	t.Helper()
	var at any
	require.NoError(t, json.Unmarshal(e.Raw, &at))
	for name := range strings.SplitSeq(path, ".") {
		object, ok := at.(map[string]any)
		if !ok || strings.Count(string(e.Raw), `"`+name+`"`) != 1 {
			return
		}
		at = object[name]
	}
	if s, ok := at.(string); ok && s != "" && !strings.ContainsRune(s, '\uFFFD') {
		require.Equal(t, s, key)
	}
}

// TestRoutingCopiesNothing: a batch that is refilled costs the text of each event's time and
// nothing else.
func TestRoutingCopiesNothing(t *testing.T) {
	e := newEvent(t, "dsync.user.created", `{"object":"directory_user","id":"directory_user_01H","organization_id":"org_01H","directory_id":"directory_01H"}`)
	r := newRouter(t, Config{})
	batch := make([]sink.Message, 0, 3)
	allocations := testing.AllocsPerRun(100, func() {
		batch = batch[:0]
		for range 3 {
			var err error
			if batch, err = r.Append(batch, e); err != nil {
				t.Error(err)
			}
		}
	})
	require.LessOrEqual(t, allocations, 3.0)
	for _, m := range batch {
		require.Same(t, unsafe.SliceData(e.Raw), unsafe.SliceData(m.Body), "the body is a copy")
		require.Equal(t, "org_01H", string(m.Key))
		at := strings.Index(string(e.Data), "org_01H")
		require.Same(t, &e.Data[at], unsafe.SliceData(m.Key), "the key is a copy")
		require.Len(t, m.Headers, 4)
	}
	require.NotSame(t, unsafe.SliceData(batch[0].Headers), unsafe.SliceData(batch[1].Headers))
}

func BenchmarkRoute(b *testing.B) {
	data := `{"object":"directory_user","id":"directory_user_01E1X1B89NH8Z3SDFJR4H7RGX7","directory_id":"directory_01ECAZ4NV9QMV47GW873HDCX74",` +
		`"organization_id":"org_01EZTR6WYX1A0DSE2CYMGXQ24Y","state":"active","emails":[{"type":"work","value":"a@example.com","primary":true}],` +
		`"idp_id":"8931","first_name":"Lela","last_name":"Block","job_title":"Software Engineer","username":"lela.block",` +
		`"raw_attributes":{"x":"` + strings.Repeat("lorem ipsum ", 60) + `"},"custom_attributes":{"department":"Engineering","manager_id":"1"},` +
		`"created_at":"2021-06-25T19:07:33.155Z","updated_at":"2021-06-25T19:07:33.155Z"}`
	for _, encoding := range []Encoding{Raw, CloudEvents, CloudEventsStructured} {
		for _, key := range []string{"", "data.directory_id"} {
			b.Run(string(encoding)+"/key="+key, func(b *testing.B) {
				r := newRouter(b, Config{Relay: "workos", Encoding: encoding, Routes: []Route{{Events: []string{"dsync.user.*"}, Topic: "dsync.user", Key: key}}})
				e := newEvent(b, "dsync.user.created", data)
				b.SetBytes(int64(len(e.Raw)))
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
}
