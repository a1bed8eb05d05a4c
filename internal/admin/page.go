package admin

import (
	"net/http"
	"strings"
)

// Path is one path and what answers GET and HEAD there.
type Path struct {
	Name    string
	Help    string // empty for what nobody opens by hand
	Handler http.Handler
}

// Page is what a browser is shown at "/".
type Page interface {
	http.Handler
	// Paths is what belongs to the page, beside "/".
	Paths() []Path
	// Close ends every answer that would go on for ever. It is called when the server begins to
	// close.
	Close()
}

// Paths is what can be read from s, for people: what has a Help.
func (s *Server) Paths() []Path {
	var out []Path
	for _, p := range s.paths() {
		if p.help != "" && p.method == http.MethodGet {
			out = append(out, Path{p.name, p.help, p.handler})
		}
	}
	return out
}

// root is the page for who asks for HTML, as browsers do, and for others a plain list of paths.
func (s *Server) root(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	if s.page != nil && strings.Contains(r.Header.Get("Accept"), "text/html") {
		s.page.ServeHTTP(w, r)
		return
	}
	s.index(w, r)
}
