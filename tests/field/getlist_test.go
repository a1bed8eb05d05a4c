//go:build unix

package field

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// TestGetAndListReadTheStateBack: what relay get and relay list print is the world, also while the
// relay runs.
func TestGetAndListReadTheStateBack(t *testing.T) {
	t.Parallel()
	for name, on := range map[string]func(testing.TB, string, string) string{
		"kafka": func(t testing.TB, api, more string) string { return newKfake(t).config(api, more) },
		"nats": func(t testing.TB, api, more string) string {
			return strings.Replace(natsConfig(api, newNATS(t, nil).URL), "}]", more+"}]", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 7}))
			for range 400 {
				api.World().Change()
			}
			ids := api.IDs(sourcetest.Filter{})
			r := newRelay(t, "relay", on(t, api.URL(), `, state: {entities: [user, organization, organization_membership, directory_group_membership], snapshot: never}`))
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("").Position.EventID == ids[len(ids)-1] }, "all events are committed")

			want := api.World().State()
			list := func(args ...string) map[string]json.RawMessage {
				t.Helper()
				code, out, errs := r.Run(t, append([]string{"list"}, args...)...)
				require.Equal(t, exitDone, code, out+errs)
				have := map[string]json.RawMessage{}
				for line := range strings.Lines(out) {
					var row struct {
						Key    string
						Object json.RawMessage
						Event  struct{ ID, Type string }
					}
					require.NoError(t, json.Unmarshal([]byte(line), &row))
					require.NotContains(t, have, row.Key, "once")
					require.NotEmpty(t, row.Event.ID)
					have[row.Key] = row.Object
				}
				return have
			}
			for _, entity := range []string{"user", "organization", "organization_membership"} {
				have := list(entity, "--json")
				require.Equal(t, slices.Sorted(maps.Keys(want[entity])), slices.Sorted(maps.Keys(have)), entity)
				for key, o := range want[entity] {
					require.JSONEq(t, string(o.Data), string(have[key]), "%s %s", entity, key)
				}
			}
			memberships := map[string]int{}
			for _, o := range want["organization_membership"] {
				var m struct {
					Organization string `json:"organization_id"`
				}
				require.NoError(t, json.Unmarshal(o.Data, &m))
				memberships[m.Organization]++
			}
			require.NotEmpty(t, memberships)
			for organization, n := range memberships {
				require.Len(t, list("organization_membership", "--organization", organization, "--json"), n)
			}

			user := slices.Sorted(maps.Keys(want["user"]))[0]
			code, out, errs := r.Run(t, "get", "user", user)
			require.Equal(t, exitDone, code, out+errs)
			require.Equal(t, string(want["user"][user].Data)+"\n", out)
			code, out, errs = r.Run(t, "get", "user", user, "--json")
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, `"entity": "user"`)
			code, out, errs = r.Run(t, "list", "user")
			require.Equal(t, exitDone, code, out+errs)
			require.Equal(t, len(want["user"])+1, strings.Count(out, "\n"), out)
			require.Contains(t, out, user)
			if pairs := slices.Sorted(maps.Keys(want["directory_group_membership"])); len(pairs) > 0 {
				code, out, errs = r.Run(t, "get", "directory_group_membership", pairs[0])
				require.Equal(t, exitDone, code, out+errs)
			}

			code, _, errs = r.Run(t, "get", "user", "user_none")
			require.Equal(t, exitFailed, code)
			require.Contains(t, errs, "there is no user user_none in the state of lane "+name)
			for line, says := range map[string]string{
				"get directory x": "does not keep the state of each directory; it keeps directory_group_membership, organization, organization_membership, user",
				"list usr":        `"usr" is not a kind of object`,
				"get user":        `<key>`,
			} {
				code, _, errs = r.Run(t, strings.Fields(line)...)
				require.Equal(t, exitUsage, code, line)
				require.Contains(t, errs, says, line)
			}
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
	t.Run("without state", func(t *testing.T) {
		t.Parallel()
		r := newRelay(t, "relay", sourceConfig("http://127.0.0.1:1")+"sinks: [{name: out, type: stdout}]\n")
		code, _, errs := r.Run(t, "list", "user")
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "lane out keeps no state")
		r.WriteConfig(t, sourceConfig("http://127.0.0.1:1")+"sinks: [{name: out, type: stdout, state: {entities: [user]}}]\n"+fmt.Sprintf("checkpoint: {dir: %q}\n", r.Dir))
		code, _, errs = r.Run(t, "get", "user", "user_1")
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, "keeps nothing that could be read back")
	})
}
