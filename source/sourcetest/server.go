package sourcetest

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"workos-relay/internal/retry"
)

// Server is the Events API. Its methods are safe for concurrent use.
type Server struct {
	cfg    config
	store  *store
	ledger requestLog
	world  *World // nil without WithWorld

	mu      sync.Mutex // taken before store.mu
	key     string
	refused map[string]bool
	window  window
	faults  plan
	rng     rng
	http    *listening
}

// New returns a server. It is ready to be used as an http.Handler and by RoundTripper; Start gives
// it a socket.
func New(opts ...Option) *Server {
	cfg := config{
		apiKey: DefaultAPIKey, now: time.Now, forms: Comma | Repeat | Brackets,
		maxRange: 30 * 24 * time.Hour, ledger: 1024,
	}
	for _, o := range opts {
		o(&cfg)
	}
	s := &Server{cfg: cfg, key: cfg.apiKey, refused: map[string]bool{}, rng: 1}
	s.ledger.size = max(cfg.ledger, 0)
	s.ledger.stats.ByStatus = map[int]int{}
	var gen *Generator
	if p := cfg.population; p != nil {
		filled := *p
		if filled.Start.IsZero() {
			filled.Start = cfg.now().Add(-filled.length())
		}
		gen = NewGenerator(filled)
	}
	s.store = newStore(gen)
	if cfg.population != nil && cfg.population.InMemory {
		s.store.materialize()
	}
	for _, t := range eventTypes {
		if t.Deprecated {
			s.refused[t.Name] = true // gone upstream: a request that names them fails
		}
	}
	s.RefuseTypes(cfg.refused...)
	if cfg.world != nil {
		s.world = newWorld(s, *cfg.world)
	}
	return s
}

// World returns the objects of the server; nil without WithWorld.
func (s *Server) World() *World { return s.world }

// Append adds events at the end of the list, each the JSON of a whole event object, kept byte for
// byte; the slices are copied. An event whose type is not in source.Catalogue makes that type
// known. What lacks id, event or a readable created_at, or has an id that is there already, is
// refused, and nothing after it is added.
func (s *Server) Append(events ...[]byte) error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	for i, raw := range events {
		if err := s.store.appendRaw(raw); err != nil {
			return fmt.Errorf("sourcetest: append event %d of %d: %w", i+1, len(events), err)
		}
	}
	return nil
}

// AddOrganizations makes organizations known that no event names.
func (s *Server) AddOrganizations(ids ...string) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	for _, id := range ids {
		s.store.org(id)
	}
}

// Expire drops the event with the id and all before it from every list, as retention does; their
// ids become unknown cursors. It reports whether the id is known.
func (s *Server) Expire(id string) bool {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	n, ok := s.store.index(id)
	if ok {
		s.store.floor = max(s.store.floor, n+1)
	}
	return ok
}

// RefuseTypes makes event types unknown: a request that names one fails with 400
// invalid_events_request.
func (s *Server) RefuseTypes(names ...string) { s.setRefused(true, names) }

// AcceptTypes undoes RefuseTypes.
func (s *Server) AcceptTypes(names ...string) { s.setRefused(false, names) }

func (s *Server) setRefused(refused bool, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.refused[name] = refused
	}
}

// SetAPIKey changes the key that requests must bear, as a rotation does.
func (s *Server) SetAPIKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// answer is the whole way of a request. Its error is that of a context which ended first.
func (s *Server) answer(ctx context.Context, req *http.Request) (*reply, error) {
	now := s.cfg.now()
	s.mu.Lock()
	f, _ := s.faults.next(now)
	delay := s.cfg.latency + f.delay + time.Duration(chance(req.URL.RawQuery)*float64(s.cfg.jitter+f.jitter))
	requestID := string(appendULID([]byte("req_"), now.UnixMilli(), 0, s.rng.next()))
	s.mu.Unlock()

	n := s.ledger.begin(Request{
		Time: now, Method: req.Method, Path: req.URL.Path, RawQuery: req.URL.RawQuery, Fault: f.name, RequestID: requestID,
	})
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := retry.Sleep(ctx, delay); err != nil {
		return nil, err
	}
	now = s.cfg.now()
	r := s.respond(req, f, now)
	r.fault = f.name
	r.header.Set("Date", now.UTC().Format(http.TimeFormat))
	r.header.Set("X-Request-Id", requestID)
	s.ledger.end(n, r)
	return r, nil
}

