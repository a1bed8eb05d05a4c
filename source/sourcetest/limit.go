package sourcetest

import (
	"net/http"
	"strconv"
	"time"
)

// RetryAfter is how a 429 tells when to come back.
type RetryAfter uint8

// WorkOS documents none of these; its SDKs read the first two.
const (
	RetryAfterSeconds RetryAfter = iota
	RetryAfterDate               // an HTTP date
	RetryAfterAbsent
)

// header returns the value for a wait of d from now, rounded up to the second so that obeying it is
// enough; empty for none.
func (r RetryAfter) header(now time.Time, d time.Duration) string {
	switch r {
	case RetryAfterDate:
		return now.Add(d + time.Second - 1).UTC().Format(http.TimeFormat)
	case RetryAfterAbsent:
		return ""
	default:
		return strconv.Itoa(int((d + time.Second - 1) / time.Second))
	}
}

// window counts requests in fixed windows, the first of which begins with the first request.
type window struct {
	start time.Time
	used  int
}

// allow reports whether a request fits, else how long until the next window.
func (w *window) allow(now time.Time, n int, length time.Duration) (wait time.Duration, ok bool) {
	if w.start.IsZero() || now.Sub(w.start) >= length {
		w.start, w.used = now, 0
	}
	if w.used >= n {
		return w.start.Add(length).Sub(now), false
	}
	w.used++
	return 0, true
}

func tooManyRequests(now time.Time, wait time.Duration, how RetryAfter) *apiError {
	_, body := statusBody(http.StatusTooManyRequests)
	e := &apiError{status: http.StatusTooManyRequests, body: body}
	if v := how.header(now, wait); v != "" {
		e.header = http.Header{"Retry-After": {v}}
	}
	return e
}
