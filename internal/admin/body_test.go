package admin

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzDestination reads the body of PUT /api/v1/lanes/{sink}/checkpoint, with any content type and
// query. What is accepted is one JSON object that every other reader of JSON understands in the
// same way.
func FuzzDestination(f *testing.F) {
	f.Add(`{"to":"latest"}`, "application/json", "")
	f.Fuzz(func(t *testing.T, body, contentType, query string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/api/v1/lanes/a/checkpoint", bytes.NewReader([]byte(body)))
		r.URL.RawQuery = query
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		to, err := readDestination(httptest.NewRecorder(), r)
		if err != nil {
			var refusal *Refusal
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, http.StatusBadRequest, refusal.Code)
			require.Empty(t, refusal.Reason)
			require.LessOrEqual(t, len(err.Error()), 600)
			return
		}
		require.LessOrEqual(t, len(body), maxBodySize)
		require.True(t, utf8.ValidString(body))
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		require.Empty(t, values)
		var other Destination
		d := json.NewDecoder(bytes.NewReader([]byte(body)))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&other))
		require.Equal(t, other, to)
		_, err = d.Token()
		require.ErrorIs(t, err, io.EOF, "nothing follows")
		names := map[string]bool{}
		d = json.NewDecoder(bytes.NewReader([]byte(body)))
		_, err = d.Token()
		require.NoError(t, err)
		for d.More() {
			name, err := d.Token()
			require.NoError(t, err)
			require.Contains(t, []any{"to", "from", "reset", "skip"}, name)
			require.False(t, names[name.(string)], "no member comes twice")
			names[name.(string)] = true
			_, err = d.Token()
			require.NoError(t, err)
		}
	})
}

// FuzzSteering reads the query and the body of POST /api/v1/pause and its like: it accepts only
// lanes by name.
func FuzzSteering(f *testing.F) {
	f.Add("lane=nats", "")
	f.Fuzz(func(t *testing.T, query, body string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/pause", bytes.NewReader([]byte(body)))
		r.URL.RawQuery = query
		s := &Server{}
		chosen, err := s.choose(r)
		if err != nil {
			var refusal *Refusal
			require.ErrorAs(t, err, &refusal)
			require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, refusal.Code)
			require.LessOrEqual(t, len(err.Error()), 1500)
			return
		}
		require.Empty(t, chosen, "there is no lane")
		require.Empty(t, body)
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		require.Empty(t, values)
	})
}
