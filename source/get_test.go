package source_test

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// getter returns a Getter that reaches a server over TLS and HTTP/2.
func getter(t *testing.T, s *sourcetest.Server) (*source.Getter, *sourcetest.Wire) {
	t.Helper()
	w := wire(t, s)
	c := &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: "https://" + sourcetest.WireHost}
	c.DialWith(w.Dial, w.TLS())
	t.Cleanup(c.CloseIdleConnections)
	return &source.Getter{Client: c}, w
}

// organizations asks for the list of organizations.
func organizations(read func([]byte)) source.GetRequest {
	return source.GetRequest{Path: "/organizations", Query: url.Values{"limit": {"100"}}, Read: func(body []byte) error {
		read(body)
		return nil
	}}
}

// TestAGetterSurvivesWhatAStreamSurvives: each fault passes, over HTTP/2, and the body is whole.
func TestAGetterSurvivesWhatAStreamSurvives(t *testing.T) {
	t.Parallel()
	for _, fault := range []sourcetest.Fault{
		sourcetest.Status(500), sourcetest.Status(503), sourcetest.Status(401), sourcetest.Status(408), sourcetest.Status(429),
		sourcetest.TooManyRequests(90*time.Second, sourcetest.RetryAfterSeconds), sourcetest.Cut(0.5), sourcetest.Stall(0), sourcetest.Stall(0.5), sourcetest.Hang(),
		sourcetest.Reset(), sourcetest.Redirect("https://elsewhere.example.com/organizations"), sourcetest.Answer(404, "text/html", []byte("<html>")),
		sourcetest.Answer(200, "text/html", []byte("<html>")),
	} {
		synctest.Test(t, func(t *testing.T) {
			s := sourcetest.New(sourcetest.WithWorld(sourcetest.WorldConfig{Organizations: 50}))
			g, w := getter(t, s)
			var want, got string
			_, err := g.Get(t.Context(), organizations(func(b []byte) { want = string(b) }))
			require.NoError(t, err)

			var mu sync.Mutex
			var retries []source.RetryInfo
			g.Hooks = &source.Hooks{OnRetry: func(i source.RetryInfo) {
				mu.Lock()
				defer mu.Unlock()
				retries = append(retries, i)
			}}
			s.Fail(2, fault)
			req := organizations(func(b []byte) { got = string(b) })
			req.Read = func(b []byte) error {
				if b[0] != '{' {
					return errors.New("not an object")
				}
				got = string(b)
				return nil
			}
			a, err := g.Get(t.Context(), req)
			require.NoError(t, err, fault)
			require.Equal(t, want, got)
			require.Equal(t, 100, a.Limit)
			require.Equal(t, len(got), a.Size)
			mu.Lock()
			defer mu.Unlock()
			require.Len(t, retries, 2, fault)
			require.Contains(t, retries[0].Err.Error(), "/organizations")
			require.NotContains(t, retries[0].Err.Error(), "Events API")
			g.Client.CloseIdleConnections()
			w.Close()
		})
	}
}

// TestARefusalOfAGetter is final after 5 minutes, or at once if the request says so.
func TestARefusalOfAGetter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcetest.New(sourcetest.WithWorld(sourcetest.WorldConfig{Organizations: 1}))
		g := &source.Getter{Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: s.URL(), HTTPClient: s.Client()}}
		s.Fail(-1, sourcetest.Status(422))
		began := time.Now()
		_, err := g.Get(t.Context(), organizations(nil))
		var refused *source.RefusalError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, 5*time.Minute, time.Since(began).Round(time.Second))
		require.ErrorContains(t, err, "WorkOS has refused a request for a list for 5m0s")

		req := organizations(nil)
		req.Final = func(e *source.APIError) bool { return e.Status == 422 }
		count := s.Count()
		_, err = g.Get(t.Context(), req)
		var api *source.APIError
		require.ErrorAs(t, err, &api)
		require.Equal(t, 422, api.Status)
		require.Equal(t, count+1, s.Count())

		s.ClearFaults() // a key that may not read this list
		s.Fail(-1, sourcetest.Answer(403, "application/json", []byte(`{"message":"Forbidden"}`)))
		_, err = g.Get(t.Context(), organizations(nil))
		require.ErrorAs(t, err, &refused)

		s.ClearFaults() // a page of something in between never is final
		s.Fail(-1, sourcetest.Answer(403, "text/html", []byte("<html>blocked</html>")))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err = g.Get(ctx, organizations(nil))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}
