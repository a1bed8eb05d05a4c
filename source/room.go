package source

import "sync"

// headShare is the part of the memory of a backfill that only the head may use: 1/headShare.
const headShare = 8

// room is the memory of a backfill, for the pages that it holds and for the responses under way. It
// is safe for concurrent use.
//
// A response takes its expected size in advance, and grows beyond that only as far as there is
// room. So the sum stays within the memory for any response. If there is none the
// response is given up, not made to wait: readers that wait for each other, each with half a page,
// would wait forever. The head may use a share that is closed to all others. It may always grow if
// nothing else is held apart from the page that is being yielded, so a page that is larger than all
// of the memory is read too, alone.
type room struct {
	memory int64
	ahead  int64 // what others than the head may use

	mu       sync.Mutex // guards what follows
	used     int64
	yielding int64 // cost of the page that is being yielded; a part of used
}

func newRoom(memory int64) *room {
	return &room{memory: memory, ahead: memory - memory/headShare}
}

// add counts bytes that are held, or no longer held if bytes is negative.
func (m *room) add(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used += bytes
}

// yields counts the page that is being yielded, in place of the one before it.
func (m *room) yields(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used += bytes - m.yielding
	m.yielding = bytes
}

// fits reports whether there is room for bytes more, for others than the head.
func (m *room) fits(bytes int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used+bytes <= m.ahead
}

// grant returns a grant of up to expected bytes for one response. The caller must call end.
func (m *room) grant(expected int64, head bool) *grant {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := &grant{room: m, most: m.ahead}
	if head {
		g.head, g.most = true, m.memory
	}
	g.bytes = max(min(expected, g.most-m.used), 0)
	m.used += g.bytes
	return g
}

// grant is what one response may take of a room.
type grant struct {
	room  *room
	head  bool
	most  int64 // how much of the room may be in use
	bytes int64 // guarded by room.mu
}

// grow makes the grant at least size bytes, and reports whether there is room for that.
func (g *grant) grow(size int64) bool {
	m := g.room
	m.mu.Lock()
	defer m.mu.Unlock()
	more := size - g.bytes
	if more <= 0 {
		return true
	}
	// P12: no response takes memory that is not there.
	alone := g.head && m.used-g.bytes <= m.yielding
	if m.used+more > g.most && !alone {
		return false
	}
	m.used += more
	g.bytes = size
	return true
}

// end gives the grant back.
func (g *grant) end() {
	g.room.mu.Lock()
	defer g.room.mu.Unlock()
	g.room.used -= g.bytes
	g.bytes = 0
}
