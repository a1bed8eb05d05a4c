package admin

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"workos-relay/internal/retry"

	"go.uber.org/zap"
)

// Reason is why a request was refused access. The values are few and fixed, so that they can label
// a metric.
type Reason string

// The reasons.
const (
	NoCredentials    Reason = "no_credentials"    // 401: neither the token nor a client certificate
	WrongCredentials Reason = "wrong_credentials" //nolint:gosec // 401: a wrong token; this is a name, no credential
	TooManyGuesses   Reason = "too_many_guesses"  // 429: too many wrong tokens from this address; the token was not compared
	OtherHost        Reason = "other_host"        // 403: without a token, addressed to another name than loopback
	OtherOrigin      Reason = "other_origin"      // 403: made by a web page of another origin
	NoHeader         Reason = "no_header"         // 403: without Header
)

// Reasons returns every Reason.
func Reasons() []Reason {
	return []Reason{NoCredentials, WrongCredentials, TooManyGuesses, OtherHost, OtherOrigin, NoHeader}
}

const (
	guessBurst   = 10              // wrong tokens of one client that are answered at once
	guessRate    = 2.0             // wrong tokens of one client that are answered per second after that
	guessWait    = 2 * time.Second // how long a request waits for its turn
	guessClients = 1024            // clients that are remembered
	guessWaiters = 32              // requests that wait at once, of all clients
)

// guesses slows down guesses of the token, for each client by itself: a client that guesses does
// not delay another. A request that is over the rate waits for its turn, and is refused without
// comparing its token if it would wait too long, so that the answer tells nothing. The zero value
// is ready to use, and it is safe for concurrent use.
type guesses struct {
	mu      sync.Mutex
	clients map[netip.Prefix]*guesser
	waiters int
}

// guesser is how far a client has gone. level grows by one for each token under comparison or
// wrong, and drains at guessRate.
type guesser struct {
	level float64
	at    time.Time
}

// enter waits until the client may have a token compared, for at most most. It reports false if the
// client has to come back later.
func (g *guesses) enter(ctx context.Context, client netip.Prefix, most time.Duration) bool {
	wait, ok := g.reserve(client, most, time.Now())
	if !ok || wait == 0 {
		return ok
	}
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.waiters--
	}()
	return retry.Sleep(ctx, wait) == nil
}

// reserve counts a guess and returns how long it has to wait. A wait that is not zero counts as a
// waiter.
func (g *guesses) reserve(client netip.Prefix, most time.Duration, now time.Time) (wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.client(client, now)
	over := c.level + 1 - guessBurst
	if over > 0 {
		wait = time.Duration(over / guessRate * float64(time.Second))
		if wait > most || g.waiters >= guessWaiters {
			return 0, false
		}
		g.waiters++
	}
	c.level++
	return wait, true
}

// right takes back the guess that enter has counted: the token was right.
func (g *guesses) right(client netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.clients[client]; c != nil {
		c.level = max(0, c.level-1)
	}
}

// client returns the state of a client at now. If there are too many, it forgets the one that has
// been silent for longest.
func (g *guesses) client(key netip.Prefix, now time.Time) *guesser {
	if c := g.clients[key]; c != nil {
		c.level = max(0, c.level-max(0, now.Sub(c.at).Seconds())*guessRate)
		c.at = now
		return c
	}
	if g.clients == nil {
		g.clients = map[netip.Prefix]*guesser{}
	}
	if len(g.clients) >= guessClients {
		var oldest netip.Prefix
		for k, c := range g.clients {
			if o := g.clients[oldest]; o == nil || c.at.Before(o.at) {
				oldest = k
			}
		}
		delete(g.clients, oldest)
	}
	c := &guesser{at: now}
	g.clients[key] = c
	return c
}

// ClientOf returns the network that stands for the client of r in every bound per client: its IPv4
// address, or its IPv6 /64, which one host can use as a whole.
func ClientOf(r *http.Request) netip.Prefix {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.WithZone("").Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// refusedEvery is the time between two log lines of one Reason.
const refusedEvery = time.Minute

// refusedLog tells of requests that were refused access, at most once in refusedEvery for each
// Reason. The zero value is ready to use, and it is safe for concurrent use.
type refusedLog struct {
	mu    sync.Mutex
	lines map[Reason]*refusedLine
}

type refusedLine struct {
	at   time.Time
	more int // requests since the line
}

// note counts a refused request and reports whether to log it, and for how many requests the line
// stands.
func (l *refusedLog) note(reason Reason, now time.Time) (requests int, tell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines == nil {
		l.lines = map[Reason]*refusedLine{}
	}
	line := l.lines[reason]
	if line == nil {
		line = &refusedLine{at: now.Add(-refusedEvery)}
		l.lines[reason] = line
	}
	line.more++
	if d := now.Sub(line.at); d >= 0 && d < refusedEvery {
		return 0, false
	}
	requests, line.at, line.more = line.more, now, 0
	return requests, true
}

// prove returns what r proves about its sender. It slows down a client that sends wrong tokens; ok
// is false if such a client has to come back later than after wait.
func (s *Server) prove(r *http.Request, security *Security, wait time.Duration) (p proof, ok bool) {
	if !security.sendsToken(r) {
		return security.proof(r), true
	}
	client := ClientOf(r)
	if !s.guesses.enter(r.Context(), client, wait) {
		return noProof, false
	}
	if p = security.proof(r); p != wrong {
		s.guesses.right(client)
	}
	return p, true
}

// refused counts a request that was refused access and tells of it.
func (s *Server) refused(r *http.Request, reason Reason) {
	if s.cfg.OnRefused != nil {
		s.cfg.OnRefused(reason)
	}
	requests, tell := s.refusedLog.note(reason, time.Now())
	if !tell {
		return
	}
	level := zap.WarnLevel
	if reason == NoCredentials { // as the first request of every browser
		level = zap.InfoLevel
	}
	s.cfg.Logger.Log(level, "the admin server has refused access; relay_admin_refused_total counts all such requests",
		zap.String("reason", string(reason)), zap.String("from", r.RemoteAddr), zap.Int("requests", requests))
}
