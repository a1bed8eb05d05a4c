package sourcetest

import (
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"workos-relay/internal/catalogue"
)

// smallWorld has some of everything.
func smallWorld(seed uint64) WorldConfig {
	return WorldConfig{
		Seed: seed, Organizations: 4, Users: 30, Connections: 3, Roles: 2, Directories: 3, DirectoryUsers: 260, Groups: 2, GroupMembers: 12,
		Start: noon.Add(-60 * 24 * time.Hour),
	}
}

// ask asks for a path of the API.
func ask(t *testing.T, s *Server, path string, query url.Values) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+path+"?"+query.Encode(), nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+DefaultAPIKey)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	var b strings.Builder
	for buf := make([]byte, 4096); ; {
		n, err := resp.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return resp.StatusCode, b.String()
		}
	}
}

// walkList reads a list to its end and returns its objects as they are.
func walkList(t *testing.T, s *Server, path string, query url.Values) (out []string) {
	t.Helper()
	if query == nil {
		query = url.Values{}
	}
	for {
		status, body := ask(t, s, path, query)
		require.Equal(t, http.StatusOK, status, "%s: %s", path, body)
		require.True(t, gjson.Valid(body), body)
		for _, o := range gjson.Get(body, "data").Array() {
			out = append(out, o.Raw)
		}
		after := gjson.Get(body, "list_metadata.after").String()
		if after == "" {
			return out
		}
		query.Set("after", after)
	}
}

// listed reads every list of a server, and returns the objects by entity and key.
func listed(t *testing.T, s *Server, order string) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	put := func(entity, prefix, field string, objects []string) (ids []string) {
		for _, o := range objects {
			if out[entity] == nil {
				out[entity] = map[string]string{}
			}
			key := prefix + gjson.Get(o, field).String()
			require.NotContains(t, out[entity], key)
			out[entity][key] = o
			ids = append(ids, gjson.Get(o, "id").String())
		}
		return ids
	}
	paged := func(name, id string) url.Values {
		q := url.Values{"order": {order}, "limit": {"7"}}
		if name != "" {
			q.Set(name, id)
		}
		return q
	}
	for _, org := range put(organization, "", "id", walkList(t, s, "/organizations", paged("", ""))) {
		q := paged("organization_id", org)
		q.Set("statuses", "active,inactive,pending")
		put(organizationMembership, "", "id", walkList(t, s, "/user_management/organization_memberships", q))
		for _, r := range walkList(t, s, "/authorization/organizations/"+org+"/roles", nil) {
			if gjson.Get(r, "type").String() == "OrganizationRole" {
				put(organizationRole, org+"/", "slug", []string{r})
			}
		}
	}
	put(user, "", "id", walkList(t, s, "/user_management/users", paged("", "")))
	put(connection, "", "id", walkList(t, s, "/connections", paged("", "")))
	put(role, "", "slug", walkList(t, s, "/authorization/roles", nil))
	for _, dir := range put(directory, "", "id", walkList(t, s, "/directories", paged("", ""))) {
		put(directoryUser, "", "id", walkList(t, s, "/directory_users", paged("directory", dir)))
		for _, group := range put(directoryGroup, "", "id", walkList(t, s, "/directory_groups", paged("directory", dir))) {
			put(groupMembership, group+"/", "id", walkList(t, s, "/directory_users", paged("group", group)))
		}
	}
	return out
}

// shown is what the lists of a World must show.
func shown(w *World) map[string]map[string]string {
	out := map[string]map[string]string{}
	for entity, objects := range w.State() {
		out[entity] = map[string]string{}
		for key, o := range objects {
			out[entity][key] = string(o.Listed)
		}
	}
	return out
}

// TestTheListsShowTheWorld reads every list in both orders after many changes.
func TestTheListsShowTheWorld(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		s := New(WithWorld(smallWorld(seed)))
		w := s.World()
		require.Equal(t, shown(w), listed(t, s, "asc"))
		for range 300 {
			w.Change()
		}
		require.Equal(t, shown(w), listed(t, s, "asc"), "seed %d", seed)
		require.Equal(t, shown(w), listed(t, s, "desc"), "seed %d", seed)
		for _, entity := range worldEntities {
			require.NotEmpty(t, w.State()[entity], entity)
		}
	}
}

