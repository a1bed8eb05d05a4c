package nats

import (
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"workos-relay/conf/livefile"
)

// clientGuard decides which clients the embedded server takes. It follows the files that hold the
// token or the password: a client that connected with what they held before is disconnected.
type clientGuard struct {
	user            string
	token, password *livefile.Current

	mu       sync.Mutex
	accepted map[uint64]digest // by the id of a connection: what it came with; empty unless a file is followed
}

// digest is that of the credentials. Comparing digests takes the same time for anything that a
// client sends.
type digest [sha256.Size]byte

func newClientGuard(c Config) *clientGuard {
	return &clientGuard{user: c.Embedded.User, token: c.Token, password: c.Password, accepted: map[uint64]digest{}}
}

// Check implements server.Authentication.
func (g *clientGuard) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	opts := c.GetOpts()
	given := credentialsDigest(opts.Username, opts.Password, opts.Token)
	if !g.current(given, false) && !g.current(given, true) {
		return false
	}
	if g.follows() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.accepted[c.GetID()] = given
	}
	return true
}

// current reports whether the digest is that of the credentials now. fresh reads their files.
func (g *clientGuard) current(given digest, fresh bool) bool {
	token, password := g.token.Get(), g.password.Get()
	if fresh {
		token, password = g.token.Latest(), g.password.Latest()
	}
	want := credentialsDigest(g.user, password.Reveal(), "")
	if g.user == "" {
		want = credentialsDigest("", "", token.Reveal())
	}
	return subtle.ConstantTimeCompare(given[:], want[:]) == 1
}

// credentialsDigest is the digest of what a client sends. Each part goes in with its length, as its
// own digest.
func credentialsDigest(user, password, token string) digest {
	var all []byte
	for _, part := range []string{user, password, token} {
		sum := sha256.Sum256([]byte(part))
		all = append(all, sum[:]...)
	}
	return sha256.Sum256(all)
}

func (g *clientGuard) follows() bool { return g.token.Follows() || g.password.Follows() }

// watch disconnects clients whose credentials are no longer valid, until the function that it
// returns is called. A nil guard watches
// nothing.
func (g *clientGuard) watch(srv *server.Server) (stop func()) {
	if g == nil || !g.follows() {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(livefile.Interval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				g.disconnectExpired(srv)
			}
		}
	})
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
}

// disconnectExpired disconnects each client whose credentials are no longer valid, and forgets
// those that have gone.
func (g *clientGuard) disconnectExpired(srv *server.Server) {
	for id := range g.outdated(srv) {
		_ = srv.DisconnectClientByID(id) // it may have gone by itself
	}
}

func (g *clientGuard) outdated(srv *server.Server) map[uint64]digest {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.accepted, func(id uint64, _ digest) bool { return srv.GetClient(id) == nil })
	out := maps.Clone(g.accepted)
	maps.DeleteFunc(out, func(_ uint64, given digest) bool { return g.current(given, false) })
	return out
}
