package lists_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"workos-relay/source"
	"workos-relay/source/lists"
	"workos-relay/source/sourcetest"
)

var world = sourcetest.WorldConfig{
	Seed: 5, Organizations: 3, Users: 130, Connections: 3, Roles: 3, Directories: 3, DirectoryUsers: 750, Groups: 2, GroupMembers: 120,
}

// clientOf returns a client of a server in memory.
func clientOf(s *sourcetest.Server) *lists.Client {
	return &lists.Client{Getter: &source.Getter{Client: &source.Client{
		APIKey: sourcetest.DefaultAPIKey, Endpoint: s.URL(), HTTPClient: s.Client(), Limiter: rate.NewLimiter(1000, 100),
	}}}
}

// readAll reads every list that there is, parents first, and returns the data by entity and key.
func readAll(t *testing.T, c *lists.Client) map[string]map[string]string {
	t.Helper()
	out, objects := map[string]map[string]string{}, map[string][]lists.Object{}
	for _, e := range lists.Endpoints() {
		parents := []lists.Object{{}}
		if n := len(e.Parents); n > 0 {
			parents = objects[e.Parents[n-1]]
		}
		for i := range parents {
			q := lists.Query{Entity: e.Entity, Parent: parents[i].Raw}
			if len(e.Parents) > 0 {
				q.Parents = append(slices.Clone(parents[i].Parents), parents[i].ID)
			}
			for p, err := range c.Pages(t.Context(), q) {
				require.NoError(t, err, e.Entity)
				for _, o := range p.Objects {
					if out[e.Entity] == nil {
						out[e.Entity] = map[string]string{}
					}
					if out[e.Entity][keyOf(&o)] == "" {
						objects[e.Entity] = append(objects[e.Entity], o)
					}
					out[e.Entity][keyOf(&o)] = string(o.Data)
				}
			}
		}
	}
	return out
}

// stateOf is what readAll must return.
func stateOf(w *sourcetest.World) map[string]map[string]string {
	out := map[string]map[string]string{}
	for entity, objects := range w.State() {
		out[entity] = map[string]string{}
		for key, o := range objects {
			out[entity][key] = string(o.Data)
			switch entity {
			case "role":
				out[entity][key] = string(o.Listed)
			case "organization_role":
				org, _, _ := strings.Cut(key, "/")
				out[entity][key] = `{"organization_id":"` + org + `",` + string(o.Listed[1:])
			}
		}
	}
	return out
}

// requireSame compares two states, and shows little of them.
func requireSame(t *testing.T, want, got map[string]map[string]string) {
	t.Helper()
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got)))
	for entity := range want {
		for key, data := range want[entity] {
			require.Equal(t, data, got[entity][key], "%s %s", entity, key)
		}
		require.Len(t, slices.Collect(maps.Keys(got[entity])), len(want[entity]), entity)
	}
}

func TestEveryListIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(world))
		for range 200 {
			s.World().Change()
		}
		requireSame(t, stateOf(s.World()), readAll(t, clientOf(s)))
	})
}

// TestFaultsCostNoObject reads every list from an API that fails often, in each way that a lost
// cursor may be answered.
func TestFaultsCostNoObject(t *testing.T) {
	t.Parallel()
	for how := sourcetest.LostBadRequest; how <= sourcetest.LostEmpty; how++ {
		synctest.Test(t, func(t *testing.T) {
			s := sourcetest.New(sourcetest.WithWorld(world), sourcetest.WithLostCursor(how), sourcetest.WithRateLimit(6000, time.Minute, sourcetest.RetryAfterSeconds))
			s.FailRandomly(0.3, uint64(how)+1,
				sourcetest.Status(500), sourcetest.Status(502), sourcetest.Status(408), sourcetest.Status(429), sourcetest.TooManyRequests(3*time.Second, sourcetest.RetryAfterDate),
				sourcetest.Cut(0.5), sourcetest.Stall(0.3), sourcetest.Reset(), sourcetest.Malformed(), sourcetest.WrongShape(), sourcetest.Slow(time.Second, time.Second),
				sourcetest.Twice(), sourcetest.Overlap(4), sourcetest.ReplayFromStart(), sourcetest.Answer(404, "text/html", []byte("<html>not here</html>")))
			requireSame(t, stateOf(s.World()), readAll(t, clientOf(s)))
		})
	}
}

