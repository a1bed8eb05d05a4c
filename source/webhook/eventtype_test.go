package webhook

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"workos-relay/source/sourcetest"
)

func TestEventType(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"id":"wh_1","event":"user.created","data":{"event":"no"}}`:        "user.created",
		`{"data":{"event":"no","x":[1,{"event":"no"}]},"event":"role.new"}`: "role.new",
		`{"event":7}`: "",
		`{"event":"` + strings.Repeat("e", maxEventType+1) + `"}`: "",
		`{"data":{"event":"no"}}`:                                 "",
		`["event","no"]`:                                          "",
		`{"event":"a.b"`:                                          "a.b", // the signature says whether the body is whole
		`{"event"`:                                                "",
		`{"data":{"event":`:                                       "",
		``:                                                        "",
		`no json`:                                                 "",
	} {
		require.Equal(t, want, eventType(strings.NewReader(body)), body)
	}
}

// TestOnlyAcceptedWebhooksNameTheirType sends the same body signed rightly, wrongly and too late.
func TestOnlyAcceptedWebhooksNameTheirType(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var named []string
	h := NewHandler("whsec_1", 0, func() time.Time { return now }, nil)
	h.OnEvent = func(eventType string) { named = append(named, eventType) }
	body := `{"data":{"pad":"` + strings.Repeat("x", 100_000) + `"},"event":"future.type.created"}`
	send := func(secret string, at time.Time, body string) int {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set(SignatureHeader, sourcetest.SignWebhook(secret, at, []byte(body)))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	require.Equal(t, http.StatusUnauthorized, send("whsec_2", now, body))
	require.Equal(t, http.StatusUnauthorized, send("whsec_1", now.Add(-time.Hour), body))
	require.Equal(t, http.StatusRequestEntityTooLarge, send("whsec_1", now, `{"x":"`+strings.Repeat("x", maxBody)+`","event":"a.b"}`))
	require.Empty(t, named)
	require.Equal(t, http.StatusOK, send("whsec_1", now, body))
	require.Equal(t, http.StatusOK, send("whsec_1", now, `{"event":null} and more`), "the signature alone decides")
	require.Equal(t, []string{"future.type.created", ""}, named)
}

// FuzzEventType compares with another reader of JSON.
func FuzzEventType(f *testing.F) {
	f.Add(`{"id":"wh_1","event":"user.created","data":{}}`)
	f.Add(`{"data":{"event":"no"},"event":"a.b","event":"c"}`)
	f.Add(`{"\u0065vent":"a"}`)
	f.Add(`{"event"`)
	f.Fuzz(func(t *testing.T, body string) {
		got := eventType(strings.NewReader(body))
		require.LessOrEqual(t, len(got), maxEventType)
		if !gjson.Valid(body) || !gjson.Parse(body).IsObject() || got == "" {
			return
		}
		// Each byte that is not UTF-8 becomes one replacement character.
		require.Equal(t, string([]rune(gjson.Get(body, "event").String())), got)
	})
}
