package source

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/retry"
)

const (
	retryFirst    = 500 * time.Millisecond
	retryMax      = 30 * time.Second
	slowFirst     = 30 * time.Second // if an operator is likely to be needed
	slowMax       = 5 * time.Minute
	retryAfterMax = 10 * time.Minute
	// refusedLimit is how long WorkOS must refuse a request before that is final.
	refusedLimit = 5 * time.Minute
	// remindEvery is how often the log repeats a warning about the same thing.
	remindEvery = 30 * time.Second
)

// failures counts the failures in a row of one request.
type failures struct {
	count  int
	since  time.Time
	reason RetryReason // of the last one
	warned time.Time   // when the last warning was logged
	slow   int         // failures in a row for the same reason, if that is one to be slow
}

// isClientFault reports whether err is an answer that blames the request, or seems to.
func isClientFault(err error) bool { return retryReason(err) == RetryRefused }

// retryReason classifies an error of Client.ListEvents; empty for one that no repetition can mend.
func retryReason(err error) RetryReason {
	var (
		api       *APIError
		response  *ResponseError
		transport *TransportError
	)
	switch {
	case errors.As(err, &transport):
		return RetryTransport
	case errors.As(err, &response):
		return RetryResponse
	case !errors.As(err, &api):
		return ""
	}
	switch {
	case api.Status == http.StatusTooManyRequests:
		return RetryRateLimited
	case api.Status/100 == 3:
		return RetryRedirect
	case api.Status == http.StatusRequestTimeout, api.Status/100 != 4:
		return RetryServer
	case (api.Status == http.StatusUnauthorized || api.Status == http.StatusForbidden) && (!api.Foreign || api.Message == ""):
		return RetryUnauthorized
	}
	return RetryRefused
}

// isForeign reports whether err is an answer with a body that is not WorkOS's.
func isForeign(err error) bool {
	var e *APIError
	return errors.As(err, &e) && e.Foreign
}

// isSlowReason reports whether requests that fail for the reason are repeated slowly.
func isSlowReason(reason RetryReason) bool {
	return reason == RetryUnauthorized || reason == RetryRedirect || reason == RetryRefused
}

// retryWait returns how long to wait after n failures in a row, with a random part so that many
// relays do not come back all at once. after is the wait that the API asked for; zero if it asked
// for none.
func retryWait(reason RetryReason, n int, after time.Duration, random retry.Random) time.Duration {
	first, most := retryFirst, retryMax
	slow := isSlowReason(reason)
	if slow {
		first, most = slowFirst, slowMax
	}
	waits := retry.Backoff{First: first, Most: most, Random: random}
	if slow {
		d := waits.Full(n)
		return max(min(d+random.UpTo(d/10), most), min(after, retryAfterMax))
	}
	if after > 0 {
		after = min(after, retryAfterMax)
		return after + random.UpTo(after/20) // never sooner than asked
	}
	return waits.After(n)
}

// retrier waits between the attempts of a request, and tells of them. It is used by one goroutine.
type retrier struct {
	client *Client
	hooks  Hooks
	log    *zap.Logger
	path   string           // of the request, see getRequest
	place  func() zap.Field // what the request asks for, in the log
	// impatient: what may pass is an error, too, and nothing is waited for.
	impatient bool
	// patience is how long a request for a list may be refused, by WorkOS or what answers in its
	// place; 0 for refusedLimit, by WorkOS itself.
	patience time.Duration

	failures failures
	// refusedSince is since when every request has been refused; zero if the last one was not.
	refusedSince time.Time
}

// backOff waits before the request that failed with err is made again. It returns err if no
// repetition can mend it, and a *RefusalError if the request has been refused for long enough.
func (r *retrier) backOff(ctx context.Context, err error) error {
	reason := retryReason(err)
	if reason == "" || r.impatient {
		return err
	}
	now := time.Now()
	limit := refusedLimit
	if r.patience > 0 {
		limit = r.patience
	}
	if !r.isRefusal(err, reason) {
		r.refusedSince = time.Time{}
	} else if r.refusedSince.IsZero() {
		r.refusedSince = now
	}
	if !r.refusedSince.IsZero() && now.Sub(r.refusedSince) >= limit {
		return &RefusalError{For: now.Sub(r.refusedSince), Err: err, path: r.path}
	}
	attempt := r.failures.count + 1
	if isSlowReason(reason) && reason != r.failures.reason {
		r.failures.slow = 0
	}
	if isSlowReason(reason) {
		r.failures.slow++
		attempt = r.failures.slow
	}
	wait := r.waitAfter(err, reason, attempt)
	if !r.refusedSince.IsZero() { // not later than when the refusal becomes final
		wait = min(wait, max(time.Until(r.refusedSince.Add(limit)), retryFirst))
		if r.patience > 0 {
			wait = min(wait, max(limit/5, retryFirst))
		}
	}
	r.reportRetry(err, reason, r.failures.count+1, wait)
	if reason == RetryUnauthorized && r.client.Key != nil {
		return r.client.sleepForKey(ctx, wait)
	}
	return retry.Sleep(ctx, wait)
}

