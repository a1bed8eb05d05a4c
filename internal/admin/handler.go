package admin

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"workos-relay/pipeline"
)

// path is one path and what answers there.
type path struct {
	name, help string
	handler    http.Handler
}

func (s *Server) paths() []path {
	paths := []path{
		{"/", "this list", http.HandlerFunc(s.index)},
		{"/healthz", "200 while the process lives", http.HandlerFunc(s.healthz)},
		{"/readyz", "200 while every lane makes progress, else 503 with the reasons", http.HandlerFunc(s.readyz)},
		{"/api/v1/status", "every lane as JSON", http.HandlerFunc(s.status)},
	}
	if s.cfg.Metrics != nil {
		paths = append(paths, path{"/metrics", "for Prometheus", s.cfg.Metrics})
	}
	return paths
}

// handler answers every path, method and mistake.
func (s *Server) handler() http.Handler {
	paths := s.paths()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		i := slices.IndexFunc(paths, func(p path) bool { return p.name == r.URL.Path })
		switch {
		case i < 0:
			reply(w, http.StatusNotFound, failure{"there is no such path; GET / lists them"})
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			reply(w, http.StatusMethodNotAllowed, failure{"only GET and HEAD are allowed here"})
		default:
			paths[i].handler.ServeHTTP(w, withAccess(r, access{}))
		}
	})
}

type failure struct {
	Error string `json:"error"`
}

// reply writes v as JSON. What goes wrong then is the client's loss alone.
func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v)
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	b.WriteString("relay " + s.cfg.Version + "\n\n")
	for _, p := range s.paths() {
		b.WriteString(p.name + strings.Repeat(" ", max(2, 16-len(p.name))) + p.help + "\n")
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(b.String()))
}

type health struct {
	Status        string  `json:"status"`
	Version       string  `json:"version"`
	UptimeSeconds float64 `json:"uptime_seconds"`
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, health{"ok", s.cfg.Version, seconds(s.cfg.Now().Sub(s.started))})
}

type readiness struct {
	Ready   bool            `json:"ready"`
	Reasons []string        `json:"reasons"` // of all lanes, each with the lane's name before it
	Lanes   []laneReadiness `json:"lanes"`
}

// laneReadiness is what of a lane's status matters to whoever is told that it is not ready.
type laneReadiness struct {
	Lane                  string         `json:"lane"`
	Ready                 bool           `json:"ready"`
	State                 pipeline.State `json:"state"`
	Since                 *time.Time     `json:"since"`
	Reasons               []string       `json:"reasons"`
	LastPoll              *time.Time     `json:"last_poll"`
	LagSeconds            *float64       `json:"lag_seconds"`
	UnacknowledgedSeconds float64        `json:"unacknowledged_seconds"`
	Position              Position       `json:"position"`
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	all := s.Snapshot(false)
	answer := readiness{Ready: all.Ready, Reasons: all.Reasons, Lanes: []laneReadiness{}}
	for _, l := range all.Lanes {
		answer.Lanes = append(answer.Lanes, laneReadiness{
			Lane: l.Name, Ready: l.Ready, State: l.State, Since: l.Since, Reasons: l.Reasons, LastPoll: l.LastPoll,
			LagSeconds: l.LagSeconds, UnacknowledgedSeconds: l.UnacknowledgedSeconds, Position: l.Position,
		})
	}
	code := http.StatusOK
	if !answer.Ready {
		code = http.StatusServiceUnavailable
	}
	reply(w, code, answer)
}

// known is t in UTC, or nil for the zero time.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// seconds is d in seconds and milliseconds, and never negative.
func seconds(d time.Duration) float64 { return max(0, d).Truncate(time.Millisecond).Seconds() }