// TestALostCursorCostsNoObject deletes the object that a page ended with, on an API that does not
// know its id afterwards.
func TestALostCursorCostsNoObject(t *testing.T) {
	t.Parallel()
	for how := sourcetest.LostBadRequest; how <= sourcetest.LostEmpty; how++ {
		synctest.Test(t, func(t *testing.T) {
			s := sourcetest.New(sourcetest.WithWorld(world), sourcetest.WithLostCursor(how), sourcetest.WithDeletedCursorsLost())
			w, c := s.World(), clientOf(s)
			q := lists.Query{Entity: "directory_user", Parents: w.Keys("directory")[:1]}
			got, restarted := map[string]bool{}, 0
			for p, err := range c.Pages(t.Context(), q) {
				require.NoError(t, err)
				if p.Restarted {
					restarted++
				}
				for i := range p.Objects {
					got[p.Objects[i].ID] = true
				}
				if len(got) < 200 {
					require.NoError(t, w.Delete("directory_user", p.Objects[len(p.Objects)-1].ID))
				}
			}
			for key, o := range w.Objects("directory_user") {
				if strings.Contains(string(o.Data), q.Parents[0]) {
					require.True(t, got[key], "%d: %s", how, key)
				}
			}
			require.Positive(t, restarted)
			require.Less(t, s.Count(), 25)
		})
	}
}

// TestEveryPlaceOfAPageIsLost: the API knows no object of the page before any more, so the list
// begins again.
func TestEveryPlaceOfAPageIsLost(t *testing.T) {
	t.Parallel()
	u := &users{n: 350, gone: map[string]bool{userID(199): true, userID(150): true, userID(100): true}}
	c := newClient(t, api{"/user_management/users": u.answer})
	keys, restarted := read(t, c, lists.Query{Entity: "user"})
	require.Positive(t, restarted)
	slices.Sort(keys)
	require.Len(t, slices.Compact(keys), 350)
}

// TestAListThatIsNotContinued ends in an error, instead of going round for ever.
func TestAListThatIsNotContinued(t *testing.T) {
	t.Parallel()
	for name, ignore := range map[string]func(int) bool{
		"every cursor is ignored": func(int) bool { return true },
		"one cursor is ignored":   func(after int) bool { return after > 230 },
	} {
		u := &users{n: 350, ignore: ignore}
		c := newClient(t, api{"/user_management/users": u.answer})
		var last error
		for _, err := range c.Pages(t.Context(), lists.Query{Entity: "user"}) {
			last = err
		}
		require.ErrorIs(t, last, lists.ErrNotContinued, name)
		require.Less(t, len(u.asked), 200, name)
	}
}

func TestACursorSurvivesAsText(t *testing.T) {
	t.Parallel()
	u := &users{n: 250}
	c := newClient(t, api{"/user_management/users": u.answer})
	p, err := c.Page(t.Context(), lists.Query{Entity: "user"})
	require.NoError(t, err)
	require.Less(t, len(p.Next), 200)
	again := newClient(t, api{"/user_management/users": u.answer})
	next, err := again.Page(t.Context(), lists.Query{Entity: "user", After: p.Next})
	require.NoError(t, err)
	require.Equal(t, userID(100), next.Objects[0].ID)
	for _, bad := range []lists.Cursor{"x", "0:0", "0:0 5", "a:b c:d", "0: 5:user_1"} {
		_, err := c.Page(t.Context(), lists.Query{Entity: "user", After: bad})
		require.ErrorContains(t, err, "is not a cursor", bad)
	}
}

func TestAListWhoseParentIsDeleted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(world))
		w, c := s.World(), clientOf(s)
		dir, org := w.Keys("directory")[0], w.Keys("organization")[0]
		group := w.Keys("directory_group")[0]
		p, err := c.Page(t.Context(), lists.Query{Entity: "directory_user", Parents: []string{dir}})
		require.NoError(t, err)
		require.NoError(t, w.Delete("organization", org))
		for _, q := range []lists.Query{
			{Entity: "directory_user", Parents: []string{dir}},
			{Entity: "directory_user", Parents: []string{dir}, After: p.Next},
			{Entity: "directory_group", Parents: []string{dir}},
			{Entity: "directory_group_membership", Parents: []string{dir, group}},
			{Entity: "organization_membership", Parents: []string{org}},
			{Entity: "organization_role", Parents: []string{org}},
		} {
			_, err := c.Page(t.Context(), q)
			require.ErrorIs(t, err, lists.ErrGone, "%+v", q)
		}
	})
}

// keyOf returns the key of an object in its state topic.
func keyOf(o *lists.Object) string {
	switch o.Entity {
	case "organization_role", "directory_group_membership", "group_membership":
		return o.Parents[len(o.Parents)-1] + "/" + o.ID
	}
	return o.ID
}

