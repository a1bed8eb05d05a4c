package source

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
)

const (
	// DefaultPollInterval is the time between two polls at the tip if Stream.PollInterval is zero.
	DefaultPollInterval = time.Second
	// DefaultMemory is the number of bytes that a backfill may hold if Stream.Memory is zero.
	DefaultMemory = 64 << 20
	// MaxReaders is the most that Stream.Readers may be.
	MaxReaders = 64
)

// Stream reads events in the order of the source, for ever. Its fields are not changed while it is
// in use; Pages and Now may then be called more than once and concurrently, each call being a
// separate reader that shares only the Client and Wake.
type Stream struct {
	Client *Client // nil for DefaultClient
	// Events are the types asked for, each by its full name: see Expand. There must be at least
	// one.
	Events         []string
	OrganizationID string        // only this organization's events; empty for all
	Limit          int           // events per request, 1 to MaxLimit; MaxLimit if zero
	PollInterval   time.Duration // between two polls at the tip; DefaultPollInterval if zero
	// FastestPoll is the least time between two polls at the tip while events come. After a page
	// with events the next poll comes so soon, and each poll that finds nothing doubles the time,
	// up to PollInterval. The Polls of the Client bound how many polls of all streams are early. If
	// it is zero, or not less than PollInterval, none is.
	FastestPoll time.Duration
	// RelayUnexpected yields events of types that were not asked for; without it they are left out.
	// They are reported in either case.
	RelayUnexpected bool
	// Wake ends a wait at the tip, so that the next poll comes at once; nil for none. Polls still
	// keep 25 ms between them, however often it is sent to. It is not looked at while there
	// are events to read, or while a retry waits.
	Wake <-chan struct{}
	// Readers is how many requests may be under way at once while the position is far behind; 0 or
	// 1 for one after another all the time. What is read, and its order, is the same.
	Readers int
	// Memory bounds the bytes that Readers hold ahead of what has been yielded, the responses that
	// are being received and the page that is being yielded included; DefaultMemory if zero. A page
	// that is larger is read alone.
	Memory int64
	Hooks  *Hooks
	Logger *zap.Logger // nil for none

	payloads payloadCheck
}

// Pages reads the events that follow the position after, oldest first. Each page begins where the
// one before it ended:
//
//   - While there is more to read, one request follows the other. A page that is not full was the
//     last one for now: it has Tip set, and the next poll comes a PollInterval after it, earlier if
//     events came just before and FastestPoll permits it, or when Wake says so. A poll that finds
//     nothing yields an empty page with Tip set.
//   - A position with an event id is continued at that id. One with only a time begins with the
//     first event that is not older. The zero position begins with the oldest event that the API
//     still keeps.
//   - What may pass is waited out: no answer, an answer that is cut off or malformed, 408, 429,
//     5xx, with growing, jittered pauses of at most 30 s, or as long as Retry-After says, but at
//     most 10 min. 401, 403, a redirect to elsewhere, another 4xx and any error page that is not
//     WorkOS's are tried again every 30 s to 5 min.
//   - A 4xx by which WorkOS can be recognised is final if WorkOS refuses every request for 5
//     minutes. Before that, requests with parts left out show what is refused. A type that the API
//     refuses is left out, with a warning, and asked for again later; so are the optional
//     parameters order, range_end and range_start, and milliseconds.
//   - A response larger than Client.MaxResponse, or too slow for Client.Timeout, is asked for again
//     with a smaller limit.
//   - Of a response with more events than were asked for the first ones are used, and the others
//     are asked for again.
//   - An event that was read before is left out, as with pages that overlap.
//   - A page of more than 1 MiB is yielded in parts of about that size. What says something of the
//     whole page is in the last of them.
//   - An API that has nothing after the position is asked once a minute, by time, whether that is
//     so. A cursor that the API lost is continued by time if no event can be missing, see Resume.
//   - An event of a type that was not asked for is left out, unless RelayUnexpected is set.
//   - While the position is far behind, up to Readers requests are under way at once.
//     If the API does not answer by time as that needs, one request follows the other there too.
//
// An error is final and the last thing yielded: the error of ctx, or one that matches
// ErrCursorLost, ErrDescending, ErrTooLarge (one event alone is too large) or ErrMisconfigured, or
// a *RefusalError, which wraps an *APIError and may match ErrAllRefused. When the loop over Pages
// is left, no request is under way.
func (s *Stream) Pages(ctx context.Context, after checkpoint.Position) iter.Seq2[Page, error] {
	return s.Resume(ctx, checkpoint.Checkpoint{Position: after})
}

// Now asks the API for its time, for a stream that is to start with what happens from now on. If
// its answer has no Date header it is the local time. It retries as Pages does and has the same
// errors.
func (s *Stream) Now(ctx context.Context) (time.Time, error) {
	r, err := newReader(s, checkpoint.Checkpoint{})
	if err != nil {
		return time.Time{}, err
	}
	r.limit, r.maxLimit = 1, 1
	if _, _, err := r.exchange(ctx); err != nil {
		return time.Time{}, err
	}
	return r.clock().UTC(), nil
}

// check says what in the stream's fields is at fault.
func (s *Stream) check() error {
	if len(s.Events) == 0 {
		return misconfigured("no event type is asked for, and the Events API has no catch-all")
	}
	for _, name := range s.Events {
		if name == "" || strings.ContainsAny(name, "*+, ") {
			return misconfigured(fmt.Sprintf("%q is not an event type; patterns are expanded before they are asked for", name))
		}
	}
	if s.Limit < 0 || s.Limit > MaxLimit {
		return misconfigured(fmt.Sprintf("limit %d is not from 1 to %d", s.Limit, MaxLimit))
	}
	if s.Readers < 0 || s.Readers > MaxReaders {
		return misconfigured(fmt.Sprintf("%d readers are not from 1 to %d", s.Readers, MaxReaders))
	}
	if s.Memory < 0 {
		return misconfigured(fmt.Sprintf("%d bytes are no memory to read ahead into", s.Memory))
	}
	return nil
}
