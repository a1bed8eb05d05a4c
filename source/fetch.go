package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// answer is what came back for one request, whole or not.
type answer struct {
	ListEventsResponse               // its events share one buffer, see Event
	Date               time.Time     // the API's clock, from the Date header; zero if there was none
	RequestID          string        // X-Request-Id
	Size               int           // bytes of the body
	held               int           // bytes that the events keep in memory
	over               *overfull     // the response held more events than were asked for; nil if it did not
	status             int           // 0 if there was no response
	sent               time.Time     // by the local clock
	took               time.Duration // from sending the request to the last byte read
	request            *RequestInfo  // what was sent; nil if nothing was
	refused            *RequestInfo  // the request before it, whose key the API refused; nil if there was none
}

// reading is how a response is read.
type reading struct {
	anyList bool                   // take a list that does not say that it is one, and all of its events, as the SDK does
	room    func(bytes int64) bool // whether there is memory for so much of the response; nil for always
	// count makes a response with too many events be read to its end, to find out how many there
	// are.
	count bool
	// explain makes the end of the caller's time, before there is a response, a *TransportError
	// that says how far the request came, instead of ctx.Err().
	explain bool
}

// fetch makes one request. The answer is filled in as far as it is known, even if there is an
// error.
func (c *Client) fetch(ctx context.Context, opts ListEventsOpts) (answer, error) {
	return c.fetchAs(ctx, opts, reading{})
}

// fetchAs is fetch with another way to read the response.
func (c *Client) fetchAs(ctx context.Context, opts ListEventsOpts, how reading) (answer, error) {
	return c.get(ctx, getRequest{
		query: func() (string, error) { return c.query(opts) }, types: opts.Events, explain: how.explain,
		read: func(a *answer, n int64, from io.Reader) error { return c.readPage(a, n, from, opts, how) },
	})
}

// getRequest is one request to the API, and how a response of status 200 is read.
type getRequest struct {
	path    string                 // below the endpoint, escaped; empty for the Events API
	pattern string                 // path with names in braces for ids; empty if it holds none
	query   func() (string, error) // encoded
	types   []string               // the event types that the query names
	explain bool                   // see reading
	// read reads the body, which has n bytes, or an unknown number if n is -1.
	read func(a *answer, n int64, from io.Reader) error
}

// get makes one request. It repeats the request once if the API refuses the key and there is a
// newer one.
func (c *Client) get(ctx context.Context, g getRequest) (answer, error) {
	used := c.key(false)
	a, err := c.getOnce(ctx, g)
	if c.Key == nil || !keyRefused(err) || c.key(true) == used {
		return a, err
	}
	if _, err := c.wait(ctx); err != nil {
		return a, err
	}
	refused := a.request
	a, err = c.getOnce(ctx, g)
	a.refused = refused
	return a, err
}

func (c *Client) getOnce(ctx context.Context, g getRequest) (answer, error) {
	c.once.Do(c.init)
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	try := newAttempt(ctx, timeout, c.own != nil)
	defer try.end()
	if c.own == nil {
		return c.roundTrip(ctx, try, g)
	}
	var used *pool
	try.Context, used = c.own.with(try.Context)
	a, err := c.roundTrip(ctx, try, g)
	if ctx.Err() == nil {
		c.own.noteOutcome(used, a.status, err)
	}
	return a, err
}

