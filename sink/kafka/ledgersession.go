package kafka

import (
	"errors"
	"sync"
)

// errNoSession: something went wrong in the session, or there was none yet.
var errNoSession = errors.New("the ledger has no session that could go on: fence first")

// ledgerSession is whether a Ledger may commit, and which position it replaces. It is safe for
// concurrent use.
type ledgerSession struct {
	mu    sync.Mutex // guards state
	state sessionState
}

// sessionState is the state of a session at one moment.
type sessionState struct {
	live     bool   // Fence has begun a session, and nothing has gone wrong since
	number   uint64 // how often live was set or cleared
	known    bool   // revision is the current one
	revision uint64 // 0: none
}

// begin starts a session. It does not know the current position yet.
func (s *ledgerSession) begin() { s.restart(true) }

// end marks the session as one that cannot continue.
func (s *ledgerSession) end() { s.restart(false) }

func (s *ledgerSession) restart(live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.live, s.state.known = live, false
	s.state.number++
}

// now returns the current state.
func (s *ledgerSession) now() sessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// committed records the revision of a position that the session has committed.
func (s *ledgerSession) committed(revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.revision = revision
}

// loaded records the revision of a position that was read after the state was as in before. It
// records nothing if the session has changed since, or knows its position.
func (s *ledgerSession) loaded(before sessionState, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before.live && s.state.number == before.number && !s.state.known {
		s.state.known, s.state.revision = true, revision
	}
}
