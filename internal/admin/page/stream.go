package page

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"workos-relay/internal/admin"
)

// update is the data of a server-sent event: what has changed since the one before it on the same stream.
type update struct {
	Shape     string                   `json:"shape"` // where it differs from the page's, the page must be loaded anew
	Title     string                   `json:"title"`
	Icon      string                   `json:"icon"`
	Writable  bool                     `json:"writable"`            // whoever opened the stream may steer
	States    []string                 `json:"states"`              // of the lanes, in their order
	Fragments map[string]template.HTML `json:"fragments,omitempty"` // by the id of the element whose content they are
}

// stream sends an update at once and then at each interval, whether anything has changed or not, so that a client hears from a
// connection that works. It ends with the client, with Close, and after maxStream.
func (p *Page) stream(w http.ResponseWriter, r *http.Request) {
	select {
	case p.clients <- struct{}{}:
		defer func() { <-p.clients }()
	default:
		refuse(w)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that gathers the answer would hold it back for ever
	if r.Method == http.MethodHead {
		return
	}
	ticker := time.NewTicker(p.cfg.Every)
	defer ticker.Stop()
	end := time.NewTimer(maxStream)
	defer end.Stop()
	control, writable, sent := http.NewResponseController(w), admin.MayWrite(r), map[string]template.HTML{}
	for {
		if err := p.send(w, control, writable, sent); err != nil {
			return // the client has gone, or takes too long
		}
		select {
		case <-ticker.C:
		case <-end.C:
			return
		case <-p.closing:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// refuse says that too many pages are live, as the admin server says such things.
func refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "10")
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(map[string]string{
		"error": fmt.Sprintf("%d pages are live already; close one, or read / without JavaScript", maxClients),
	})
}

// send writes what has changed since sent, and brings sent up to date.
func (p *Page) send(w http.ResponseWriter, control *http.ResponseController, writable bool, sent map[string]template.HTML) error {
	s, err := p.snapshot()
	if err != nil {
		return err
	}
	u := update{Shape: s.Shape, Title: s.Title, Icon: s.Icon, Writable: writable, States: s.States, Fragments: map[string]template.HTML{}}
	for id, html := range s.Fragments {
		if before, ok := sent[id]; !ok || before != html {
			u.Fragments[id], sent[id] = html, html
		}
	}
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	// The server's own deadline is for short answers.
	if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "event: update\ndata: %s\n\n", data); err != nil {
		return err
	}
	return control.Flush()
}