// roundTrip sends the request and reads the answer.
func (c *Client) roundTrip(ctx context.Context, try *attempt, g getRequest) (a answer, err error) {
	req, err := c.request(try, g) //nolint:contextcheck // the attempt is made from ctx
	if err != nil {
		return answer{}, err
	}
	var via *way // nil if there is an HTTPClient
	if c.own != nil {
		if via, req, err = findWay(req); err != nil {
			return answer{}, err
		}
	}
	c.sends()
	start := time.Now()
	defer func() { a.request = g.info(req.URL, start, &a, err) }()
	resp, err := c.do(req)
	if err != nil {
		var ue *url.Error // names the whole query, which is long and tells nobody anything
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return answer{}, c.broken(ctx, try, via, g, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusProxyAuthRequired && via != nil && via.proxy != nil {
		return answer{}, c.broken(ctx, try, via, g, via.refused(resp)) // of a request over http
	}
	received := try.body(resp.Body)
	a = answer{status: resp.StatusCode, sent: start}
	a.RequestID = c.clean(resp.Header.Get("X-Request-Id"))
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.Date = date.UTC()
	}
	if resp.StatusCode != http.StatusOK {
		apiErr := c.apiError(resp, received, a, g)
		a.took = time.Since(start)
		return a, apiErr
	}
	a.took = time.Since(start)
	err = g.read(&a, resp.ContentLength, received)
	switch {
	case err == nil, isNoRoom(err):
		return a, err
	case ctx.Err() != nil:
		return a, ctx.Err()
	}
	if why := try.cause(); why != nil { //nolint:contextcheck // the attempt is made from ctx
		err = why
	}
	return a, c.responseError(a, g, err)
}

// info describes a request that was sent at start, with the answer and the error that it brought.
func (g *getRequest) info(u *url.URL, start time.Time, a *answer, err error) *RequestInfo {
	i := &RequestInfo{
		URL: u, Template: cmp.Or(g.pattern, g.path, EventsPath), Types: len(g.types), Sent: start, Took: a.took,
		Status: a.status, RequestID: a.RequestID, Size: a.Size, Events: len(a.Data), Err: err,
	}
	if a.status == 0 {
		i.Took = time.Since(start)
	}
	return i
}

// tell calls the hook for the requests of an answer, whose request had failed resend times in a row
// before.
func (a *answer) tell(hook func(*RequestInfo), resend int) {
	for _, i := range []*RequestInfo{a.refused, a.request} {
		if i == nil {
			continue
		}
		i.Resend = resend
		resend++
		if hook != nil && !errors.Is(i.Err, context.Canceled) && !isNoRoom(i.Err) {
			hook(i)
		}
	}
}

// unusedAttempts is how often a request is sent whose connection ends before it is used.
const unusedAttempts = 5

// do sends a request without a body. If a server ends a connection at its first moment, as one does
// that refuses the client certificate, the end may come before its reason is read: net/http then
// says that there is no connection, or that it cannot be written to. The request has not been sent
// as a whole then, and another attempt tells the reason.
func (c *Client) do(req *http.Request) (resp *http.Response, err error) {
	for range unusedAttempts {
		resp, err = c.http.Do(req) //nolint:bodyclose // the caller does
		var op *net.OpError
		unused := errors.As(err, &op) && op.Op == "write" || err != nil && strings.Contains(err.Error(), "client conn could not be established")
		if !unused || req.Context().Err() != nil {
			break
		}
	}
	return resp, err
}

// undecodableError says in words why a body is not a page of events.
type undecodableError struct {
	text string
	err  error // of the decoder
}

func (e *undecodableError) Error() string { return e.text }
func (e *undecodableError) Unwrap() error { return e.err }

// undecodable returns why a body cannot be decoded. The words of the decoder are of use only if the
// body is JSON.
func undecodable(body []byte, err error) string {
	trimmed := bytes.TrimSpace(body)
	switch {
	case len(trimmed) == 0:
		return "the body is empty"
	case trimmed[0] == '<':
		return "it is a web page and not JSON" + beginning(body)
	case beginning(body) != "":
		return "it is not JSON" + beginning(body)
	default:
		return err.Error()
	}
}

// beginning quotes the start of a body that is not JSON at all, such as the page of a proxy. It is
// empty for others, which may hold events. The error is clipped to less when the key has been
// hidden.
func beginning(body []byte) string {
	const most = 4 << 10
	body = bytes.TrimSpace(body)
	if len(body) == 0 || body[0] == '{' || body[0] == '[' {
		return ""
	}
	return fmt.Sprintf("; it begins with %q", body[:min(len(body), most)])
}

// broken says why a request brought no response: ctx is the caller's, try the one with the
// timeouts, via what is known of the way to the API.
func (c *Client) broken(ctx context.Context, try *attempt, via *way, g getRequest, err error) error {
	switch why := try.cause(); { //nolint:contextcheck // the attempt is made from ctx
	case g.explain && errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = ctx.Err()
	case ctx.Err() != nil:
		return ctx.Err()
	case why != nil:
		err = why
	}
	return &TransportError{Host: c.host(), Proxy: via.note(), Err: via.connectError(err), path: g.path}
}

// readPage reads a response whose body has n bytes, -1 if that is not known, into a. Of more events
// than were asked for it takes the first: they are what the API would have sent if it had kept to
// the limit.
func (c *Client) readPage(a *answer, n int64, from io.Reader, opts ListEventsOpts, how reading) error {
	most := c.MaxResponse
	if most <= 0 {
		most = DefaultMaxResponse
	}
	if opts.Limit == 0 {
		opts.Limit = ResponseLimit
	}
	if how.room != nil && n > 0 && n <= most && !how.room(n) {
		return &noRoomError{need: n}
	}
	b := &body{room: how.room}
	defer b.free()
	for _, next := range [...]int64{min(earlyLook, most), most + 1} {
		err := b.fill(from, next)
		a.Size, a.took = int(b.size), time.Since(a.sent)
		if errors.Is(err, io.EOF) && b.size < n {
			err = io.ErrUnexpectedEOF
		}
		switch {
		case errors.Is(err, io.EOF) && b.size <= most:
			return a.decode(b, opts, how, false)
		case errors.Is(err, io.EOF): // larger than permitted
		case isNoRoom(err):
			return err
		case err != nil && n >= 0:
			return fmt.Errorf("it is cut off after %d of %d bytes: %w", b.size, n, err)
		case err != nil:
			return fmt.Errorf("it is cut off after %d bytes: %w", b.size, err)
		}
		if full := next > most || n > most; !how.anyList && (full || !how.count) {
			if err := a.decode(b, opts, how, true); err == nil {
				return nil
			}
		}
		if n > most {
			break
		}
	}
	return fmt.Errorf("%w of %d bytes", ErrTooLarge, most)
}

// decode decodes what has come of a body. If that is only its beginning, it must hold more events
// than were asked for.
func (a *answer) decode(b *body, opts ListEventsOpts, how reading, beginningOnly bool) error {
	if b.size >= largeBody { // of these there is one at a time, since it is in memory twice for a moment
		largeBodies.Lock()
		defer largeBodies.Unlock()
	}
	var text []byte
	if beginningOnly {
		text = b.copied()
	} else {
		text = b.bytes()
	}
	list, came, err := decodePage(text, opts.Limit, how.anyList, beginningOnly)
	if err != nil {
		return &undecodableError{text: "it cannot be decoded: " + undecodable(text, err), err: err}
	}
	if after := list.ListMetadata.After; came == 0 && after != "" && after != opts.After && !how.anyList {
		return fmt.Errorf("it holds no event, but says that others follow (after %q)", after)
	}
	if came > len(list.Data) {
		a.over = &overfull{Came: came, AtLeast: beginningOnly, Limit: opts.Limit}
	}
	a.Data, a.ListMetadata, a.held = list.Data, list.ListMetadata, len(text)
	if own := rawSize(a.Data); len(text) > pieceSize && own < len(text)/2 {
		a.Data, a.held = ownBytes(a.Data), own
	}
	return nil
}

// overfull says that a response held more events than were asked for. The first ones are used, and
// the others asked for again.
type overfull struct {
	Came    int
	AtLeast bool // there may be more than Came
	Limit   int
}

// err returns what is wrong with the response.
func (o *overfull) err(requestID string) *ResponseError {
	came := fmt.Sprint(o.Came)
	if o.AtLeast {
		came = "at least " + came
	}
	return &ResponseError{Reason: fmt.Sprintf("it holds %s events, although %d were asked for", came, o.Limit), RequestID: requestID, Err: errOverfull}
}

// errOverfull means that a response held more events than were asked for.
var errOverfull = errors.New("more events than were asked for")

// full reports whether more may follow the answer: it holds as many events as were asked for, or
// says itself that others follow.
func (a *answer) full(opts ListEventsOpts) bool {
	return len(a.Data) >= opts.Limit || len(a.Data) > 0 && a.ListMetadata.After != ""
}
