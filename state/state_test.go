package state_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/catalogue"
	"workos-relay/source"
	"workos-relay/state"
)

// without are the types that change no object that relay keeps, by the reason.
var without = map[string][]string{
	"tells that something happened, and gives no object": {
		"action.*", "authentication.*", "radar.*", "resource_export.*", "vault.*",
		"pipes.account_connection.add_failed", "pipes.account_connection.connection_failed", "pipes.connected_account.connection_failed",
	},
	"mentions an object, and does not give its newest version": {"connection.saml_certificate_*"},
	"gives an object that is used once, soon":                  {"email_verification.*", "magic_auth.*", "password_reset.*"},
	// Of a registration most events give the id alone, so that no newest version can be kept.
	"gives the id alone, or belongs to what gives it alone": {"agent.registration.*"},
	"is gone": {"organization_membership.added", "organization_membership.removed", "session.reauthenticated", "user.impersonated"},
}

// TestEveryTypeIsDecided: a type of the catalogue changes an object, or somebody has decided why it
// changes none. A new type fails here until that is decided.
func TestEveryTypeIsDecided(t *testing.T) {
	t.Parallel()
	for _, typ := range source.Catalogue() {
		var why []string
		for reason, patterns := range without {
			if slices.ContainsFunc(patterns, func(p string) bool { return source.Match(p, typ.Name) }) {
				why = append(why, reason)
			}
		}
		if _, _, changes := state.EntityOf(typ.Name); changes {
			require.Empty(t, why, typ.Name)
		} else {
			require.Len(t, why, 1, "decide in package state which object %s changes, or why none", typ.Name)
		}
	}
	for _, e := range state.Entities() {
		require.NotEmpty(t, e.Sets, e.Name)
		require.True(t, slices.IsSorted(e.Sets), e.Name)
		require.True(t, slices.IsSorted(e.Removes), e.Name)
		for _, name := range e.Types() {
			_, known := source.Lookup(name)
			require.True(t, known, name)
		}
	}
	require.True(t, slices.IsSortedFunc(state.Entities(), func(a, b state.Entity) int { return strings.Compare(a.Name, b.Name) }))
}

// TestPayloadsGiveTheirChange: the payload that WorkOS sends of each type has the key, the object
// and the updated_at that the table promises.
func TestPayloadsGiveTheirChange(t *testing.T) {
	t.Parallel()
	seen := 0
	for name, data := range payloads(t) {
		e := &source.Event{ID: "event_1", Event: name, Data: data}
		c, ok := state.ChangeOf(e)
		entity, removes, changes := state.EntityOf(name)
		require.Equal(t, changes, ok, name)
		if !changes {
			continue
		}
		seen++
		require.Equal(t, entity, c.Entity, name)
		require.Equal(t, removes, c.Removed(), name)
		about, found := state.Lookup(entity)
		require.True(t, found)
		require.Equal(t, len(about.Key)-1, strings.Count(c.Key, "/"), "%s: %s", name, c.Key)
		require.Equal(t, about.UpdatedAt, !c.UpdatedAt.IsZero(), name)
		if name == "organization_domain.verification_failed" {
			require.Contains(t, string(c.Object), `"object":"organization_domain"`)
			require.NotContains(t, string(c.Object), "reason")
			continue
		}
		if !removes {
			require.Equal(t, string(data), string(c.Object), name)
		}
		var object struct{ Object string }
		require.NoError(t, json.Unmarshal(data, &object))
		if object.Object != "" {
			require.Equal(t, entity, object.Object, name)
		}
	}
	require.Greater(t, seen, 60)
}

// TestThePageHasEveryEntity: docs/state.md shows the table.
func TestThePageHasEveryEntity(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/state.md")
	require.NoError(t, err)
	quoted := func(names []string) string {
		if len(names) == 0 {
			return "none"
		}
		return "`" + strings.Join(names, "`, `") + "`"
	}
	for _, e := range state.Entities() {
		row := fmt.Sprintf("| `%s` | `%s` | %s | %s |\n", e.Name, strings.Join(e.Key, "/"), quoted(e.Sets), quoted(e.Removes))
		require.Contains(t, string(page), row)
	}
}

// payloads returns a payload of each type, made from the schemas, and those at
// RELAY_TEST_PAYLOADS if that is set.
func payloads(t *testing.T) map[string]json.RawMessage {
	t.Helper()
	out := map[string]json.RawMessage{}
	for _, typ := range catalogue.Types() {
		if schema := typ.Data(); schema != nil {
			data, err := json.Marshal(sample(schema, ""))
			require.NoError(t, err)
			out[typ.Name] = data
		}
	}
	path := os.Getenv("RELAY_TEST_PAYLOADS")
	if path == "" {
		return out
	}
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Type string
			Data json.RawMessage
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &line))
		out[line.Type] = line.Data
	}
	require.NoError(t, lines.Err())
	return out
}