// chance is a number in [0,1), the same for the same query: requests that come at once are answered
// alike in any order.
func chance(query string) float64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, query)
	r := rng(h.Sum64())
	return r.float()
}

func (s *Server) respond(req *http.Request, f Fault, now time.Time) *reply {
	if f.answer != nil {
		return f.answer(now)
	}
	route, ids := s.world.route(req.URL.Path)
	if e := s.admit(req, now, route != nil); e != nil {
		return errorReply(e)
	}
	if route != nil {
		return s.world.respond(route, ids, req, f)
	}
	q, e := s.parse(req.URL.RawQuery)
	if e != nil {
		return errorReply(e)
	}
	if f.query != nil {
		f.query(&q)
	}
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	p, e := s.selectPage(q, now)
	if e != nil {
		return errorReply(e)
	}
	if f.page != nil {
		f.page(p.idx)
	}
	r := newReply(http.StatusOK, "application/json; charset=utf-8", s.render(p)...)
	r.events = len(p.idx)
	if f.reply != nil {
		f.reply(r)
	}
	return r
}

// admit checks what comes before the query: path, method, key, rate.
func (s *Server) admit(req *http.Request, now time.Time, listed bool) *apiError {
	if req.URL.Path != "/events" && !listed {
		return &apiError{status: http.StatusNotFound, body: errorBody("", "Not Found")}
	}
	if req.Method != http.MethodGet {
		return &apiError{
			status: http.StatusMethodNotAllowed, body: errorBody("", "Method Not Allowed"),
			header: http.Header{"Allow": {http.MethodGet}},
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if subtle.ConstantTimeCompare([]byte(req.Header.Get("Authorization")), []byte("Bearer "+s.key)) != 1 {
		return &apiError{status: http.StatusUnauthorized, body: errorBody("", "Unauthorized")}
	}
	if s.cfg.rateLimit > 0 {
		if wait, ok := s.window.allow(now, s.cfg.rateLimit, s.cfg.rateWindow); !ok {
			return tooManyRequests(now, wait, s.cfg.retryAfter)
		}
	}
	return nil
}

// listening is a server on a socket.
type listening struct {
	url      string
	srv      *http.Server
	cancel   context.CancelFunc
	done     chan struct{} // closed when Serve returned
	handlers sync.RWMutex  // held for reading by each handler; http.Server.Close waits for none, and may be followed by one that begins
	closed   bool          // guarded by handlers
}

// serve has next answer, unless the server was closed meanwhile.
func (h *listening) serve(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.handlers.RLock()
		defer h.handlers.RUnlock()
		if h.closed {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}

// Start serves on addr, such as 127.0.0.1:4101; empty is a free port of 127.0.0.1. Close ends it.
func (s *Server) Start(addr string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return errors.New("sourcetest: the server is started already")
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("sourcetest: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &listening{url: "http://" + l.Addr().String(), cancel: cancel, done: make(chan struct{})}
	h.srv = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          log.New(io.Discard, "", 0),
		Handler:           h.serve(s),
	}
	go func() {
		defer close(h.done)
		_ = h.srv.Serve(l) // returns when Close closes the listener
	}()
	s.http = h
	return nil
}

// URL returns where the server listens, http://host:port. Before Start it is an address that only
// RoundTripper answers at.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return "http://sourcetest.invalid"
	}
	return s.http.url
}

// Close stops listening, breaks the connections that are open, and returns when no request on them
// is under way. It is a no-op on a server that was not started, and leaves RoundTripper in use.
func (s *Server) Close() error {
	s.mu.Lock()
	h := s.http
	s.http = nil
	s.mu.Unlock()
	if h == nil {
		return nil
	}
	h.cancel()
	err := h.srv.Close()
	<-h.done
	h.handlers.Lock()
	h.closed = true
	h.handlers.Unlock()
	if err != nil {
		return fmt.Errorf("sourcetest: %w", err)
	}
	return nil
}
