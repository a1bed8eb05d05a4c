package router

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/conf/secret"
	"workos-relay/source"
)

const redactionKey = secret.String("0123456789abcdef-key")

// pseudo is the pseudonym by the words of the documentation.
func pseudo(text string) string {
	mac := hmac.New(sha256.New, []byte(redactionKey.Reveal()))
	mac.Write([]byte(text))
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}

func redacting(t testing.TB, cfg Config, redact, pseudonymize []string) *Router {
	t.Helper()
	cfg.Routes = append(cfg.Routes, Route{Events: []string{"*"}, Redact: redact, Pseudonymize: pseudonymize})
	cfg.RedactionKey = redactionKey
	return newRouter(t, cfg)
}

func TestRedaction(t *testing.T) {
	for name, tt := range map[string]struct {
		redact, pseudonymize []string
		data, want           string
	}{
		"nothing there":       {[]string{"data.a", "data.b.c", "list.x"}, []string{"data.d"}, `{"x":1}`, `{"x":1}`},
		"removed":             {[]string{"data.a"}, nil, `{"x":1,"a":"s","y":2}`, `{"x":1,"y":2}`},
		"first, last, only":   {[]string{"data.a", "data.b.c", "data.z"}, nil, `{"a":1,"b":{"c":1},"z":2}`, `{"b":{}}`},
		"twice":               {[]string{"data.a"}, nil, `{"a":"s","x":1,"a":"t"}`, `{"x":1}`},
		"twice above":         {[]string{"data.a.b"}, nil, `{"a":{"b":"s"},"a":{"b":"t","c":1},"a":[{"b":"u"}]}`, `{"a":{},"a":{"c":1},"a":[{}]}`},
		"escaped name":        {[]string{"data.email"}, nil, `{"em\u0061il":"s","x\u0061":1}`, `{"x\u0061":1}`},
		"list":                {[]string{"data.emails.value"}, nil, `{"emails":[{"value":"s","primary":true},{"value":"t"},"u",[{"value":"v"}]]}`, `{"emails":[{"primary":true},{},"u",[{}]]}`},
		"whole list":          {[]string{"data.emails"}, nil, `{"emails":[{"value":"s"}],"x":[]}`, `{"x":[]}`},
		"every name":          {[]string{"data.*.value"}, nil, `{"a":{"value":1},"b":[{"value":2}],"value":3}`, `{"a":{},"b":[{}],"value":3}`},
		"every element":       {[]string{"data.tags.*"}, nil, `{"tags":["a",["b"],{"c":1}]}`, `{"tags":[]}`},
		"name with a dot":     {[]string{`data.urn:x:2\.0:User.dep`}, nil, `{"urn:x:2.0:User":{"dep":"s","n":1}}`, `{"urn:x:2.0:User":{"n":1}}`},
		"name that is a star": {[]string{`data.\*`}, nil, `{"*":"s","x":1}`, `{"x":1}`},
		"not a name like it":  {[]string{"data.a"}, nil, `{"A":1,"ab":2,"b":{"a":3}}`, `{"A":1,"ab":2,"b":{"a":3}}`},
		"other values kept":   {[]string{"data.a"}, nil, `{ "n": 12345678901234567890.10e+5, "s" : "\u00e9<\/>&", "l":[ 1 , null ], "a":1 }`, `{"n":12345678901234567890.10e+5,"s":"\u00e9<\/>&","l":[1,null]}`},
		"text":                {nil, []string{"data.a"}, `{"a":"\u0065\"é"}`, `{"a":"` + pseudo(`e"é`) + `"}`},
		"number, bool, null":  {nil, []string{"data.a", "data.b", "data.c"}, `{"a":1.50,"b":true,"c":null}`, `{"a":"` + pseudo("1.50") + `","b":"` + pseudo("true") + `","c":null}`},
		"list of texts":       {nil, []string{"data.a"}, `{"a":["x",["y"],null]}`, `{"a":["` + pseudo("x") + `",["` + pseudo("y") + `"],null]}`},
		"object":              {nil, []string{"data.a"}, `{"a":{"z":1, "y":"\u0065"}}`, `{"a":"` + pseudo(`{"y":"e","z":1}`) + `"}`},
		"object, large number": {
			nil, []string{"data.a"}, `{"a":{"n":12345678901234567891}}`, `{"a":"` + pseudo(`{"n":12345678901234567891}`) + `"}`,
		},
		"both":         {[]string{"data.a.b"}, []string{"data.a.*"}, `{"a":{"b":"s","c":"t"}}`, `{"a":{"c":"` + pseudo("t") + `"}}`},
		"both, nested": {[]string{"data.a"}, []string{"data.a.b"}, `{"a":{"b":"s"}}`, `{}`},
		"within what is replaced": {
			[]string{"data.a.b"}, []string{"data.a"}, `{"a":{"b":"s","c":1}}`, `{"a":"` + pseudo(`{"b":"s","c":1}`) + `"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEvent(t, "user.created", tt.data)
			before := string(e.Raw)
			r := redacting(t, Config{}, tt.redact, tt.pseudonymize)
			m := routeOne(t, r, e)
			want := strings.Replace(before, tt.data, tt.want, 1)
			require.Equal(t, want, string(m.Body))
			require.Equal(t, m, routeOne(t, r, e), "the same each time")
			require.Equal(t, before, string(e.Raw), "the event itself stays")
			require.Equal(t, "event_01H", header(m, HeaderID))
		})
	}
}

func TestRedactionBesideData(t *testing.T) {
	e := newEvent(t, "user.created", `{"id":"user_1"}`)
	m := routeOne(t, redacting(t, Config{}, []string{"context.x", "list.name", "data"}, nil), e)
	require.JSONEq(t, `{"object":"event","id":"event_01H","event":"user.created","created_at":"2026-11-23T10:20:30.120Z","context":{},"list":[{}]}`, string(m.Body))
	require.Equal(t, "event_01H", string(m.Key))
}

// If a name occurs twice, relay uses the last one; a reader may use the first.
func TestRedactionOfDataThatStandsTwice(t *testing.T) {
	e := newEvent(t, "user.created", `{}`)
	e.Raw = json.RawMessage(`{"data":{"id":"first","email":"s1"},"data":{"id":"user_2","email":"s2"}}`)
	e.Data = json.RawMessage(`{"id":"user_2","email":"s2"}`)
	m := routeOne(t, redacting(t, Config{}, []string{"data.email"}, nil), e)
	require.NotContains(t, string(m.Body), "email")
	require.Contains(t, string(m.Body), `"data":{"id":"first"}`)
	require.Equal(t, "user_2", string(m.Key))
}

// Key and headers are made from the redacted event.
func TestRedactionCoversKeyAndHeaders(t *testing.T) {
	e := newEvent(t, "dsync.user.created", `{"id":"secret_user","organization_id":"secret_org","directory_id":"directory_1","email":"secret_email"}`)
	for _, encoding := range []Encoding{Raw, CloudEvents, CloudEventsStructured} {
		for _, binding := range []Binding{NATS, Kafka} {
			cfg := Config{Relay: "workos", Encoding: encoding, Binding: binding}
			m := routeOne(t, redacting(t, cfg, []string{"data.id", "data.organization_id", "data.email"}, nil), e)
			require.NotContains(t, shown(m.Topic, m.Key, m.Headers, m.Body, m.ID), "secret_")
			require.Equal(t, "directory_1", string(m.Key))

			m = routeOne(t, redacting(t, cfg, nil, []string{"data.id", "data.organization_id", "data.email"}), e)
			require.NotContains(t, shown(m.Topic, m.Key, m.Headers, m.Body, m.ID), "secret_")
			require.Equal(t, pseudo("secret_org"), string(m.Key))
			require.Equal(t, pseudo("secret_org"), header(m, HeaderOrganization))
			if encoding == CloudEventsStructured {
				require.Equal(t, pseudo("secret_user"), decodeStructured(t, binding, m).Subject())
			}
		}
	}
	r := newRouter(t, Config{RedactionKey: redactionKey, Routes: []Route{{Events: []string{"*"}, Key: "data.email", Pseudonymize: []string{"data.email"}}}})
	require.Equal(t, pseudo("secret_email"), string(routeOne(t, r, e).Key))
}

func shown(parts ...any) string {
	var b bytes.Buffer
	for _, p := range parts {
		if raw, ok := p.([]byte); ok {
			p = string(raw)
		}
		if err := json.NewEncoder(&b).Encode(p); err != nil {
			panic(err)
		}
	}
	return b.String()
}

func TestWhatCannotBeRedactedIsNotPublished(t *testing.T) {
	r := redacting(t, Config{DeadLetter: "dead"}, []string{"data.email"}, []string{"data.name"})
	for _, raw := range []string{
		`{"data":{"email":"secret_1"}`, `{"data":{"email":"secret_1"}} {}`, `{"data":{"email":"secret_1",}}`, `["secret_1"]`, `"secret_1"`, `nul`, ` `,
		`{"data":{"name":"secret_1`, `{"data":{"name":[1,}}`, `{"data":{"email":1},"x":"secret_1` + "\x01" + `"}`,
		`{"data":` + strings.Repeat(`[`, 20_000) + strings.Repeat(`]`, 20_000) + `}`,
	} {
		e := newEvent(t, "user.created", `{"email":"secret_1","organization_id":"secret_2"}`)
		e.Raw = json.RawMessage(raw)
		batch, err := r.Route(e)
		require.Error(t, err, raw)
		require.Empty(t, batch)
		require.NotContains(t, err.Error(), "secret")
		require.Contains(t, err.Error(), "event_01H")

		m, err := r.DeadLetter(e, "user.created", err.Error(), 0, 0)
		require.NoError(t, err)
		require.NotContains(t, shown(m.Topic, m.Key, m.Headers, m.Body), "secret")
		require.NotContains(t, string(m.Body), sum(raw), "a sum can be guessed at")
		require.Equal(t, "event_01H", string(m.Key))
	}
}

func sum(raw string) string {
	s := sha256.Sum256([]byte(raw))
	return hex.EncodeToString(s[:])
}

func TestDeadLetterOfARedactedEvent(t *testing.T) {
	e := newEvent(t, "user.created", `{"id":"user_1","organization_id":"secret_org","email":"secret_email"}`)
	r := redacting(t, Config{DeadLetter: "dead"}, []string{"data.email"}, []string{"data.organization_id"})
	m, err := r.DeadLetter(e, "user.created", "too large", 0, 0)
	require.NoError(t, err)
	require.NotContains(t, shown(m.Topic, m.Key, m.Headers, m.Body), "secret_")
	var l letter
	require.NoError(t, json.Unmarshal(m.Body, &l))
	body := string(routeOne(t, r, e).Body)
	require.Equal(t, body, string(l.Event))
	require.Equal(t, sum(body), l.SHA256)
	require.Equal(t, len(e.Raw), l.Size)
	require.Equal(t, pseudo("secret_org"), string(m.Key))

	e.ID = strings.Repeat("x", 300)
	a, err := r.DeadLetter(e, "user.created", "r", 0, 0)
	require.NoError(t, err)
	e.Raw = e.Raw[1:]
	b, err := r.DeadLetter(e, "user.created", "r", 0, 0)
	require.NoError(t, err)
	require.NotEqual(t, a.ID, b.ID)
	require.Greater(t, len(b.ID), 64)
}

func TestNewNamesFaultsOfRedaction(t *testing.T) {
	for path, says := range map[string]string{
		"": "empty", "data.": "empty", ".a": "empty", "data..a": "empty", "data.emails.#.value": "leave it out", "data.emails.0": "leave it out",
		"data.e*": "whole name", "*": "cannot be taken out", "id": "cannot be taken out", "*.x": "cannot be taken out", "event": "cannot", "object": "cannot",
		"created_at.x": "cannot", `data.a\`: "nothing follows", "data.\x00": "not allowed", "data.\xff": "not allowed", strings.Repeat("a", 513): "longer",
	} {
		for _, key := range []string{"redact", "pseudonymize"} {
			route := Route{Events: []string{"*"}, Redact: []string{"data.ok", path}}
			if key == "pseudonymize" {
				route.Redact, route.Pseudonymize = nil, route.Redact
			}
			_, err := New(Config{Routes: []Route{route}, RedactionKey: redactionKey})
			var ke *KeyError
			require.ErrorAs(t, err, &ke, path)
			require.Equal(t, "routes[0]."+key+"[1]", ke.Key())
			require.Contains(t, ke.Error(), says)
		}
	}
	for name, tt := range map[string]struct {
		route Route
		key   secret.String
		at    string
		says  string
	}{
		"drop":             {Route{Drop: true, Redact: []string{"data.a"}}, "", "routes[0].redact", "drop"},
		"no key":           {Route{Pseudonymize: []string{"data.a"}}, "", "redaction.key", "missing"},
		"short key":        {Route{Pseudonymize: []string{"data.a"}}, "short", "redaction.key", "guessed"},
		"key removed":      {Route{Key: "data.a.b", Redact: []string{"data.a"}}, "", "routes[0].key", "pseudonymize it"},
		"key in a list":    {Route{Key: "data.a.0.b", Redact: []string{"data.a.b"}}, "", "routes[0].key", "pseudonymize it"},
		"element is key":   {Route{Key: "data.a.0", Redact: []string{"data.a.*"}}, "", "routes[0].key", "pseudonymize it"},
		"any name is key":  {Route{Key: "data.a.b", Redact: []string{"data.*.b"}}, "", "routes[0].key", "pseudonymize it"},
		"key within":       {Route{Key: "data.a.b", Pseudonymize: []string{"data.a"}}, redactionKey, "routes[0].key", "the key's own path"},
		"key beside":       {Route{Key: "data.a.b", Redact: []string{"data.a.c", "data.b"}}, "", "", ""},
		"key around":       {Route{Key: "data.a", Redact: []string{"data.a.c"}}, "", "", ""},
		"key pseudonymous": {Route{Key: "data.a.b", Pseudonymize: []string{"data.a.b"}}, redactionKey, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tt.route.Events = []string{"*"}
			_, err := New(Config{Routes: []Route{tt.route}, RedactionKey: tt.key})
			if tt.at == "" {
				require.NoError(t, err)
				return
			}
			var ke *KeyError
			require.ErrorAs(t, err, &ke)
			require.Equal(t, tt.at, ke.Key())
			require.Contains(t, ke.Error(), tt.says)
		})
	}
}

var pseudonyms = regexp.MustCompile(`^"hmac-sha256:[0-9a-f]{64}"$`)

// FuzzRedact compares with a walk of another JSON library over every value of the message, names
// that occur twice included: nothing that a path names is left, and everything else is, in its
// order and byte for byte.
//
// P11: against another JSON library.
func FuzzRedact(f *testing.F) {
	f.Add(`{"a":"s","b":[{"a":1,"a":2}],"c":{"a":null}}`, "data.b.a", "data.*.a")
	f.Add(`{"emails":[{"value":"x","primary":true},{"v\u0061lue":"y"}],"id":"u"}`, "data.emails.value", "data.id")
	f.Add(`{"a":[[1,[2]],{"a":3}]}`, `data.a.*`, "data.a.a")
	f.Add(strings.Repeat("[", 40)+"1,1"+strings.Repeat("]", 40), "data"+strings.Repeat(".*", 20)+".a", "data.*.*.*.b")
	f.Add(`[{"x.y":1},{"*":2}]`, `data.x\.y`, `data.\*`)
	f.Add("{\"\xff\":\"\xfe\",\"a\\u0000\":{}}", "data.a", "data")
	f.Add(`{"a":{"b":1e400,"c":{"d":"\ud800"}},"a":-0}`, "data.a.b", "data.a.c")
	f.Fuzz(func(t *testing.T, data, removed, hashed string) {
		if len(data) > 1<<10 {
			return // the oracle copies the path of each value
		}
		r, err := New(Config{RedactionKey: redactionKey, DeadLetter: "dead", Routes: []Route{{Events: []string{"*"}, Redact: []string{removed}, Pseudonymize: []string{hashed}}}})
		if err != nil {
			return
		}
		e := &source.Event{ID: "event_1", Event: "user.created", Data: []byte(data), Raw: []byte(`{"id":"event_1","data":` + data + `,"data":{"last":"kept"}}`)}
		batch, err := r.Route(e)
		letter, letterErr := r.DeadLetter(e, "x", "r", 0, 0)
		require.NoError(t, letterErr)
		if err != nil {
			require.Empty(t, batch)
			require.NotContains(t, string(letter.Body), `"event":`)
			return
		}
		rules := oracleOf(t, removed, hashed)
		want := rules.walk(string(e.Raw), nil, nil)
		have := oracle{}.walk(string(batch[0].Body), nil, nil)
		require.Len(t, have, len(want), "%s", batch[0].Body)
		for i := range want {
			if want[i].hashed {
				require.Regexp(t, pseudonyms, have[i].text)
			} else {
				require.Equal(t, want[i].text, have[i].text)
			}
			require.Equal(t, want[i].path, have[i].path)
		}
	})
}
