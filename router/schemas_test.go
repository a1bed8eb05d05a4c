package router

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/catalogue"
)

// payloadOf makes data by a schema. Every string that is an id depends on its path alone, so that
// two payloads of a type name the same entities. has decides which optional fields are present; a
// missing one is absent or null, as the schema has it.
func payloadOf(s *catalogue.Schema, path string, has func(path string) bool) any {
	for i := range s.AnyOf {
		if v := &s.AnyOf[i]; !slices.Equal(v.Types, []string{"null"}) {
			return payloadOf(v, path, has)
		}
	}
	switch {
	case s.Const != nil:
		return s.Const
	case s.Enum != nil:
		return s.Enum[0]
	case s.Properties != nil:
		out := map[string]any{}
		for i := range s.Properties {
			p := &s.Properties[i]
			at := strings.TrimPrefix(path+"."+p.Name, ".")
			switch {
			case s.IsRequired(p.Name) && !p.Schema.Null() || has(at):
				out[p.Name] = payloadOf(&p.Schema, at, has)
			case s.IsRequired(p.Name):
				out[p.Name] = nil
			}
		}
		return out
	case slices.Contains(s.Types, "array"):
		if !has(path + ".0") {
			return []any{}
		}
		return []any{payloadOf(s.Items, path+".0", has)}
	case slices.Contains(s.Types, "object"):
		return map[string]any{}
	case slices.Contains(s.Types, "boolean"):
		return true
	case slices.Contains(s.Types, "integer"), slices.Contains(s.Types, "number"):
		return 7
	default:
		return "value of " + path
	}
}

// exceptions reads the table of docs/kafka.md: the last resort of the key for each type that is
// listed.
func exceptions(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "kafka.md"))
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "<!-- generated from internal/catalogue/types.jsonl: begin -->")
	require.True(t, found)
	table, _, found = strings.Cut(table, "<!-- generated from internal/catalogue/types.jsonl: end -->")
	require.True(t, found)
	out := map[string]string{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(strings.TrimSpace(line), "|"); len(cells) == 5 && strings.Contains(cells[1], "`") {
			chain := strings.Split(cells[3], ", else ")
			out[strings.Trim(cells[1], " `")] = strings.Trim(chain[len(chain)-1], " `")
		}
	}
	require.NotEmpty(t, out)
	return out
}

// TestKeysOfEverySchema makes payloads of every published schema, with optional fields present and
// missing. Two events of a type that name the same entity have the same key, and the event's id is
// never the key, except as docs/kafka.md says.
func TestKeysOfEverySchema(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{})
	listed := exceptions(t)
	random := rand.New(rand.NewPCG(1, 2))
	for _, typ := range catalogue.Types() {
		if typ.Status == catalogue.Gone {
			require.NotContains(t, listed, typ.Name)
			continue
		}
		keys, last := map[string]bool{}, ""
		for _, variant := range typ.Schema.Variants() {
			own := map[string]bool{}
			for n := range 64 {
				data, err := json.Marshal(payloadOf(&variant, "", func(string) bool { return n == 0 || n > 1 && random.IntN(2) == 0 }))
				require.NoError(t, err)
				key := string(routeOne(t, r, newEvent(t, typ.Name, string(data))).Key)
				own[key] = true
				if n == 1 {
					last = key // nothing optional is there
				}
				if n == 0 {
					require.NotEqual(t, "event_01H", key, "%s: %s", typ.Name, data)
				}
			}
			if len(own) > 1 || own["event_01H"] {
				keys = own
			}
		}
		fallback, isListed := listed[typ.Name]
		require.Equal(t, len(keys) > 1, isListed, "%s: keys %v", typ.Name, keys)
		if isListed && fallback == "the event's id" {
			require.Equal(t, "event_01H", last, typ.Name)
		} else {
			require.False(t, keys["event_01H"], "%s: keys %v", typ.Name, keys)
		}
	}
}

