package source

import (
	"net/url"
	"time"

	"workos-relay/checkpoint"
)

// Hooks are called by a Stream as things happen, for metrics and tests. Any of them may be nil.
// They are called from the goroutine that runs the iterator, and must not block.
type Hooks struct {
	// OnRequest is called for each request, answered or not, before the other hooks about it. It is
	// not called for a request that the caller's context ended, or that was given up for lack of
	// memory.
	OnRequest func(*RequestInfo)
	// OnResponse: a response arrived, with any status.
	OnResponse func(ResponseInfo)
	// OnRetry: a request failed in a way that may pass; it is made again after Wait.
	OnRetry func(RetryInfo)
	// OnRateLimited: the API answered 429. OnRetry follows.
	OnRateLimited func(RateLimitedInfo)
	// OnWait: the stream is at the tip and is about to wait for its next poll. A webhook may end
	// the wait earlier. A second call for the same wait replaces the first.
	OnWait func(WaitInfo)
	// OnLimiterWait: a request waited for the client's own rate limit.
	OnLimiterWait func(LimiterWaitInfo)
	// OnTypeRefused: the API refused an event type, which is now left out until Until.
	OnTypeRefused func(TypeRefusedInfo)
	// OnTypeRestored: the API accepts a type again that it had refused.
	OnTypeRestored func(TypeRestoredInfo)
	// OnInversion: events of a page stand in another order than their times. They are relayed as
	// they stand.
	OnInversion func(InversionInfo)
	// OnRepeated is called for events that the API sent again although they had been read, as pages
	// that overlap do. They are left out.
	OnRepeated func(RepeatedInfo)
	// OnUnexpectedType is called for an event of a type that was not asked for: see
	// Stream.RelayUnexpected.
	OnUnexpectedType func(UnexpectedTypeInfo)
	// OnOddPayload is called for an event whose payload does not fit the schema of its type. It is
	// relayed as it is. Of each type the first events are all compared, and later ones now and
	// then.
	OnOddPayload func(OddPayloadInfo)
	// OnBackfill: several readers are at work on a backlog, as described; called before each page
	// that they bring, and when they are done.
	OnBackfill func(BackfillInfo)
}

// RequestInfo describes one request and what came of it. It does not change.
type RequestInfo struct {
	URL       *url.URL      // as it was sent; may hold credentials of the endpoint
	Template  string        // the path below the endpoint, with names in braces for ids: /events
	Types     int           // event types that the query names
	Sent      time.Time     // by the local clock
	Took      time.Duration // from then to the last byte of the answer, or to the failure
	Status    int           // 0 if there was no response
	RequestID string        // X-Request-Id
	Size      int           // bytes of the body of a response of status 200, decompressed
	Events    int           // events of the response, before any is left out
	Resend    int           // how often in a row the same request had failed before
	Err       error         // why the response, if any, is of no use; nil if it is
}

// ResponseInfo describes one response.
type ResponseInfo struct {
	Status   int
	Duration time.Duration // from sending the request to the last byte read
	Bytes    int           // of a body with status 200
	Events   int
	Now      time.Time // the API's clock; zero if the response had no Date
}

// RetryInfo describes a failed request.
type RetryInfo struct {
	Reason  RetryReason
	Attempt int // of this request, from 1
	Wait    time.Duration
	Err     error
}

// RetryReason is why a request is made again. The values are few and fixed, so that they can label
// a metric.
type RetryReason string

// The reasons of RetryInfo.
const (
	RetryTransport    RetryReason = "transport"    // no answer
	RetryResponse     RetryReason = "response"     // an answer cut off or malformed
	RetryRateLimited  RetryReason = "rate_limited" // 429
	RetryServer       RetryReason = "server"       // 408 or 5xx, and every other unexpected answer
	RetryUnauthorized RetryReason = "unauthorized" // 401 or 403
	RetryRefused      RetryReason = "refused"      // another 4xx, or any with a body that is not WorkOS's
	RetryRedirect     RetryReason = "redirect"     // 3xx to another host
)

// RateLimitedInfo describes an answer 429.
type RateLimitedInfo struct {
	Wait time.Duration // until the next request
}

// WaitInfo describes a wait at the tip.
type WaitInfo struct {
	Wait time.Duration // from the answer to the last poll; Stream.PollInterval unless the next one is early
}

// LimiterWaitInfo describes a wait for Client.Limiter.
type LimiterWaitInfo struct {
	Wait time.Duration
}

// TypeRefusedInfo describes a type that is left out.
type TypeRefusedInfo struct {
	Type  string
	Until time.Time // local clock; when it is asked for again
	Again bool      // it had been refused before, and was on trial
}

// TypeRestoredInfo describes a type that is accepted again.
type TypeRestoredInfo struct {
	Type  string
	Since time.Time // when it was first refused; its events from then on may not have been read
}

// InversionInfo describes the disorder within one page.
type InversionInfo struct {
	Count    int                 // adjacent pairs of which the second is the older
	Position checkpoint.Position // of the first such second
}

// RepeatedInfo describes events of one page that were left out because they had been read before.
type RepeatedInfo struct {
	Count    int
	Position checkpoint.Position // that the page began with
}

// UnexpectedTypeInfo describes an event that was not asked for.
type UnexpectedTypeInfo struct {
	Type     string
	Position checkpoint.Position
}

// OddPayloadInfo describes an event whose payload does not fit the schema of its type.
type OddPayloadInfo struct {
	Type, EventID string
	Why           string // which field, and what stands there
}

// BackfillInfo describes a backfill. The first fields are its state; the others count what happened
// since the last call.
type BackfillInfo struct {
	Active   bool  // false once, when it is done, all else being zero but the counts
	Readers  int   // requests under way
	Allowed  int   // requests that may be under way; falls with 429 and rises again
	Segments int   // stretches of the backlog that are read or held
	Buffered int64 // bytes held ahead of what has been yielded, at most Stream.Memory and a page

	Joined  int // segments that ended where the next one begins
	Split   int // segments that proved dense and were divided
	Missed  int // seams that the segment before did not meet; what lies behind them is read again
	Dropped int // segments given up, and so read again: a missed seam, a refused type, an answer that contradicts others
}

// call calls hook with info unless it is nil.
func call[T any](hook func(T), info T) {
	if hook != nil {
		hook(info)
	}
}
