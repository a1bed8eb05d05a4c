package webhook

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxReplays bounds what a Replays remembers, about 1 MB. It is more than WorkOS sends while
// signatures are valid: 22 webhooks per second for 6 minutes.
const maxReplays = 8192

// mac is the HMAC of a webhook's time and body. It is the same however the signature header is
// written.
type mac [sha256.Size]byte

// Replays remembers the webhooks that were accepted, for as long as their signatures are valid, so
// that one that is sent again has no effect. If it is full it forgets the oldest webhook, which can
// then be accepted once more: no new webhook is ever taken for a known one. The zero value is ready
// to use, and it is safe for concurrent use.
type Replays struct {
	mu    sync.Mutex
	known map[mac]struct{}
	queue []replay // what known holds, in the order of arrival
}

type replay struct {
	mac   mac
	until time.Time
}

// add remembers the macs of one webhook until the given time and reports whether none of them was
// known.
func (r *Replays) add(macs []mac, now, until time.Time) (isNew bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 && r.queue[0].until.Before(now) {
		r.forget()
	}
	isNew = true
	for _, m := range macs {
		if _, ok := r.known[m]; ok {
			isNew = false
		}
	}
	for _, m := range macs {
		if _, ok := r.known[m]; !ok {
			r.remember(replay{m, until})
		}
	}
	return isNew
}

func (r *Replays) remember(one replay) {
	if r.known == nil {
		r.known = map[mac]struct{}{}
	}
	if len(r.queue) >= maxReplays {
		r.forget()
	}
	r.queue = append(r.queue, one)
	r.known[one.mac] = struct{}{}
}

// forget removes the oldest.
func (r *Replays) forget() {
	delete(r.known, r.queue[0].mac)
	r.queue = r.queue[1:]
}
