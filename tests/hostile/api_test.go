//go:build linux

package hostile

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hostileEvent is one event of a hostileAPI.
type hostileEvent struct{ id, raw string }

// newEvent makes an event of any type, that many seconds ago.
func newEvent(n int, eventType string, secondsAgo int) hostileEvent {
	id := fmt.Sprintf("event_%026d", n)
	at := time.Now().Add(-time.Duration(secondsAgo) * time.Second).UTC().Format("2006-01-02T15:04:05.000Z")
	return hostileEvent{id, fmt.Sprintf(`{"object":"event","id":%q,"event":%q,"data":{"id":"user_1"},"created_at":%q}`, id, eventType, at)}
}

// serveAnything starts an Events API that goes on after a cursor and otherwise does as it likes: it
// sends every event, of any type, and as many at once as most says, for any limit; 0 keeps to the
// limit.
func serveAnything(t testing.TB, events []hostileEvent, most int) (url string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		from := 0
		for i := range events {
			if events[i].id == q.Get("after") {
				from = i + 1
			}
		}
		size := most
		if size == 0 {
			size, _ = strconv.Atoi(q.Get("limit"))
		}
		page := events[from:min(from+size, len(events))]
		raws := make([]string, len(page))
		for i := range page {
			raws[i] = page[i].raw
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Request-Id", "req_hostile")
		_, _ = fmt.Fprintf(w, `{"object":"list","data":[%s],"list_metadata":{"before":null,"after":null}}`, strings.Join(raws, ","))
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}