func TestOneObject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(world))
		w, c := s.World(), clientOf(s)
		for range 100 {
			w.Change()
		}
		state := stateOf(w)
		require.Len(t, state, 10)
		for entity, objects := range state {
			for key, data := range objects {
				o, err := c.Get(t.Context(), lists.Ref{Entity: entity, Key: key, Known: []byte(data)})
				require.NoError(t, err, key)
				require.True(t, strings.HasSuffix("/"+key, "/"+o.ID), "%s instead of %s", o.ID, key)
				if entity != "directory_group_membership" {
					require.Equal(t, data, string(o.Data))
				}
			}
		}
		for _, entity := range []string{ // what goes with others first
			"directory_group_membership", "directory_group", "directory_user", "directory", "role", "organization_role", "connection", "organization_membership", "user", "organization",
		} {
			var key string
			for key = range stateOf(w)[entity] {
				break
			}
			if group, member, ok := strings.Cut(key, "/"); ok && entity == "directory_group_membership" {
				require.NoError(t, w.RemoveMember(group, member))
			} else {
				require.NoError(t, w.Delete(entity, key))
			}
			_, err := c.Get(t.Context(), lists.Ref{Entity: entity, Key: key})
			require.ErrorIs(t, err, lists.ErrNotFound, key)
		}
		_, err := c.Get(t.Context(), lists.Ref{Entity: "api_key", Key: "key_1"})
		require.ErrorIs(t, err, lists.ErrNoGet)
		_, err = c.Get(t.Context(), lists.Ref{Entity: "permission", Key: "perm_1"}) // by its slug alone
		require.ErrorIs(t, err, lists.ErrNoGet)
	})
}

// TestAnAnswerThatIsNotAboutTheObject: only WorkOS's word about the object means that there is
// none.
func TestAnAnswerThatIsNotAboutTheObject(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]sourcetest.Fault{
		"no such path":       sourcetest.Answer(404, "application/json", []byte(`{"message":"Cannot GET /organizations/org_1","error":"Not Found","statusCode":404}`)),
		"nothing said":       sourcetest.Answer(404, "application/json", []byte(`{"message":"Not Found"}`)),
		"a proxy's page":     sourcetest.Answer(404, "text/html", []byte(`<html>org_1 not found</html>`)),
		"an empty body":      sourcetest.Answer(404, "text/plain", nil),
		"another refusal":    sourcetest.Answer(400, "application/json", []byte(`{"message":"Validation failed."}`)),
		"the key may not":    sourcetest.Answer(403, "application/json", []byte(`{"message":"Forbidden"}`)),
		"not for this plan":  sourcetest.Answer(422, "application/json", []byte(`{"message":"The feature was not found in your plan."}`)),
		"the key is refused": sourcetest.Status(401),
	} {
		synctest.Test(t, func(t *testing.T) {
			s := sourcetest.New(sourcetest.WithWorld(world))
			s.Fail(-1, fault)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
			defer cancel()
			_, err := clientOf(s).Get(ctx, lists.Ref{Entity: "organization", Key: "org_1"})
			require.Error(t, err)
			require.NotErrorIs(t, err, lists.ErrNotFound, name)
			var refused *source.RefusalError
			require.True(t, errors.As(err, &refused) || errors.Is(err, context.DeadlineExceeded), "%s: %v", name, err)
		})
	}
}

// TestAllReadersKeepTheSilence: the API asks one reader to wait, and the others wait too.
func TestAllReadersKeepTheSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(world))
		c := clientOf(s)
		s.Fail(1, sourcetest.TooManyRequests(40*time.Second, sourcetest.RetryAfterSeconds))
		began := time.Now()
		_, err := c.Page(t.Context(), lists.Query{Entity: "organization"})
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(began), 40*time.Second)

		s.Fail(1, sourcetest.TooManyRequests(40*time.Second, sourcetest.RetryAfterSeconds))
		began = time.Now()
		var readers sync.WaitGroup
		for i := range 5 {
			readers.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				_, _ = c.Page(t.Context(), lists.Query{Entity: "user"})
			})
		}
		readers.Wait()
		require.GreaterOrEqual(t, time.Since(began), 40*time.Second)
		for _, r := range s.Requests()[3:] {
			require.GreaterOrEqual(t, r.Time.Sub(began), 40*time.Second)
		}
	})
}

// TestALargePageIsReadInParts: a page of the usual size is larger than permitted.
func TestALargePageIsReadInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(world))
		c := clientOf(s)
		c.Getter.Client.MaxResponse = 20 << 10
		requireSame(t, stateOf(s.World()), readAll(t, c))
		require.Less(t, s.Count(), 300)
		c.Getter.Client.MaxResponse = 100
		_, err := c.Page(t.Context(), lists.Query{Entity: "user"})
		require.ErrorIs(t, err, source.ErrTooLarge)
		require.ErrorContains(t, err, "/user_management/users")
	})
}

