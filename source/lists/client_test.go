package lists_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
	"workos-relay/source/lists"
)

const key = "sk_test_lists"

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// api answers with the function that stands behind a path.
type api map[string]func(q url.Values) (status int, body string)

// newClient returns a client of an API that has these answers.
func newClient(t *testing.T, answers api) *lists.Client {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "req_1")
		answer := answers[r.URL.Path]
		if answer == nil || r.Header.Get("Authorization") != "Bearer "+key {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprint(w, `{"message":"Cannot GET `+r.URL.Path+`","error":"Not Found","statusCode":404}`)
			return
		}
		status, body := answer(r.URL.Query())
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	return &lists.Client{Getter: &source.Getter{Client: &source.Client{APIKey: key, Endpoint: srv.URL}}}
}

// users is a list of n users, of which one is created each second.
type users struct {
	n      int
	gone   map[string]bool // refused as cursors
	ignore func(after int) bool
	asked  []url.Values
}

func userID(i int) string { return fmt.Sprintf("user_%05d", i) }

func user(i int) string {
	at := start.Add(time.Duration(i) * time.Second).Format(time.RFC3339Nano)
	return fmt.Sprintf(`{"object": "user",  "id":%q, "n":1.0E+0, "created_at":%q,"updated_at":%q}`, userID(i), at, at)
}

func (u *users) answer(q url.Values) (int, string) {
	u.asked = append(u.asked, q)
	limit, _ := strconv.Atoi(q.Get("limit"))
	from := 0
	if after := q.Get("after"); after != "" {
		if u.gone[after] {
			return http.StatusBadRequest, `{"code":"invalid_request_parameters","message":"Validation failed."}`
		}
		i, _ := strconv.Atoi(after[len("user_"):])
		if u.ignore == nil || !u.ignore(i) {
			from = i + 1
		}
	}
	if q.Get("order") == "desc" {
		return http.StatusOK, `{"object":"list","data":[` + user(u.n-1) + `],"list_metadata":{"before":null,"after":null}}`
	}
	body, after := "", "null"
	to := min(from+limit, u.n)
	for i := from; i < to; i++ {
		if i > from {
			body += ",\n"
		}
		body += user(i)
	}
	if to < u.n {
		after = strconv.Quote(userID(to - 1))
	}
	return http.StatusOK, `{"object":"list","data":[` + body + `],"list_metadata":{"before":null,"after":` + after + `}}`
}

// read reads a list and returns the keys, as they come, and how often it was set back.
func read(t *testing.T, c *lists.Client, q lists.Query) (keys []string, restarted int) {
	t.Helper()
	for p, err := range c.Pages(t.Context(), q) {
		require.NoError(t, err)
		if p.Restarted {
			restarted++
		}
		for i := range p.Objects {
			keys = append(keys, keyOf(&p.Objects[i]))
		}
	}
	return keys, restarted
}

// TestRolesThatAreGone: a role of an organization is gone if WorkOS answers with one of the
// environment, or does not know the organization. That a slug is a word of a refusal says nothing.
func TestRolesThatAreGone(t *testing.T) {
	t.Parallel()
	const path = "/authorization/organizations/org_1/roles/plan"
	const there, gone, unknown = 1, 2, 3
	for body, test := range map[string]struct{ status, outcome int }{
		`{"object":"role","type":"OrganizationRole","slug":"plan","name":"Plan"}`: {200, there},
		`{"object":"role","type":"EnvironmentRole","slug":"plan","name":"Plan"}`:  {200, gone},
		`{"code":"entity_not_found","message":"Role not found."}`:                 {404, gone},
		`{"message":"Organization not found: 'org_1'."}`:                          {403, gone},
		`{"message":"Not found in your plan."}`:                                   {403, unknown},
	} {
		c := newClient(t, api{path: func(url.Values) (int, string) { return test.status, body }})
		ctx := t.Context()
		if test.outcome == unknown { // it is asked again for minutes
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			ctx = short
		}
		_, err := c.Get(ctx, lists.Ref{Entity: "organization_role", Key: "org_1/plan"})
		require.Equal(t, test.outcome == there, err == nil, "%s: %v", body, err)
		require.Equal(t, test.outcome == gone, errors.Is(err, lists.ErrNotFound), "%s: %v", body, err)
	}
}

func TestAListIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 99, 100, 101, 250} {
		u := &users{n: n}
		c := newClient(t, api{"/user_management/users": u.answer})
		i := 0
		for p, err := range c.Pages(t.Context(), lists.Query{Entity: "user"}) {
			require.NoError(t, err)
			for _, o := range p.Objects {
				require.Equal(t, user(i), string(o.Raw))
				require.Equal(t, user(i), string(o.Data))
				require.Equal(t, userID(i), o.ID)
				require.Equal(t, start.Add(time.Duration(i)*time.Second), o.UpdatedAt)
				i++
			}
		}
		require.Equal(t, n, i)
		require.Equal(t, "asc", u.asked[0].Get("order"))
		require.Equal(t, "100", u.asked[0].Get("limit"))
	}
}

// TestAListThatIsNotServed: a list that belongs to nothing cannot be gone, so that an answer which
// says that something was not found is a refusal of it.
func TestAListThatIsNotServed(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"error":"not_found","message":"Not Found"}`, `{"message":"Route not found"}`, `{"code":"entity_not_found","message":"Not Found"}`,
	} {
		c := newClient(t, api{"/authorization/roles": func(url.Values) (int, string) { return http.StatusNotFound, body }})
		c.Patience = func() time.Duration { return time.Millisecond }
		_, err := c.Page(t.Context(), lists.Query{Entity: "role"})
		require.ErrorAs(t, err, new(*source.RefusalError), body)
		require.NotErrorIs(t, err, lists.ErrGone, body)
	}
}

// TestAKeyWithEscapes: WorkOS is asked for the ids as they are, and not as the key has them. Else
// an object that exists would be taken for one that is gone.
func TestAKeyWithEscapes(t *testing.T) {
	t.Parallel()
	const slug = "a/b%2F50%"
	c := newClient(t, api{"/authorization/organizations/org_1/roles/" + slug: func(url.Values) (int, string) {
		return http.StatusOK, `{"object":"role","type":"OrganizationRole","slug":"` + slug + `","name":"Plan"}`
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	o, err := c.Get(ctx, lists.Ref{Entity: "organization_role", Key: "org_1/a%2Fb%252F50%25"})
	require.NoError(t, err)
	require.Equal(t, slug, o.ID)
}