// TestOrganizationOfEverySchema requires the header organization-id for every schema that names
// one, and no header for the others.
func TestOrganizationOfEverySchema(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{})
	want := map[string]string{
		"organization.updated":                         "id",
		"user.created":                                 "",
		"role.updated":                                 "",
		"dsync.group.user_added":                       "user.organization_id",
		"api_key.created":                              "owner.id",
		"authentication.sso_failed":                    "sso.organization_id",
		"connection.saml_certificate_renewed":          "connection.organization_id",
		"organization_domain.verification_failed":      "organization_domain.organization_id",
		"agent.registration.claim.completed":           "claimed_by.organization_id",
		"agent.registration.organization.switched":     "to_organization_id",
		"vault.byok_key.deleted":                       "organization_id",
		"pipes.account_connection.connected":           "organization_id",
		"feature_flags.flag_target.created":            "",
		"agent.registration.credential.issued":         "",
		"connection.saml_certificate_renewal_required": "connection.organization_id",
	}
	for _, typ := range catalogue.Types() {
		if typ.Status == catalogue.Gone {
			continue
		}
		data, err := json.Marshal(payloadOf(typ.Schema, "", func(string) bool { return true }))
		require.NoError(t, err)
		organization := header(routeOne(t, r, newEvent(t, typ.Name, string(data))), HeaderOrganization)
		require.Equal(t, typ.Organization != nil, organization != "", "%s: %s", typ.Name, data)
		if path, ok := want[typ.Name]; ok && path != "" {
			require.Equal(t, "value of "+path, organization, typ.Name)
		}
	}
}

// TestOwnersOfAPIKeys covers both forms of an owner.
func TestOwnersOfAPIKeys(t *testing.T) {
	t.Parallel()
	r := newRouter(t, Config{})
	for data, want := range map[string]string{
		`{"id":"api_key_1","owner":{"type":"organization","id":"org_1"}}`:                           "org_1",
		`{"id":"api_key_1","owner":{"type":"user","id":"user_1","organization_id":"org_2"}}`:        "org_2",
		`{"id":"api_key_1","owner":{"organization_id":"org_3","id":"user_1","type":"user","x":{}}}`: "org_3",
	} {
		m := routeOne(t, r, newEvent(t, "api_key.updated", data))
		require.Equal(t, want, string(m.Key), data)
		require.Equal(t, want, header(m, HeaderOrganization), data)
	}
	m := routeOne(t, r, newEvent(t, "api_key.updated", `{"id":"api_key_1","owner":{"type":"user","id":"user_1"}}`))
	require.Equal(t, "user_1", string(m.Key))
	require.Empty(t, header(m, HeaderOrganization))
}

// TestActorHeader sets the header only if it is asked for, and from the redacted event.
func TestActorHeader(t *testing.T) {
	t.Parallel()
	e := newEvent(t, "user.updated", `{"id":"user_1"}`)
	e.Raw = []byte(`{"id":"event_01H","event":"user.updated","data":{"id":"user_1"},"created_at":"2026-01-01T00:00:00Z",` +
		`"context":{"actor":{"id":"user_\u0000admin","name":"Ada","source":"dashboard"}}}`)
	with := Headers{Actor: true}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"not asked for":  {Config{}, ""},
		"asked for":      {Config{Headers: with}, "user_%00admin"},
		"cloudevents":    {Config{Relay: "workos", Headers: with, Encoding: CloudEvents}, "user_%00admin"},
		"structured":     {Config{Relay: "workos", Headers: with, Encoding: CloudEventsStructured}, "user_%00admin"},
		"redacted":       {Config{Headers: with, Routes: []Route{{Events: []string{"*"}, Redact: []string{"context.actor.id"}}}}, ""},
		"actor redacted": {Config{Headers: with, Routes: []Route{{Events: []string{"*"}, Redact: []string{"context.actor"}}}}, ""},
	} {
		require.Equal(t, c.want, header(routeOne(t, newRouter(t, c.cfg), e), HeaderActor), name)
	}
	require.Empty(t, header(routeOne(t, newRouter(t, Config{Headers: with}), newEvent(t, "user.updated", `{}`)), HeaderActor))
}
