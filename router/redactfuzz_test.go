package router

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
)

// FuzzRedactPath checks that a path is taken apart or refused, and that its parts written down
// again are the same path.
func FuzzRedactPath(f *testing.F) {
	for _, path := range []string{"data.a", `data.a\.b.\*`, "data.*.x", "", ".", `\`, `data.\\`, "data..a", "data.0", "data.#", "data.é漢", "data.\x00", "data.\xff", "data.e*", strings.Repeat("a", 513)} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		reason := illegalRedaction(path)
		require.NotContains(t, reason, "\n")
		parts, err := splitPath(path)
		if err != nil {
			require.NotEmpty(t, reason)
			return
		}
		escape := strings.NewReplacer(`\`, `\\`, ".", `\.`, "*", `\*`)
		names := make([]string, len(parts))
		for i, p := range parts {
			if names[i] = p.name; !p.any {
				names[i] = escape.Replace(p.name)
			}
		}
		again, err := splitPath(strings.Join(names, "."))
		if err != nil { // escapes count for its length
			require.Greater(t, len(strings.Join(names, ".")), len(path))
			return
		}
		require.Equal(t, parts, again)
	})
}

// FuzzRedactHides puts a marked value at the end of a path, within objects and lists, in an event
// with other members. Nothing that is made of the event holds the mark, and each body is valid
// JSON.
func FuzzRedactHides(f *testing.F) {
	f.Add("data.email", []byte{0}, `{"x":1}`, false)
	f.Add("data.*.email", []byte{1, 2, 3}, `[1,{"email":2}]`, true)
	f.Add(`data.a\.b.organization_id`, []byte{2, 0, 1}, `"s"`, true)
	f.Add("context.actor.id", []byte{4, 4, 4}, `null`, false)
	f.Add("data.organization_id", []byte{8}, "{\"\xff\":1e400,\"é\":\"\\ud800\"}", true)
	f.Add("data.id", []byte{16, 255}, `{"email":{"email":[[]]}}`, false)
	f.Fuzz(func(t *testing.T, path string, shape []byte, beside string, pseudonymize bool) {
		const mark = "hidden-mark-7370"
		if len(beside) > 1<<10 || strings.Contains(beside, "7370") || strings.Contains(path, "7370") || !json.Valid([]byte(beside)) {
			return
		}
		parts, err := splitPath(path)
		if err != nil || illegalRedaction(path) != "" || len(parts) > 20 {
			return
		}
		value := `"` + mark + `"`
		bits := func(i int) byte {
			if len(shape) == 0 {
				return 0
			}
			return shape[i%len(shape)]
		}
		for i := len(parts) - 1; i >= 0; i-- {
			name := parts[i].name
			if parts[i].any {
				name = "any name"
			}
			quoted, err := json.Marshal(name)
			require.NoError(t, err)
			if bits(i)&16 != 0 && i < len(parts)-1 { // the name stands twice
				value = `{` + string(quoted) + `:` + value + `,"beside":` + beside + `,` + string(quoted) + `:` + value + `}`
			} else {
				value = `{"beside":` + beside + `,` + string(quoted) + `:` + value + `}`
			}
			if i > 0 {
				for range bits(i) & 3 {
					value = `[` + value + `,` + beside + `,` + value + `]`
				}
			}
		}
		raw := `{"id":"event_1","event":"user.created",` + value[1:]
		var members map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(raw), &members))
		route := Route{Events: []string{"*"}, Redact: []string{path}}
		if pseudonymize {
			route.Redact, route.Pseudonymize = nil, route.Redact
		}
		encoding := []Encoding{Raw, CloudEvents, CloudEventsStructured}[len(beside)%3] // all three would take three times as long
		r, err := New(Config{Relay: "workos", RedactionKey: redactionKey, DeadLetter: "dead", Encoding: encoding, Headers: Headers{Actor: true}, Routes: []Route{route}})
		require.NoError(t, err)
		e := &source.Event{ID: "event_1", Event: "user.created", Raw: []byte(raw), Data: members["data"]}
		batch, err := r.Route(e)
		require.NoError(t, err)
		letter, err := r.DeadLetter(e, "topic", "reason", 0, 0)
		require.NoError(t, err)
		for _, m := range append(batch, letter) {
			require.NotContains(t, shown(m.Topic, m.Key, m.Headers, m.Body, m.ID), mark)
			require.True(t, json.Valid(m.Body), "%q", m.Body)
		}
		seen := r.Redacted(e)
		require.NotContains(t, shown(seen.Raw, seen.Data, Organization(seen)), mark)
		require.Contains(t, string(e.Raw), mark, "the event itself stays")
	})
}