// replay applies events to a state.
func replay(t *testing.T, state map[string]map[string]string, raw []byte) {
	t.Helper()
	name, data := gjson.GetBytes(raw, "event").String(), gjson.GetBytes(raw, "data")
	domain, verb := name[:strings.LastIndexByte(name, '.')], name[strings.LastIndexByte(name, '.')+1:]
	entity := map[string]string{"dsync": directory, "dsync.user": directoryUser, "dsync.group": directoryGroup}[domain]
	if entity == "" {
		entity = domain
	}
	key := data.Get("id").String()
	switch {
	case entity == role:
		key = data.Get("slug").String()
	case entity == organizationRole:
		key = data.Get("organization_id").String() + "/" + data.Get("slug").String()
	case strings.HasPrefix(verb, "user_"):
		entity, key = groupMembership, data.Get("group.id").String()+"/"+data.Get("user.id").String()
	}
	if state[entity] == nil {
		state[entity] = map[string]string{}
	}
	old, was := state[entity][key]
	if entity != groupMembership && was {
		require.Greater(t, data.Get("updated_at").String(), gjson.Get(old, "updated_at").String(), "%s", raw)
	}
	switch verb {
	case "created", "activated", "updated", "deactivated", "user_added":
		require.Equal(t, verb == "updated" || verb == "deactivated" || verb == "activated" && was, was, "%s", raw)
		state[entity][key] = data.Raw
	case "deleted", "user_removed":
		require.True(t, was, "%s", raw)
		delete(state[entity], key)
	default:
		require.Fail(t, "unknown verb", "%s", raw)
	}
	if name == "dsync.deleted" { // nothing else is sent about what it had
		for group, object := range state[directoryGroup] {
			if gjson.Get(object, "directory_id").String() == key {
				delete(state[directoryGroup], group)
				for member := range state[groupMembership] {
					if strings.HasPrefix(member, group+"/") {
						delete(state[groupMembership], member)
					}
				}
			}
		}
		for id, object := range state[directoryUser] {
			if gjson.Get(object, "directory_id").String() == key {
				delete(state[directoryUser], id)
			}
		}
	}
}

// TestTheEventsTellOfTheWorld replays every event of a World onto what there was at its start, and
// gets what its lists show.
func TestTheEventsTellOfTheWorld(t *testing.T) {
	t.Parallel()
	told := func(w *World) map[string]map[string]string {
		out := map[string]map[string]string{}
		for entity, objects := range w.State() {
			out[entity] = map[string]string{}
			for key, o := range objects {
				out[entity][key] = string(o.Data)
				if entity == groupMembership {
					out[entity][key] = "" // its user and group may have changed since
				}
			}
		}
		return out
	}
	for seed := range uint64(6) {
		c := smallWorld(seed)
		if seed == 0 {
			c = WorldConfig{Start: c.Start} // empty
		}
		s := New(WithWorld(c), WithClock(func() time.Time { return noon }))
		w := s.World()
		state := told(w)
		for range 1000 {
			w.Change()
		}
		last := ""
		types := map[string]bool{}
		for raw := range s.Events(Filter{}) {
			name := gjson.GetBytes(raw, "event").String()
			types[name] = true
			require.Empty(t, catalogue.Mismatch(name, gjson.GetBytes(raw, "data").Raw), "%s", raw)
			require.GreaterOrEqual(t, gjson.GetBytes(raw, "created_at").String(), last)
			last = gjson.GetBytes(raw, "created_at").String()
			replay(t, state, raw)
		}
		for key := range state[groupMembership] {
			state[groupMembership][key] = ""
		}
		for entity := range state {
			if len(state[entity]) == 0 {
				delete(state, entity)
			}
		}
		require.Equal(t, told(w), state, "seed %d", seed)
		require.Greater(t, len(types), 20)
	}
}

