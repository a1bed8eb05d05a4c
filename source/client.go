package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-querystring/query"
	"golang.org/x/time/rate"

	"workos-relay/internal/retry"
	"workos-relay/source/common"
)

const (
	// ResponseLimit is the number of events that ListEvents asks for if ListEventsOpts.Limit is
	// zero.
	ResponseLimit = 10
	// MaxLimit is the most that the Events API gives in one response.
	MaxLimit = 100
	// EventsPath is the path of the Events API, below the endpoint.
	EventsPath = "/events"
	// DefaultEndpoint is the address of WorkOS's API.
	DefaultEndpoint = "https://api.workos.com"
	// DefaultMaxResponse bounds a response, in bytes, if Client.MaxResponse is zero.
	DefaultMaxResponse = 32 << 20
	// DefaultTimeout bounds one request, until its response is read, if Client.Timeout is zero.
	DefaultTimeout = 60 * time.Second
)

// EventList says how the list of event types is written in the query. All three forms are in use
// among WorkOS's own clients.
type EventList string

// The forms of EventList.
const (
	EventListComma    EventList = "comma"    // events=a,b: the OpenAPI specification and the Node SDK
	EventListRepeat   EventList = "repeat"   // events=a&events=b: the Go and Ruby SDKs; the default of a Client
	EventListBrackets EventList = "brackets" // events[]=a&events[]=b: older clients and WorkOS's emulators
)

// defaultUserAgent also names the SDK, since servers that test programs written for it look for
// that.
const defaultUserAgent = "workos-relay (workos-go/4)"

// DefaultClient is the client of SetAPIKey and of the function ListEvents.
var DefaultClient = &Client{Endpoint: DefaultEndpoint}

// SetAPIKey sets the API key of DefaultClient. Call it before any request.
func SetAPIKey(apiKey string) { DefaultClient.APIKey = apiKey }

// ListEvents asks for one page of events with DefaultClient.
func ListEvents(ctx context.Context, opts ListEventsOpts) (ListEventsResponse, error) {
	return DefaultClient.ListEvents(ctx, opts)
}

// Client asks the WorkOS Events API. Its fields are set before the first request and not changed
// afterwards; it is then safe for concurrent use. Printing it never shows the key.
type Client struct {
	APIKey string // sk_...; belongs to one environment of WorkOS
	// Key, if not nil, returns the key to send instead of APIKey, so that it may change while the
	// client is in use. It is called before each request, and with refused set after the API has
	// refused the key, to look whether there is a newer one; such a request is repeated once. It
	// must not block, and may be called concurrently.
	Key func(refused bool) string

	// HTTPClient sends the requests. It is used as it is, except that redirects are followed only
	// on the same scheme and host: the key is for the endpoint alone. If nil, the client has
	// its own connections, which it checks and replaces when one stalls.
	HTTPClient *http.Client
	// Roots, if not nil, returns the authorities to trust; a nil pool stands for the system's. It
	// is called before each request, and returns the same pool until they change; then new
	// connections are made. It is not called if there is an HTTPClient.
	Roots func() *x509.CertPool
	// Certificate, if not nil, returns the client certificate to present to a server that asks for
	// one; nil stands for none. It is called like Roots.
	Certificate func() *tls.Certificate
	// Proxy, if not nil, returns the proxy of the next request: a URL of the scheme http, https,
	// socks5 or socks5h, with user and password if the proxy asks for them. If it is nil or returns
	// nil, the variables HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment decide, as for
	// http.ProxyFromEnvironment. It is called like Roots: it returns the same URL until the proxy
	// changes.
	Proxy    func() *url.URL
	Endpoint string // DefaultEndpoint if empty; without the path /events

	EventList   EventList // EventListRepeat if empty
	MaxResponse int64     // bytes of one response, decompressed; DefaultMaxResponse if zero
	// Timeout bounds one request with its response; DefaultTimeout if zero. A response that brings
	// no data for 15 s is given up earlier, and, without an HTTPClient, a request whose response
	// has not begun after 30 s.
	Timeout time.Duration
	Limiter *rate.Limiter // one token per request, shared by every stream of the client; nil for no limit
	// Pace, if not nil, is called before each request, before it takes a token of Limiter, and
	// returns once the request may be made, or with the error of ctx. With it a client gives way to
	// others that share its Limiter. It may be called concurrently.
	Pace  func(ctx context.Context) error
	Polls *PollBudget // of early polls, see Stream.FastestPoll; nil for one of this client's own
	// OnRequest, if not nil, is called before each request is sent, those included that repeat one
	// or follow a redirect. It must not block, and may be called concurrently.
	OnRequest func()
	UserAgent string // workos-relay if empty

	dial  func(ctx context.Context, network, address string) (net.Conn, error) // of tests
	tls   *tls.Config
	keys  keys
	types typesInQuery

	ownPolls PollBudget

	once sync.Once
	http *http.Client
	own  *connections // nil with an HTTPClient
}

// String names the client by its endpoint.
func (c *Client) String() string { return "Events API at " + c.host() }

// GoString keeps the key out of %#v.
func (c *Client) GoString() string { return c.String() }

// ListEventsOpts is the query of one request. Empty fields are left out of it.
type ListEventsOpts struct {
	Events         []string `url:"events"` // required by the API; written as Client.EventList says
	Limit          int      `url:"limit"`
	After          string   `url:"after,omitempty"`           // an event id; not together with RangeStart
	Before         string   `url:"before,omitempty"`          // an event id
	RangeStart     string   `url:"range_start,omitempty"`     // ISO 8601
	RangeEnd       string   `url:"range_end,omitempty"`       // ISO 8601, at most 30 days after RangeStart
	OrganizationId string   `url:"organization_id,omitempty"` //nolint:revive // the name that the SDK has
	Order          string   `url:"order,omitempty"`           // asc, desc or normal
}

