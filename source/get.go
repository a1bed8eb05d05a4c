package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/retry"
)

// Getter reads what the API serves beside the events, such as its lists of objects. It shares the
// key, the connections and the rate limit of its Client, and repeats requests as a Stream does. Its
// fields are not changed while it is in use; it is safe for concurrent use.
type Getter struct {
	Client *Client // nil for DefaultClient
	// Hooks are called by the goroutines that call Get, so they must be safe for concurrent use.
	// Only those about responses, retries and the rate limit are called.
	Hooks  *Hooks
	Logger *zap.Logger // nil for none

	quiet atomic.Pointer[time.Time] // until when the API has asked for no request; nil if it never did
}

// GetRequest is one request of a Getter.
type GetRequest struct {
	Path string // below the endpoint, beginning with a slash; ids in it are escaped by url.PathEscape
	// Pattern is Path with names in braces for the ids in it, such as /organizations/{id}; empty if
	// there are none.
	Pattern string
	// Query is the query. A parameter named limit is halved, down to 1, if the response is larger
	// than Client.MaxResponse, or too slow for Client.Timeout.
	Query url.Values
	// Read takes the body of a response of status 200, and may keep it. An error means that the
	// body cannot be used; the request is then made again.
	Read func(body []byte) error
	// Final reports whether a refusal is to be returned at once instead of being repeated; nil for
	// never. It is asked only about a 4xx by which WorkOS can be recognised, except 401, 408 and
	// 429.
	Final func(*APIError) bool
	// Patience is how long the request may be refused before that is final: by WorkOS or by what
	// answers in its place, with a 4xx except 408 and 429, a redirect to elsewhere, or 501. The
	// request is repeated quickly meanwhile. 0 means 5 minutes, of refusals that are WorkOS's own.
	Patience time.Duration
}

// GetAnswer describes the response of status 200 to a GetRequest.
type GetAnswer struct {
	RequestID string        // X-Request-Id
	Now       time.Time     // the API's clock, from the Date header; zero if there was none
	Size      int           // bytes of the body
	Sent      time.Time     // by the local clock
	Took      time.Duration // from sending the request to the last byte read
	Limit     int           // the limit that was asked for; 0 if the query has none
}

// Get makes a request until it succeeds. It waits out what a Stream waits out, in the same way:
// no answer, an answer that is cut off or that Read refuses, 408, 429, 5xx, and slowly 401, 403, a
// redirect to elsewhere, and any 4xx that is not WorkOS's. After a 429, or an answer that says how
// long to wait, no request of the Getter is made until then.
//
// An error is the error of ctx, an *APIError for which Final is true, a *RefusalError if WorkOS has
// refused the request or forbidden it for 5 minutes, or for Patience, or one that matches
// ErrTooLarge (a limit of 1 gives a response that is too large) or ErrMisconfigured.
func (g *Getter) Get(ctx context.Context, req GetRequest) (GetAnswer, error) {
	r, query := g.retrier(req.Path), cloneValues(req.Query)
	r.patience = req.Patience
	for {
		a, err := g.once(ctx, r, req, query)
		limit, _ := strconv.Atoi(query.Get("limit"))
		var api *APIError
		switch {
		case err == nil:
			r.recovered()
			return GetAnswer{RequestID: a.RequestID, Now: a.Date, Size: a.Size, Sent: a.sent, Took: a.took, Limit: limit}, nil
		case ctx.Err() != nil:
			return GetAnswer{}, ctx.Err()
		case errors.As(err, &api) && (isStanding(err) || isForbidden(err)) && req.Final != nil && req.Final(api):
			return GetAnswer{}, err
		case errors.Is(err, ErrTooLarge) && limit > 1:
			query.Set("limit", strconv.Itoa(limit/2))
			r.log.Warn("a response was larger than permitted; asking for fewer objects at a time",
				r.place(), zap.Int("limit", limit/2), zap.Error(err))
			continue
		case errors.Is(err, ErrTooLarge):
			return GetAnswer{}, err
		case isSlow(err) && limit > 1:
			query.Set("limit", strconv.Itoa(limit/2))
		}
		if err := g.backOff(ctx, r, err); err != nil {
			return GetAnswer{}, err
		}
	}
}