func TestTheSameSeedGivesTheSameWorld(t *testing.T) {
	t.Parallel()
	build := func() (*Server, []string) {
		s := New(WithWorld(smallWorld(9)), WithClock(func() time.Time { return noon }))
		var did []string
		for range 200 {
			did = append(did, s.World().Change())
		}
		return s, did
	}
	a, didA := build()
	b, didB := build()
	require.Equal(t, didA, didB)
	require.Equal(t, a.World().State(), b.World().State())
	require.Equal(t, a.IDs(Filter{}), b.IDs(Filter{}))
}

// TestAMillionUsersTakeNoMemory asks for pages at both ends and in the middle of a large directory.
func TestAMillionUsersTakeNoMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := New(WithWorld(WorldConfig{Seed: 3, Organizations: 1, Directories: 2, DirectoryUsers: 1_000_000, Groups: 1, GroupMembers: 50}))
	dir := s.World().Keys(directory)[1]
	q := url.Values{"directory": {dir}, "limit": {"100"}, "order": {"asc"}}
	_, first := ask(t, s, "/directory_users", q)
	require.Len(t, gjson.Get(first, "data").Array(), 100)
	middle := s.World().newID(directoryUser, 750_000, s.World().baseTime(750_000, 1_000_000))
	q.Set("after", middle)
	_, second := ask(t, s, "/directory_users", q)
	require.Len(t, gjson.Get(second, "data").Array(), 100)
	q.Set("order", "desc")
	q.Del("after")
	_, last := ask(t, s, "/directory_users", q)
	require.NoError(t, s.World().Update(directoryUser, gjson.Get(last, "data.0.id").String()))
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(8<<20))
	runtime.KeepAlive(s)
}

func TestListsAreStrict(t *testing.T) {
	t.Parallel()
	s := New(WithWorld(smallWorld(1)), WithDeletedCursorsLost())
	w := s.World()
	dir, org, group := w.Keys(directory)[0], w.Keys(organization)[0], w.Keys(directoryGroup)[0]
	for _, c := range []struct {
		path   string
		query  url.Values
		status int
	}{
		{"/directories", url.Values{"limit": {"0"}}, 422},
		{"/directories", url.Values{"limit": {"101"}}, 422},
		{"/directories", url.Values{"order": {"up"}}, 422},
		{"/directories", url.Values{"after": {"a"}, "before": {"b"}}, 400},
		{"/directories", url.Values{"after": {"directory_unknown"}}, 400},
		{"/directories", url.Values{"cursor": {"a"}}, 400},
		{"/directories", url.Values{"order": {"normal"}}, 200},
		{"/directory_users", url.Values{}, 422},
		{"/directory_users", url.Values{"directory": {dir}, "group": {group}}, 422},
		{"/directory_users", url.Values{"directory_id": {dir}}, 400},
		{"/directory_users", url.Values{"directory": {"directory_unknown"}}, 404},
		{"/directory_groups", url.Values{"user": {"directory_user_unknown"}}, 404},
		{"/user_management/organization_memberships", url.Values{}, 400},
		{"/user_management/organization_memberships", url.Values{"organization_id": {org}, "statuses": {"asleep"}}, 422},
		{"/user_management/organization_memberships", url.Values{"organization_id": {"org_unknown"}}, 400},
		{"/authorization/roles", url.Values{"limit": {"5"}}, 400},
		{"/organizations/org_unknown", nil, 404},
		{"/organizations/" + org, nil, 200},
		{"/organizations/" + org, url.Values{"limit": {"1"}}, 400},
		{"/organizations/org_unknown/groups", nil, 404},
		{"/organizations/" + org + "/groups", nil, 200},
		{"/unknown", nil, 404},
	} {
		status, body := ask(t, s, c.path, c.query)
		require.Equal(t, c.status, status, "%s %v: %s", c.path, c.query, body)
	}

	users := w.Keys(directoryUser)
	require.NoError(t, w.Delete(directoryUser, users[3]))
	status, _ := ask(t, s, "/directory_users", url.Values{"directory": {dir}, "after": {users[3]}})
	require.Equal(t, 400, status)
	status, body := ask(t, New(), "/directories", nil)
	require.Equal(t, http.StatusNotFound, status, body)
}
