package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"workos-relay/internal/operator"
	"workos-relay/pipeline"
)

// path is one path and what answers there.
type path struct {
	method, name, help string
	handler            http.HandlerFunc
	probe, metrics     bool // open to those who ask whether relay lives; the one of the metrics
}

func (s *Server) paths() []*path {
	paths := []*path{
		{method: http.MethodGet, name: "/", help: "the status page, and for others than browsers this list", handler: s.root},
		{method: http.MethodGet, name: "/healthz", help: "200 while the process lives", handler: s.healthz, probe: true},
		{method: http.MethodGet, name: "/readyz", help: "200 while every lane makes progress, else 503 with the reasons", handler: s.readyz, probe: true},
		{method: http.MethodGet, name: "/api/v1/status", help: "every lane as JSON", handler: s.status},
	}
	if s.cfg.Metrics != nil {
		paths = append(paths, &path{method: http.MethodGet, name: "/metrics", help: "for Prometheus", handler: s.cfg.Metrics.ServeHTTP, metrics: true})
	}
	if s.cfg.Control != nil {
		paths = append(paths, s.controls()...)
	}
	if s.page != nil {
		for _, p := range s.page.Paths() {
			paths = append(paths, &path{method: http.MethodGet, name: p.Name, help: p.Help, handler: p.Handler.ServeHTTP})
		}
	}
	return paths
}

// handler answers every path, method and mistake.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusNotFound, failure{Error: "there is no such path; GET / lists them"})
	})
	for _, p := range s.paths() {
		pattern := p.name
		if pattern == "/" {
			pattern = "/{$}"
		}
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, p) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		mux.ServeHTTP(w, r)
	})
}

// answer lets the path answer, where the request may do what it asks for.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, p *path) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if method != p.method {
		allowed := p.method
		if allowed == http.MethodGet {
			allowed = "GET, HEAD"
		}
		w.Header().Set("Allow", allowed)
		reply(w, http.StatusMethodNotAllowed, failure{Error: "only " + allowed + " may be used here"})
		return
	}
	a, err := s.security.Load().admit(r, p)
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="relay", charset="UTF-8"`)
		w.Header().Add("WWW-Authenticate", `Bearer realm="relay"`)
		fail(w, err)
		return
	}
	a.write = a.write && s.cfg.Control != nil
	p.handler(w, withAccess(r, a))
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var refusal *Refusal
	if errors.As(err, &refusal) {
		code = refusal.Code
	}
	if code != http.StatusUnauthorized {
		w.Header().Del("WWW-Authenticate")
	}
	reply(w, code, failure{operator.Explain(err.Error(), operator.Actions(err)...), operator.Action(err)})
}

// failure is the answer to a request that was not done. Action is what an operator has to do if only an operator can resolve it.
type failure struct {
	Error  string `json:"error"`
	Action string `json:"action,omitempty"`
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
		if p.help != "" {
			fmt.Fprintf(&b, "%-4s %-34s %s\n", p.method, p.name, p.help)
		}
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
	Active                bool           `json:"active"`
	Holder                string         `json:"holder"`
	Reasons               []string       `json:"reasons"`
	Action                string         `json:"action"`
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
			Lane: l.Name, Ready: l.Ready, State: l.State, Since: l.Since, Active: l.Active, Holder: l.Holder, Reasons: l.Reasons, Action: l.Action, LastPoll: l.LastPoll,
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