func (g *Getter) retrier(path string) *retrier {
	r := &retrier{client: g.Client, log: g.Logger, path: path, place: func() zap.Field { return zap.String("path", path) }}
	if r.client == nil {
		r.client = DefaultClient
	}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	if g.Hooks != nil {
		r.hooks = *g.Hooks
	}
	return r
}

// once makes a request when the rate limit and the API let it, and tells the hooks.
func (g *Getter) once(ctx context.Context, r *retrier, req GetRequest, query url.Values) (answer, error) {
	waited, err := r.client.wait(ctx)
	if err == nil {
		err = g.waitUntilQuiet(ctx)
	}
	var a answer
	if err == nil {
		encoded := query.Encode()
		a, err = r.client.get(ctx, getRequest{
			path: req.Path, pattern: req.Pattern, query: func() (string, error) { return encoded, nil },
			read: func(a *answer, n int64, from io.Reader) error {
				return r.client.readWhole(a, n, from, req.Read)
			},
		})
	}
	a.tell(r.hooks.OnRequest, r.failures.count)
	if waited > 0 {
		call(r.hooks.OnLimiterWait, LimiterWaitInfo{Wait: waited})
	}
	if a.status != 0 {
		call(r.hooks.OnResponse, ResponseInfo{Status: a.status, Duration: a.took, Bytes: a.Size, Now: a.Date})
	}
	return a, err
}

// waitUntilQuiet waits while the API has asked for no more requests.
func (g *Getter) waitUntilQuiet(ctx context.Context) error {
	for {
		until := g.quiet.Load()
		if until == nil {
			return ctx.Err()
		}
		d := time.Until(*until)
		if err := retry.Sleep(ctx, d); err != nil || d <= 0 {
			return err
		}
	}
}

// backOff waits before the request that failed with err is made again. If the failure is about the
// load, the other requests of the Getter wait too.
func (g *Getter) backOff(ctx context.Context, r *retrier, err error) error {
	if after := retryAfterOf(err); after > 0 {
		until := time.Now().Add(min(after, retryAfterMax))
		for old := g.quiet.Load(); old == nil || old.Before(until); old = g.quiet.Load() {
			if g.quiet.CompareAndSwap(old, &until) {
				break
			}
		}
	}
	return r.backOff(ctx, err)
}

// readWhole reads a body of n bytes, -1 if that is not known, and gives it to read.
func (c *Client) readWhole(a *answer, n int64, from io.Reader, read func(body []byte) error) error {
	most := c.MaxResponse
	if most <= 0 {
		most = DefaultMaxResponse
	}
	if n > most {
		return fmt.Errorf("%w of %d bytes", ErrTooLarge, most)
	}
	b := &body{}
	defer b.free()
	err := b.fill(from, most+1)
	a.Size, a.took = int(b.size), time.Since(a.sent)
	if errors.Is(err, io.EOF) && b.size < n {
		err = io.ErrUnexpectedEOF
	}
	switch {
	case err == nil:
		return fmt.Errorf("%w of %d bytes", ErrTooLarge, most)
	case !errors.Is(err, io.EOF) && n >= 0:
		return fmt.Errorf("it is cut off after %d of %d bytes: %w", b.size, n, err)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("it is cut off after %d bytes: %w", b.size, err)
	}
	text := b.bytes()
	if err := read(text); err != nil {
		return &undecodableError{text: "it cannot be decoded: " + undecodable(text, err), err: err}
	}
	return nil
}

// cloneValues returns a copy of which parameters can be set.
func cloneValues(v url.Values) url.Values {
	out := make(url.Values, len(v))
	for name, values := range v {
		out[name] = values
	}
	return out
}
