package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// answer is what came back for one request, whole or not.
type answer struct {
	ListEventsResponse               // its events share one buffer, see Event
	Date               time.Time     // the API's clock, from the Date header; zero if there was none
	RequestID          string        // X-Request-Id
	Size               int           // bytes of the body
	status             int           // 0 if there was no response
	sent               time.Time     // by the local clock
	took               time.Duration // from sending the request to the last byte read
}

// listDecoder decodes the body of a page of about sizeHint events.
type listDecoder func(body []byte, sizeHint int) (ListEventsResponse, error)

// fetch makes one request. The answer is filled in as far as it is known, even if there is an error.
func (c *Client) fetch(ctx context.Context, opts ListEventsOpts) (answer, error) {
	return c.fetchAs(ctx, opts, decodeList)
}

// fetchAs is fetch with another way to decode the body. It repeats the request once if the API refuses the key and there is a newer
// one.
func (c *Client) fetchAs(ctx context.Context, opts ListEventsOpts, decode listDecoder) (answer, error) {
	used := c.key(false)
	a, err := c.fetchOnce(ctx, opts, decode)
	if c.Key == nil || !keyRefused(err) || c.key(true) == used {
		return a, err
	}
	if _, err := c.wait(ctx); err != nil {
		return a, err
	}
	return c.fetchOnce(ctx, opts, decode)
}

func (c *Client) fetchOnce(ctx context.Context, opts ListEventsOpts, decode listDecoder) (answer, error) {
	c.once.Do(c.init)
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	try := newAttempt(ctx, timeout, c.own != nil)
	defer try.end()
	if c.own == nil {
		return c.roundTrip(ctx, try, opts, decode)
	}
	var used *pool
	try.Context, used = c.own.with(try.Context)
	a, err := c.roundTrip(ctx, try, opts, decode)
	if ctx.Err() == nil {
		c.own.judge(used, a.status, err)
	}
	return a, err
}

// roundTrip sends the request and reads the answer.
func (c *Client) roundTrip(ctx context.Context, try *attempt, opts ListEventsOpts, decode listDecoder) (answer, error) {
	req, err := c.request(try, opts) //nolint:contextcheck // the attempt is made from ctx
	if err != nil {
		return answer{}, err
	}
	start := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error // names the whole query, which is long and tells nobody anything
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return answer{}, c.broken(ctx, try, err)
	}
	defer func() { _ = resp.Body.Close() }()
	received := try.body(resp.Body)
	a := answer{status: resp.StatusCode, sent: start}
	a.RequestID = c.clean(resp.Header.Get("X-Request-Id"))
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.Date = date.UTC()
	}
	if resp.StatusCode != http.StatusOK {
		apiErr := c.apiError(resp, received, a, opts)
		a.took = time.Since(start)
		return a, apiErr
	}
	body, err := c.readBody(resp.ContentLength, received)
	a.Size, a.took = len(body), time.Since(start)
	if err != nil {
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		if why := try.why(); why != nil { //nolint:contextcheck // the attempt is made from ctx
			err = why
		}
		return a, c.responseError(a, err)
	}
	list, err := decode(body, min(max(opts.Limit, 1), MaxLimit))
	if err != nil {
		return a, c.responseError(a, fmt.Errorf("it cannot be decoded: %w%s", err, beginning(body)))
	}
	a.Data, a.ListMetadata = list.Data, list.ListMetadata
	return a, nil
}

// beginning quotes the start of a body that is not JSON at all, such as the page of a proxy. It is empty for others, which may hold
// events. The error is clipped to less when the key has been hidden.
func beginning(body []byte) string {
	const most = 4 << 10
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] == '{' || body[0] == '[' {
		return ""
	}
	return fmt.Sprintf("; it begins with %q", body[:min(len(body), most)])
}

// broken says why a request brought no response: ctx is the caller's, try the one with the timeouts.
func (c *Client) broken(ctx context.Context, try *attempt, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if why := try.why(); why != nil { //nolint:contextcheck // the attempt is made from ctx
		err = why
	}
	return &TransportError{Host: c.host(), Err: err}
}

// scratch holds buffers for bodies whose length is not announced, as with gzip. A buffer that a rare huge response has grown
// is not kept.
var scratch = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxScratch = 1 << 20

// readBody reads a body of n bytes, -1 if that is not known, into one buffer of its size, at most MaxResponse bytes.
func (c *Client) readBody(n int64, from io.Reader) ([]byte, error) {
	limit := c.MaxResponse
	if limit <= 0 {
		limit = DefaultMaxResponse
	}
	switch {
	case n > limit:
		return nil, tooLarge(limit)
	case n >= 0:
		body := make([]byte, n)
		got, err := io.ReadFull(from, body)
		if err != nil {
			return nil, fmt.Errorf("it is cut off after %d of %d bytes: %w", got, n, err)
		}
		return body, nil
	}
	buf := scratch.Get().(*bytes.Buffer)
	buf.Reset()
	got, err := buf.ReadFrom(io.LimitReader(from, limit+1))
	body := bytes.Clone(buf.Bytes())
	if buf.Cap() <= maxScratch {
		scratch.Put(buf)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("it is cut off after %d bytes: %w", got, err)
	case got > limit:
		return nil, tooLarge(limit)
	}
	return body, nil
}

func tooLarge(limit int64) error {
	return fmt.Errorf("%w of %d bytes", ErrTooLarge, limit)
}
