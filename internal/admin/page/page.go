// Package page is relay's status page: one HTML page rendered here, and a stream of server-sent
// events that keeps it live. It loads nothing from elsewhere, can be read without JavaScript, and
// shows no payload unless told to.
package page

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/journal"
	"workos-relay/internal/printable"
)

// Config is what a Page shows.
type Config struct {
	Status  func(writable bool) admin.Status // called from several goroutines at once
	Journal *journal.Journal
	Paths   func() []admin.Path // what else the address serves, for the foot of the page
	Every   time.Duration       // between updates of a live page; 0 for a second
	Now     func() time.Time    // nil for time.Now
}

const (
	defaultEvery = time.Second
	maxStreams   = 32               // live pages at once
	maxOfClient  = 8                // live pages at once of one client, so that it does not take the place of others
	writeTimeout = 10 * time.Second // of one update: a client that takes longer is cut off
	maxStream    = 10 * time.Minute // then the client connects again, and its access is decided again
)

// Page serves the status page. It is safe for concurrent use.
type Page struct {
	cfg     Config
	streams streams
	closing chan struct{}
	close   func()

	mu   sync.Mutex
	last map[journal.Range]*snapshot
}

var _ admin.Page = (*Page)(nil)

// New returns a page that shows cfg.
func New(cfg Config) *Page {
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Page{cfg: cfg, closing: make(chan struct{}), last: map[journal.Range]*snapshot{}}
	p.close = sync.OnceFunc(func() { close(p.closing) })
	return p
}

// Close ends every live page, so that a server can shut down. It may be called again.
func (p *Page) Close() { p.close() }

// streamPath is where updates come from, and a documented path for programs that watch relay in
// another way.
const streamPath = "/api/v1/stream"

// Paths implements admin.Page.
func (p *Page) Paths() []admin.Path {
	paths := []admin.Path{{Name: streamPath, Help: "the status page's updates, as server-sent events", Handler: http.HandlerFunc(p.stream)}}
	for _, a := range assets {
		paths = append(paths, admin.Path{Name: "/" + a.path, Handler: a})
	}
	return paths
}

// ServeHTTP answers with the page.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	asked, err := rangeOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := p.html(asked)
	if err != nil {
		http.Error(w, "the status page cannot be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(body)
}

// html is the whole page.
func (p *Page) html(r journal.Range) ([]byte, error) {
	s, err := p.snapshot(r)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	err = templates.ExecuteTemplate(&b, "page", document{
		snapshot: s, Style: style.path, Script: script.path, LostIcon: lost.path, Paths: listed(p.cfg.Paths), Ranges: links(r),
	})
	return printable.Append(nil, []byte(b.String())), err
}

// link is a path in the foot of the page, relative so that it holds behind a proxy that puts a
// prefix before it.
type link struct{ Relative, Name, Help string }

func listed(paths func() []admin.Path) []link {
	if paths == nil {
		return nil
	}
	var out []link
	for _, path := range paths() {
		if path.Name != "/" {
			out = append(out, link{"." + path.Name, path.Name, path.Help})
		}
	}
	slices.SortFunc(out, func(a, b link) int { return strings.Compare(a.Name, b.Name) })
	return out
}