// ListMetadata holds the cursors of a page.
type ListMetadata = common.ListMetadata

// ListEventsResponse is one page.
type ListEventsResponse struct {
	Data         []Event      `json:"data"`
	ListMetadata ListMetadata `json:"list_metadata"`
}

// ListEvents makes one request, after waiting for the Limiter, and repeats nothing. As with the
// SDK, Event.Raw is empty and the list need not say that it is one; a Stream is strict and has the
// bytes. Besides ctx.Err(), its errors are *APIError (an answer other than 200), *ResponseError (an
// answer that cannot be used), *TransportError (no answer), and what matches ErrMisconfigured
// (nothing was sent).
func (c *Client) ListEvents(ctx context.Context, opts ListEventsOpts) (ListEventsResponse, error) {
	if _, err := c.wait(ctx); err != nil {
		return ListEventsResponse{}, err
	}
	a, err := c.fetchAs(ctx, opts, reading{anyList: true})
	for i := range a.Data {
		a.Data[i].Raw = nil
	}
	return a.ListEventsResponse, err
}

// wait takes a token of the limiter and returns how long that took.
func (c *Client) wait(ctx context.Context) (time.Duration, error) {
	if c.Pace != nil {
		if err := c.Pace(ctx); err != nil {
			return 0, err
		}
	}
	if c.Limiter == nil {
		return 0, ctx.Err()
	}
	res := c.Limiter.Reserve()
	if !res.OK() {
		return 0, misconfigured("the rate limit lets no request through")
	}
	d := res.Delay()
	if err := retry.Sleep(ctx, d); err != nil {
		res.Cancel()
		return 0, err
	}
	return d, nil
}

func (c *Client) init() {
	if c.HTTPClient != nil {
		given := *c.HTTPClient
		c.http = &given
	} else {
		c.own = &connections{dial: c.dial, tls: c.tls, roots: c.Roots, cert: c.Certificate, proxy: c.Proxy}
		c.http = &http.Client{Transport: c.own}
	}
	next := c.http.CheckRedirect
	c.http.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		first := via[0].URL
		if req.URL.Scheme != first.Scheme || req.URL.Host != first.Host || len(via) >= 10 {
			return http.ErrUseLastResponse
		}
		if _, err := c.wait(req.Context()); err != nil {
			return err
		}
		if next != nil {
			if err := next(req, via); err != nil {
				return err
			}
		}
		c.sends()
		return nil
	}
}

// sends tells OnRequest of a request.
func (c *Client) sends() {
	if c.OnRequest != nil {
		c.OnRequest()
	}
}

// CloseIdleConnections closes the connections that the client keeps for later requests.
func (c *Client) CloseIdleConnections() {
	c.once.Do(c.init)
	c.http.CloseIdleConnections()
}

func (c *Client) endpoint() string {
	if c.Endpoint == "" {
		return DefaultEndpoint
	}
	return strings.TrimRight(c.Endpoint, "/")
}

func (c *Client) host() string {
	u, err := url.Parse(c.endpoint())
	if err != nil || u.Host == "" {
		return "an endpoint that is not a URL"
	}
	return u.Host
}

// request builds the request, or says what in the client's fields is at fault.
func (c *Client) request(ctx context.Context, g getRequest) (*http.Request, error) {
	key := c.key(false)
	if key == "" {
		return nil, misconfigured("there is no API key; set WORKOS_API_KEY or source.api_key")
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, misconfigured("the API key holds a space, a line break or another character that no key has; was it copied whole?")
	}
	path := g.path
	if path == "" {
		path = EventsPath
	}
	u, err := url.Parse(c.endpoint() + path)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, misconfigured("the endpoint is not an http or https URL; the default is " + DefaultEndpoint)
	}
	if u.RawQuery, err = g.query(); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, misconfigured("the request cannot be built")
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", defaultUserAgent)
	if c.UserAgent != "" {
		req.Header.Set("User-Agent", c.UserAgent)
	}
	return req, nil
}

func (c *Client) query(opts ListEventsOpts) (string, error) {
	if opts.Limit == 0 {
		opts.Limit = ResponseLimit
	}
	types, err := c.types.encode(opts.Events, c.EventList)
	if err != nil {
		return "", err
	}
	opts.Events = nil
	values, err := query.Values(opts)
	if err != nil {
		return "", misconfigured("the query cannot be written: " + err.Error())
	}
	return types + values.Encode(), nil
}

// typesInQuery is the part of a query that names event types. They are more than a hundred and
// nearly always the same from request to request, so the last ones are kept encoded. It is safe for
// concurrent use.
type typesInQuery struct {
	mu      sync.Mutex
	types   []string
	form    EventList
	encoded string
}

// encode returns types in the given form with an & behind, or "" if there are none.
func (q *typesInQuery) encode(types []string, form EventList) (string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.encoded != "" && form == q.form && slices.Equal(types, q.types) {
		return q.encoded, nil
	}
	var values url.Values
	switch form {
	case EventListComma:
		values = url.Values{"events": {strings.Join(types, ",")}}
	case EventListRepeat, "":
		values = url.Values{"events": types}
	case EventListBrackets:
		values = url.Values{"events[]": types}
	default:
		return "", misconfigured(fmt.Sprintf("%q is not a form of the event list; there are comma, repeat and brackets", form))
	}
	if len(types) == 0 {
		return "", nil
	}
	q.types, q.form, q.encoded = slices.Clone(types), form, values.Encode()+"&"
	return q.encoded, nil
}

func misconfigured(why string) error { return fmt.Errorf("%w: %s", ErrMisconfigured, why) }
