// Package webhook turns WorkOS's webhooks into wake-ups for streams that poll. A webhook is used
// for nothing else: webhooks have no order, come twice, and some never come, so a position or an
// event is only ever taken from a polled page.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// DefaultTolerance is how far the time of a signature may be from the clock, either way, if
	// none is given. WorkOS's SDKs use the same:
	// https://workos.com/docs/events/data-syncing/webhooks
	DefaultTolerance = 180 * time.Second
	// SignatureHeader is the header that carries "t=<Unix milliseconds>, v1=<hex>".
	SignatureHeader = "WorkOS-Signature"
	// maxBody bounds a webhook. WorkOS documents no bound; an event is rarely over 100 kB.
	maxBody = 4 << 20
	// maxHeader bounds the signature header: no more than one time and a few signatures.
	maxHeader = 1024
)

// Result is what became of a request to the Handler. The values are few and fixed, so that they can
// label a metric.
type Result string

// The results.
const (
	Accepted       Result = "accepted"        // 200; it wakes
	Repeated       Result = "repeated"        // 200: accepted before, so that it does not wake again
	WrongSignature Result = "wrong_signature" // 401: missing, malformed, or made with another secret
	WrongTime      Result = "wrong_time"      // 401: the signature is right, but too old or too far ahead
	WrongMethod    Result = "wrong_method"    // 405: not a POST
	TooLarge       Result = "too_large"       // 413
	Broken         Result = "broken"          // 400: the body did not arrive whole
)

// Results returns every Result.
func Results() []Result {
	return []Result{Accepted, Repeated, WrongSignature, WrongTime, WrongMethod, TooLarge, Broken}
}

// Handler receives webhooks. Its fields are set before the first request and not changed
// afterwards; it is then safe for concurrent use.
type Handler struct {
	Secret string // of the webhook endpoint in WorkOS's dashboard; without any, every request is refused
	// Secrets, if not nil, returns the valid secrets in place of Secret, for each request: several
	// while one secret replaces another. It must not block.
	Secrets   func() []string
	Tolerance time.Duration // DefaultTolerance if zero
	Now       func() time.Time
	// Replays remembers the webhooks that were accepted. Handlers that follow one another share it.
	// If it is nil, every replay is
	// accepted.
	Replays  *Replays
	Wake     func()       // called for each accepted webhook; must not block. Waker.Wake is made for it
	OnResult func(Result) // called for each request, for metrics; nil for none
	// OnEvent is called for each accepted webhook with the event type that it names, "" if it names
	// none. It must not block.
	OnEvent func(eventType string)
}

// NewHandler returns a Handler that calls wake for each webhook signed with secret that it has not
// accepted before. A zero tolerance means DefaultTolerance, a nil clock the local one.
func NewHandler(secret string, tolerance time.Duration, clock func() time.Time, wake func()) *Handler {
	return &Handler{Secret: secret, Tolerance: tolerance, Now: clock, Wake: wake, Replays: &Replays{}}
}

// String names the handler without its secret.
func (h *Handler) String() string { return "webhook handler" }

// GoString keeps the secret out of %#v.
func (h *Handler) GoString() string { return h.String() }

// ServeHTTP implements http.Handler. It answers as soon as it has read the body and checked its
// signature, so that WorkOS neither waits nor sends the webhook again.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	result, named := h.check(w, r)
	if h.OnResult != nil {
		h.OnResult(result)
	}
	status := http.StatusOK
	switch result {
	case Accepted:
		if h.Wake != nil {
			h.Wake()
		}
		if h.OnEvent != nil {
			h.OnEvent(named)
		}
	case Repeated:
	case WrongMethod:
		w.Header().Set("Allow", http.MethodPost)
		status = http.StatusMethodNotAllowed
	case TooLarge:
		status = http.StatusRequestEntityTooLarge
	case Broken:
		status = http.StatusBadRequest
	default:
		status = http.StatusUnauthorized
	}
	w.WriteHeader(status)
}

// check returns the result, and the event type that the webhook names if it is accepted.
func (h *Handler) check(w http.ResponseWriter, r *http.Request) (result Result, named string) {
	if r.Method != http.MethodPost {
		return WrongMethod, ""
	}
	sig, ok := parseSignature(r.Header.Get(SignatureHeader))
	macs := h.macs()
	if !ok || len(macs) == 0 {
		return WrongSignature, ""
	}
	// The body goes through one MAC for each secret and is not kept.
	all := io.MultiWriter(writers(macs)...)
	_, _ = io.WriteString(all, sig.time+".")
	body := io.TeeReader(http.MaxBytesReader(w, r.Body, maxBody), all)
	if h.OnEvent != nil {
		named = eventType(body)
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		if e := (*http.MaxBytesError)(nil); errors.As(err, &e) {
			return TooLarge, ""
		}
		return Broken, ""
	}
	var right []mac
	for _, m := range macs {
		if sum := mac(m.Sum(nil)); sig.matches(sum) {
			right = append(right, sum)
		}
	}
	if len(right) == 0 {
		return WrongSignature, ""
	}
	now := time.Now
	if h.Now != nil {
		now = h.Now
	}
	tolerance := h.Tolerance
	if tolerance <= 0 {
		tolerance = DefaultTolerance
	}
	at := now()
	if d := at.Sub(sig.at); d > tolerance || d < -tolerance {
		return WrongTime, ""
	}
	if h.Replays != nil && !h.Replays.add(right, at, sig.at.Add(tolerance)) {
		return Repeated, ""
	}
	return Accepted, named
}

// macs returns a MAC for each secret.
func (h *Handler) macs() []hash.Hash {
	secrets := []string{h.Secret}
	if h.Secrets != nil {
		secrets = h.Secrets()
	}
	var macs []hash.Hash
	for _, s := range secrets {
		if s != "" {
			macs = append(macs, hmac.New(sha256.New, []byte(s)))
		}
	}
	return macs
}

func writers(macs []hash.Hash) []io.Writer {
	out := make([]io.Writer, len(macs))
	for i, m := range macs {
		out[i] = m
	}
	return out
}

// signature is a parsed header. The text of the time is what is signed, so it is kept as it was
// sent.
type signature struct {
	time string
	at   time.Time
	v1   [][]byte
}

// matches reports whether one of the signatures is want, in a time that does not depend on where
// they differ.
func (s signature) matches(want mac) bool {
	ok := false
	for _, v := range s.v1 {
		ok = hmac.Equal(v, want[:]) || ok
	}
	return ok
}

// parseSignature reads "t=<Unix milliseconds>, v1=<hex>". It ignores elements of other names, so
// that a later scheme may stand beside this one. v1 may come more than once, as while a secret is
// replaced.
func parseSignature(header string) (signature, bool) {
	var s signature
	if len(header) > maxHeader {
		return s, false
	}
	for element := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(element), "=")
		switch name {
		case "t":
			if s.time != "" || value == "" || strings.Trim(value, "0123456789") != "" {
				return s, false
			}
			ms, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return s, false
			}
			s.time, s.at = value, time.UnixMilli(ms)
		case "v1":
			sum, err := hex.DecodeString(value)
			if err != nil || len(sum) != sha256.Size {
				return s, false
			}
			s.v1 = append(s.v1, sum)
		}
	}
	return s, s.time != "" && len(s.v1) > 0
}
