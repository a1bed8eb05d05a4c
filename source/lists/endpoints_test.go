package lists_test

import (
	"bufio"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/source/lists"
)

// described is an endpoint as WorkOS describes it.
type described struct {
	Path       string   `json:"path"`
	Paged      bool     `json:"paged"`
	Parameters []string `json:"parameters"`
}

func readTable(t *testing.T, file string) map[string]described {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	out := map[string]described{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var d described
		require.NoError(t, json.Unmarshal(lines.Bytes(), &d))
		out[d.Path] = d
	}
	return out
}

// TestTheTableIsWorkOSs compares the table with WorkOS's client and its OpenAPI document.
func TestTheTableIsWorkOSs(t *testing.T) {
	t.Parallel()
	placeholder := regexp.MustCompile(`\{[a-z_]+\}`)
	for file, missing := range map[string]string{"testdata/client.jsonl": "", "testdata/openapi.jsonl": "agent_"} {
		table := readTable(t, file)
		used := map[string]bool{
			"/user_management/organization_memberships/{}/groups": true, // of Client.Get
		}
		for _, e := range lists.Endpoints() {
			if missing != "" && strings.HasPrefix(e.Entity, missing) {
				continue
			}
			path := placeholder.ReplaceAllString(e.Path, "{}")
			list, ok := table[path]
			require.True(t, ok, "%s: %s", file, path)
			used[path] = true
			require.Equal(t, list.Paged, !e.Unpaged, path)
			if list.Paged {
				require.Subset(t, list.Parameters, []string{"after", "before", "limit", "order"}, path)
			}
			if e.Parameter != "" {
				require.Contains(t, list.Parameters, e.Parameter, path)
			}
			for name := range e.Fixed {
				require.Contains(t, list.Parameters, name, path)
			}
			if e.One != "" {
				one := placeholder.ReplaceAllString(e.One, "{}")
				_, ok := table[one]
				require.True(t, ok, "%s: %s", file, one)
				used[one] = true
			}
		}
		for path := range table {
			require.True(t, used[path], "%s: %s is not used", file, path)
		}
	}
	require.Contains(t, readTable(t, "testdata/client.jsonl")["/directory_groups"].Parameters, "user") // of Client.Get
}

// TestParentsComeFirst: an entity comes after the entities that its lists belong to, and says how a
// request names the last of them.
func TestParentsComeFirst(t *testing.T) {
	t.Parallel()
	var before []string
	for _, e := range lists.Endpoints() {
		require.NotContains(t, before, e.Entity)
		require.Subset(t, before, e.Parents, e.Entity)
		if n := len(e.Parents); n > 0 {
			last, _ := lists.Lookup(e.Parents[n-1])
			require.True(t, slices.Equal(e.Parents[:n-1], last.Parents), e.Entity)
			require.NotEqual(t, e.Parameter != "", strings.Contains(e.Path, "{"+e.Parents[n-1]+"}"), e.Entity)
		}
		before = append(before, e.Entity)
	}
	_, ok := lists.Lookup("nothing")
	require.False(t, ok)
}
