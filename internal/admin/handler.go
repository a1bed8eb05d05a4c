package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	stdpath "path"
	"strconv"
	"strings"
	"time"

	"workos-relay/internal/hint"
	"workos-relay/internal/manual"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
)

// path is one path and what answers there.
type path struct {
	method, name, help string
	handler            http.HandlerFunc
	probe              bool // answers everybody, and tells details only to a sender who may read
	metrics            bool
}

func (s *Server) paths() []*path {
	paths := []*path{
		{method: http.MethodGet, name: "/", help: "the status page, and for others than browsers this list", handler: s.root},
		{method: http.MethodGet, name: "/healthz", help: "200 while the process lives", handler: s.healthz, probe: true},
		{method: http.MethodGet, name: "/readyz", help: "200 while every lane makes progress, else 503; with the reasons for who may read them", handler: s.readyz, probe: true},
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
	mux.HandleFunc("/", notFound)
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
		if stdpath.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect to the clean path
			notFound(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusNotFound, failed("there is no such path; GET / lists them", ""))
}

// answer lets the path answer if the request may do what it asks for.
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
		reply(w, http.StatusMethodNotAllowed, failed("only "+allowed+" may be used here", ""))
		return
	}
	a, err := s.admit(r, p)
	if err != nil {
		fail(w, err)
		return
	}
	a.write = a.write && s.cfg.Control != nil
	p.handler(w, withAccess(r, a))
}

// admit decides what r may do on a path, and counts what it refuses.
func (s *Server) admit(r *http.Request, p *path) (access, error) {
	security := s.security.Load()
	everybody, wait := p.probe || p.metrics && security.OpenMetrics, guessWait
	if everybody {
		wait = 0 // it is answered without the proof too
	}
	proof, ok := s.prove(r, security, wait)
	var a access
	var err error
	if ok || everybody {
		a, err = security.admit(r, p, proof)
	} else {
		err = refuse(http.StatusTooManyRequests, TooManyGuesses, "too many wrong tokens have come from %s; try again in a few seconds", ClientOf(r))
	}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		s.refused(r, refusal.Reason)
	case !ok: // the path answers everybody, but the token counts
		s.refused(r, TooManyGuesses)
	case proof == wrong:
		s.refused(r, WrongCredentials)
	}
	return a, err
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var refusal *Refusal
	if errors.As(err, &refusal) {
		code = refusal.Code
	}
	switch code {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="relay", charset="UTF-8"`)
		w.Header().Add("WWW-Authenticate", `Bearer realm="relay"`)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", strconv.Itoa(int(guessWait/time.Second)))
	}
	reply(w, code, failed(hint.Text("", err), hint.Action("", err)))
}

// failed returns the answer for an error with this text and action.
func failed(text, action string) failure {
	return failure{printable.Block(text, maxError), manual.Code(text, action), printable.Block(action, maxError)}
}

// maxError bounds the text of an error in an answer, in bytes. A configuration may have many
// mistakes.
const maxError = 64 << 10

// failure is the answer to a request that was not done. Code is that of Error in
// docs/troubleshoot.md, empty if it has none. Action is what an operator has to do if only an
// operator can resolve it.
type failure struct {
	Error  string `json:"error"`
	Code   string `json:"code,omitempty"`
	Action string `json:"action,omitempty"`
}

// reply writes v as JSON. What goes wrong then is the client's loss alone.
func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(printable.NewWriter(w)) // the reader may be a terminal
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

// alive is the answer of /healthz to everybody.
type alive struct {
	Status string `json:"status"`
}

// health is the answer of /healthz to a sender who may read.
type health struct {
	alive
	Version       string  `json:"version"`
	UptimeSeconds float64 `json:"uptime_seconds"`
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	ok := alive{"ok"}
	if !mayRead(r) {
		reply(w, http.StatusOK, ok)
		return
	}
	reply(w, http.StatusOK, health{ok, s.cfg.Version, seconds(s.cfg.Now().Sub(s.started))})
}

// verdict is the answer of /readyz to everybody.
type verdict struct {
	Ready bool `json:"ready"`
}

// readiness is the answer of /readyz to a sender who may read.
type readiness struct {
	verdict
	Health  Health          `json:"health"`
	Reasons []string        `json:"reasons"` // of all lanes, each with the lane's name before it
	Lanes   []laneReadiness `json:"lanes"`
}

// laneReadiness is the part of a lane's status that explains why it is not ready.
type laneReadiness struct {
	Lane                  string         `json:"lane"`
	Ready                 bool           `json:"ready"`
	Health                Health         `json:"health"`
	HealthReason          string         `json:"health_reason"`
	Code                  string         `json:"code"`
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

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	all := s.Snapshot(false)
	code := http.StatusOK
	if !all.Ready {
		code = http.StatusServiceUnavailable
	}
	answer := readiness{verdict: verdict{all.Ready}, Health: all.Health, Reasons: all.Reasons, Lanes: []laneReadiness{}}
	if !mayRead(r) {
		reply(w, code, answer.verdict)
		return
	}
	for _, l := range all.Lanes {
		answer.Lanes = append(answer.Lanes, laneReadiness{
			Lane: l.Name, Ready: l.Ready, Health: l.Health, HealthReason: l.HealthReason, Code: l.Code, State: l.State, Since: l.Since, Active: l.Active, Holder: l.Holder, Reasons: l.Reasons, Action: l.Action, LastPoll: l.LastPoll,
			LagSeconds: l.LagSeconds, UnacknowledgedSeconds: l.UnacknowledgedSeconds, Position: l.Position,
		})
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
