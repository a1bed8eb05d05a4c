package page

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/journal"
	"workos-relay/internal/printable"
)

// update is the data of a server-sent event: what has changed since the one before it on the same
// stream.
type update struct {
	Shape     string                   `json:"shape"` // if it differs from the page's, the page must be loaded again
	Title     string                   `json:"title"`
	Icon      string                   `json:"icon"`
	Writable  bool                     `json:"writable"`            // the client that opened the stream may control relay
	States    []string                 `json:"states"`              // of the lanes, in their order
	Lanes     []card                   `json:"lanes"`               // what else the page shows of the lanes, in their order
	Fragments map[string]template.HTML `json:"fragments,omitempty"` // by the id of the element whose content they are
}

// stream sends an update at once and then at each interval, whether anything has changed or not, so
// that a client hears from a connection that works. It ends with the client, with Close, and after
// maxStream.
func (p *Page) stream(w http.ResponseWriter, r *http.Request) {
	asked, err := rangeOf(r)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	client := admin.ClientOf(r)
	if code, err := p.streams.add(client); err != nil {
		w.Header().Set("Retry-After", "10")
		writeError(w, code, err)
		return
	}
	defer p.streams.remove(client)
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
		if err := p.send(w, control, asked, writable, sent); err != nil {
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

// streams counts the open streams. The zero value is ready to use, and it is safe for concurrent
// use.
type streams struct {
	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int // by client; never zero
}

// add counts one more stream of client, which close ends. If there are too many, it counts nothing
// and returns the status code and the error of the answer.
func (s *streams) add(client netip.Prefix) (code int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.of[client] >= maxOfClient:
		return http.StatusTooManyRequests, fmt.Errorf("%d pages are live already from %s; close one, or read / without JavaScript", maxOfClient, client)
	case s.all >= maxStreams:
		return http.StatusServiceUnavailable, fmt.Errorf("%d pages are live already; close one, or read / without JavaScript", maxStreams)
	}
	if s.of == nil {
		s.of = map[netip.Prefix]int{}
	}
	s.all++
	s.of[client]++
	return 0, nil
}

func (s *streams) remove(client netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[client]--; s.of[client] == 0 {
		delete(s.of, client)
	}
}

// writeError answers with an error, in the form of the admin server.
func writeError(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}

// send writes what has changed since sent, and brings sent up to date.
func (p *Page) send(w http.ResponseWriter, control *http.ResponseController, asked journal.Range, writable bool, sent map[string]template.HTML) error {
	s, err := p.snapshot(asked)
	if err != nil {
		return err
	}
	u := update{Shape: s.Shape, Title: s.Title, Icon: s.Icon, Writable: writable, States: s.States, Lanes: s.Lanes, Fragments: map[string]template.HTML{}}
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
	if _, err := fmt.Fprintf(w, "event: update\ndata: %s\n\n", printable.Append(nil, data)); err != nil {
		return err
	}
	return control.Flush()
}