// TestBodiesThatAreNoList are asked for again, and nothing of them is believed.
func TestBodiesThatAreNoList(t *testing.T) {
	t.Parallel()
	user := `{"object":"user","id":"user_1","created_at":"2026-01-01T00:00:00Z"}`
	for name, body := range map[string]string{
		"empty":               ``,
		"null":                `null`,
		"an array":            `[` + user + `]`,
		"not a list":          `{"object":"user","data":[]}`,
		"no data":             `{"object":"list","list_metadata":{"after":null}}`,
		"data is an object":   `{"object":"list","data":{"0":` + user + `}}`,
		"an object is text":   `{"object":"list","data":["user_1"]}`,
		"no id":               `{"object":"list","data":[{"object":"user"}]}`,
		"the id is a number":  `{"object":"list","data":[{"id":7}]}`,
		"the id is empty":     `{"object":"list","data":[{"id":""}]}`,
		"a space in the id":   `{"object":"list","data":[{"id":"user 1"}]}`,
		"a line in the id":    `{"object":"list","data":[{"id":"user\n1"}]}`,
		"a long id":           `{"object":"list","data":[{"id":"` + strings.Repeat("a", 600) + `"}]}`,
		"a time that is none": `{"object":"list","data":[{"id":"user_1","updated_at":"yesterday"}]}`,
		"more follows":        `{"object":"list","data":[],"list_metadata":{"after":"user_1"}}`,
		"cut off":             `{"object":"list","data":[` + user,
		"something behind":    `{"object":"list","data":[` + user + `]}{}`,
		"a web page":          `<html></html>`,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := sourcetest.New(sourcetest.WithWorld(world))
			c := clientOf(s)
			var reasons []error
			c.Getter.Hooks = &source.Hooks{OnRetry: func(i source.RetryInfo) { reasons = append(reasons, i.Err) }}
			s.Fail(1, sourcetest.Answer(200, "application/json", []byte(body)))
			p, err := c.Page(t.Context(), lists.Query{Entity: "organization"})
			require.NoError(t, err)
			require.Len(t, p.Objects, 3, name)
			require.Len(t, reasons, 1, name)
			var unusable *source.ResponseError
			require.ErrorAs(t, reasons[0], &unusable)
			require.ErrorContains(t, reasons[0], "GET /organizations")
		})
	}
}

// TestARotatedKeyIsUsed and a key never shows in an error.
func TestARotatedKeyIsUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(world))
		c := clientOf(s)
		began := time.Now()
		c.Getter.Client.Key = func(bool) string {
			if time.Since(began) < time.Minute {
				return sourcetest.DefaultAPIKey
			}
			return "sk_test_second"
		}
		s.SetAPIKey("sk_test_second")
		p, err := c.Page(t.Context(), lists.Query{Entity: "organization"})
		require.NoError(t, err)
		require.Len(t, p.Objects, 3)

		s.Fail(-1, sourcetest.Answer(422, "application/json", []byte(`{"message":"no: sk_test_second"}`)))
		_, err = c.Page(t.Context(), lists.Query{Entity: "organization"})
		var refused *source.RefusalError
		require.ErrorAs(t, err, &refused)
		require.NotContains(t, fmt.Sprintf("%v %+v", err, err), "sk_test_second")
		require.Contains(t, err.Error(), "[API key]")
	})
}

// TestTheBytesAreThoseThatWereSent: white space, numbers and escapes stay as they are.
func TestTheBytesAreThoseThatWereSent(t *testing.T) {
	t.Parallel()
	object := "{ \"id\" : \"org_1\",\r\n\t\"n\":123456789012345678901234567890.00, \"s\":\"\\u00e9\\/é\", \"domains\":[ {\"id\":\"org_domain_1\" , \"organization_id\":\"org_1\"} ,{\"id\":\"org_domain_2\"}] }"
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(world))
		s.Fail(-1, sourcetest.Answer(200, "application/json", []byte(`{"data": [ `+object+` ],"object":"list"}`)))
		c := clientOf(s)
		p, err := c.Page(t.Context(), lists.Query{Entity: "organization"})
		require.NoError(t, err)
		require.Equal(t, object, string(p.Objects[0].Raw))
		domains, err := c.Page(t.Context(), lists.Query{Entity: "organization_domain"})
		require.NoError(t, err)
		require.Len(t, domains.Objects, 2)
		require.True(t, bytes.Equal([]byte(`{"id":"org_domain_1" , "organization_id":"org_1"}`), domains.Objects[0].Raw), "byte for byte")
		require.True(t, bytes.Contains([]byte(object), domains.Objects[1].Raw))
	})
}