// sample returns a value that fits the schema.
func sample(schema map[string]any, path string) any {
	if value, ok := schema["const"]; ok {
		return value
	}
	if values, ok := schema["enum"].([]any); ok {
		return values[0]
	}
	if forms, ok := schema["anyOf"].([]any); ok {
		return sample(forms[0].(map[string]any), path)
	}
	if forms, ok := schema["oneOf"].([]any); ok {
		return sample(forms[0].(map[string]any), path)
	}
	kind, _ := schema["type"].(string)
	if kinds, ok := schema["type"].([]any); ok {
		kind = kinds[0].(string)
	}
	switch kind {
	case "object":
		out := map[string]any{}
		members, _ := schema["properties"].(map[string]any)
		for name, inner := range members {
			out[name] = sample(inner.(map[string]any), path+"."+name)
		}
		return out
	case "array":
		return []any{}
	case "boolean":
		return true
	case "number", "integer":
		return 1
	default:
		if schema["format"] == "date-time" {
			return "2026-11-01T00:00:00.000Z"
		}
		return "value" + path
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 2, 3, 4, 5, 6e6, time.UTC)
	for name, test := range map[string]struct {
		event, data string
		want        state.Change
		none        bool
	}{
		"by id":     {event: "user.updated", data: `{"id":"user_1","updated_at":"2026-11-02T03:04:05.006Z"}`, want: state.Change{Entity: "user", Key: "user_1", UpdatedAt: at}},
		"by slug":   {event: "role.created", data: `{"slug":"admin"}`, want: state.Change{Entity: "role", Key: "admin"}},
		"of two":    {event: "dsync.group.user_added", data: `{"user":{"id":"u","updated_at":"2026-11-02T03:04:05.006Z"},"group":{"id":"g"}}`, want: state.Change{Entity: "directory_group_membership", Key: "g/u"}},
		"slashes":   {event: "organization_role.created", data: `{"organization_id":"a/b%","slug":"c"}`, want: state.Change{Entity: "organization_role", Key: "a%2Fb%25/c"}},
		"escaped":   {event: "user.created", data: `{"id":"\u0075ser"}`, want: state.Change{Entity: "user", Key: "user"}},
		"odd time":  {event: "user.created", data: `{"id":"u","updated_at":"yesterday"}`, want: state.Change{Entity: "user", Key: "u"}},
		"no id":     {event: "user.created", data: `{"name":"x"}`, none: true},
		"null id":   {event: "user.created", data: `{"id":null}`, none: true},
		"empty id":  {event: "user.created", data: `{"id":""}`, none: true},
		"number":    {event: "user.created", data: `{"id":7}`, none: true},
		"half":      {event: "group.member_added", data: `{"group_id":"g"}`, none: true},
		"list":      {event: "user.created", data: `[{"id":"u"}]`, none: true},
		"null":      {event: "user.created", data: `null`, none: true},
		"empty":     {event: "user.created", data: ``, none: true},
		"no effect": {event: "authentication.sso_started", data: `{"id":"u"}`, none: true},
		"unknown":   {event: "user.exploded", data: `{"id":"u"}`, none: true},
		"no object": {event: "organization_domain.verification_failed", data: `{"reason":"x"}`, none: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, ok := state.ChangeOf(&source.Event{Event: test.event, Data: json.RawMessage(test.data)})
			require.Equal(t, !test.none, ok)
			if ok {
				test.want.Object = []byte(test.data)
				require.Equal(t, test.want, c)
			}
		})
	}
	c, ok := state.ChangeOf(&source.Event{Event: "user.deleted", Data: json.RawMessage(`{"id":"u"}`)})
	require.True(t, ok)
	require.True(t, c.Removed())
	require.Equal(t, "u", c.Key)
}

func TestSelect(t *testing.T) {
	t.Parallel()
	names := func(entities []state.Entity) (out []string) {
		for _, e := range entities {
			out = append(out, e.Name)
		}
		return out
	}
	all, err := source.Expand([]string{"*"})
	require.NoError(t, err)

	got, err := state.Select([]string{"user", "organization", "user"}, all)
	require.NoError(t, err)
	require.Equal(t, []string{"organization", "user"}, names(got))

	got, err = state.Select([]string{"*"}, all)
	require.NoError(t, err)
	require.Len(t, got, len(state.Entities())-1)
	require.NotContains(t, names(got), "directory_token", "its types are opt-in")

	got, err = state.Select([]string{"*"}, []string{"user.created", "user.deleted", "user.updated", "role.created"})
	require.NoError(t, err)
	require.Equal(t, []string{"user"}, names(got))

	got, err = state.Select([]string{"feature_flag"}, []string{"feature_flags.flag.created", "feature_flags.flag.deleted", "feature_flags.flag.updated"})
	require.NoError(t, err)
	require.Equal(t, []string{"feature_flag"}, names(got), "flag.* has successors")

	_, err = state.Select([]string{"*", "role"}, []string{"user.created", "role.created"})
	var missing *state.MissingError
	require.ErrorAs(t, err, &missing)
	require.Equal(t, []string{"role.deleted", "role.updated"}, missing.Types)

	_, err = state.Select([]string{"usr"}, all)
	require.EqualError(t, err, `"usr" is not a known entity; did you mean "user"?`)
	_, err = state.Select([]string{""}, all)
	require.ErrorContains(t, err, `"" is not a known entity; write "*" for all, or some of agent_blueprint, `)

	got, err = state.Select(nil, all)
	require.NoError(t, err)
	require.Empty(t, got)
}