// isRefusal reports whether err counts towards a *RefusalError.
func (r *retrier) isRefusal(err error, reason RetryReason) bool {
	if r.patience > 0 {
		var api *APIError
		return isSlowReason(reason) || errors.As(err, &api) && api.Status == http.StatusNotImplemented
	}
	return isStanding(err) || r.path != "" && isForbidden(err)
}

// waitAfter returns how long to wait after a request that has failed attempt times in a row.
func (r *retrier) waitAfter(err error, reason RetryReason, attempt int) time.Duration {
	wait := retryWait(reason, attempt, retryAfterOf(err), nil)
	if reason == RetryUnauthorized && r.client.Key != nil {
		wait = min(wait, maxKeyWait)
	}
	return wait
}

// isStanding reports whether err is a refusal by WorkOS itself, which becomes final if it does not
// pass.
func isStanding(err error) bool {
	var e *APIError
	return errors.As(err, &e) && isClientFault(err) && e.isWorkOS()
}

// isForbidden reports whether WorkOS itself says that the key may not read what was asked for.
func isForbidden(err error) bool {
	var e *APIError
	return errors.As(err, &e) && e.Status == http.StatusForbidden && e.isWorkOS()
}

// failed takes note of err and returns how long to wait before the request is made again; attempt
// is how often in a row it has failed.
func (r *retrier) failed(err error, reason RetryReason, attempt int) time.Duration {
	wait := r.waitAfter(err, reason, attempt)
	r.reportRetry(err, reason, attempt, wait)
	return wait
}

// reportRetry takes note of a request that failed with err and is made again after wait.
func (r *retrier) reportRetry(err error, reason RetryReason, attempt int, wait time.Duration) {
	f := &r.failures
	if f.count == 0 {
		f.since = time.Now()
	}
	f.count++
	if now := time.Now(); reason != f.reason || now.Add(wait).Sub(f.warned) > remindEvery {
		f.reason, f.warned = reason, now
		r.log.Warn(r.retryMessage(reason, err), zap.String("reason", string(reason)), zap.Int("attempt", f.count),
			zap.Duration("retry_in", wait), r.place(), zap.Error(err))
	}
	if retryAfterOf(err) > 0 {
		r.client.polls().hold(wait)
	}
	if reason == RetryRateLimited {
		r.client.polls().hold(pollCalm)
		call(r.hooks.OnRateLimited, RateLimitedInfo{Wait: wait})
	}
	call(r.hooks.OnRetry, RetryInfo{Reason: reason, Attempt: attempt, Wait: wait, Err: err})
}

// retryAfterOf is how long the API asks to wait; zero for nothing.
func retryAfterOf(err error) time.Duration {
	if e := (*APIError)(nil); errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// recovered ends a row of failures.
func (r *retrier) recovered() {
	f := r.failures
	fields := []zap.Field{zap.Int("failures", f.count), zap.Duration("outage", time.Since(f.since))}
	switch {
	case f.count == 0:
	case r.path != "":
		r.log.Info("WorkOS answers again to a request for a list", append(fields, r.place())...)
	default:
		r.log.Info("the Events API answers again", fields...)
	}
	r.failures, r.refusedSince = failures{}, time.Time{}
}

// recovered ends a row of failures, and what spoke for a lost cursor.
func (r *reader) recovered() {
	r.retrier.recovered()
	r.doubt = cursorDoubt{}
}

func (r *retrier) retryMessage(reason RetryReason, err error) string {
	switch reason {
	case RetryRefused:
		if isStanding(err) && r.path != "" {
			return "WorkOS refuses a request for a list; trying again slowly"
		}
		if isStanding(err) {
			return "the Events API refuses the request; trying again slowly"
		}
		return "an answer does not come from WorkOS itself: a load balancer, proxy or firewall in between may have sent it; trying again slowly"
	case RetryUnauthorized:
		if r.path != "" {
			return "WorkOS refuses the API key for a list: check that it is not revoked, and that it may read what the path names; trying again slowly"
		}
		if r.client.Key != nil {
			return "the Events API refuses the API key: write a key that is not revoked to source.api_key_file, which relay uses at once, and check that the key's environment has the Events API"
		}
		return "the Events API refuses the API key: check WORKOS_API_KEY or source.api_key, and that the key's environment has the Events API; trying again slowly"
	case RetryRedirect:
		return "the endpoint sends relay elsewhere: check source.endpoint; trying again slowly"
	case RetryRateLimited:
		return "the API key's rate limit is used up; waiting"
	default:
		if r.path != "" {
			return "a request for a list of WorkOS failed; trying again"
		}
		return "a request to the Events API failed; trying again"
	}
}
