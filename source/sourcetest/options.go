package sourcetest

import (
	"net/url"
	"time"
)

// DefaultAPIKey is the key a Server accepts unless WithAPIKey names another.
const DefaultAPIKey = "sk_test_sourcetest"

type config struct {
	apiKey            string
	now               func() time.Time
	population        *Population
	lostCursor        LostCursor
	typedCursors      bool
	forms             EventForm
	ranges            RangeSupport
	rangeEndWithAfter RangeEndWithAfter
	startExclusive    bool
	endExclusive      bool
	maxRange          time.Duration
	overlap           int
	excess            int
	oldestFirst       bool
	holdBack          time.Duration
	retention         time.Duration
	latency           time.Duration
	jitter            time.Duration
	rateLimit         int
	rateWindow        time.Duration
	retryAfter        RetryAfter
	refused           []string
	refusal           func(name string) (status int, body []byte)
	queryRefusal      func(q url.Values) (status int, body []byte)
	ledger            int
	world             *WorldConfig
	deletedCursors    bool
}

// Option changes how a Server behaves. Without options it follows the documents: strict queries,
// newest first unless asked otherwise, both range bounds inclusive, 30 days a query, 400 for an
// unknown cursor; no latency, rate limit, hold-back or
// retention.
type Option func(*config)

// WithAPIKey sets the key that requests must bear.
func WithAPIKey(key string) Option { return func(c *config) { c.apiKey = key } }

// WithClock sets the clock behind the Date header, hold-back, retention, rate limit and live
// events. The default, time.Now, is the bubble's clock inside testing/synctest. Delays run on the
// runtime's timers in any case.
func WithClock(now func() time.Time) Option { return func(c *config) { c.now = now } }

// WithPopulation puts generated events at the start of the list. They are rendered when asked for
// and take no memory, unless Population.InMemory says so.
func WithPopulation(p Population) Option { return func(c *config) { c.population = &p } }

// WithLostCursor sets the answer to an unknown or expired `after` or `before`.
func WithLostCursor(how LostCursor) Option { return func(c *config) { c.lostCursor = how } }

// WithTypedCursors makes a cursor unknown to requests whose `events` lack the cursor's own type.
func WithTypedCursors() Option { return func(c *config) { c.typedCursors = true } }

// WithEventForms restricts how `events` may be written; in another form it counts as missing. The
// default is all three.
func WithEventForms(forms EventForm) Option { return func(c *config) { c.forms = forms } }

// WithRanges sets what becomes of range_start and range_end.
func WithRanges(how RangeSupport) Option { return func(c *config) { c.ranges = how } }

// WithRangeEndAfter sets what becomes of range_end beside after.
func WithRangeEndAfter(how RangeEndWithAfter) Option {
	return func(c *config) { c.rangeEndWithAfter = how }
}

// WithExclusiveRange leaves out events exactly at range_start, at range_end, or both.
func WithExclusiveRange(start, end bool) Option {
	return func(c *config) { c.startExclusive, c.endExclusive = start, end }
}

// WithMaxRange sets the longest distance from range_start to range_end; beyond it is 400. Default
// 30 days; 0 is unbounded.
func WithMaxRange(d time.Duration) Option { return func(c *config) { c.maxRange = d } }

// WithOldestFirst serves ascending with any value of `order`, as the live server has been reported
// to.
func WithOldestFirst() Option { return func(c *config) { c.oldestFirst = true } }

// WithOverlap begins every page of a request with `after` n events too early, the event of `after`
// being the last of them.
func WithOverlap(n int) Option { return func(c *config) { c.overlap = n } }

// WithExcess makes a page hold up to n events, even if fewer are asked for.
func WithExcess(n int) Option { return func(c *config) { c.excess = n } }

// WithHoldBack hides events younger than d from ascending reads.
func WithHoldBack(d time.Duration) Option { return func(c *config) { c.holdBack = d } }

// WithRetention drops events older than d from every list; their ids become unknown cursors.
func WithRetention(d time.Duration) Option { return func(c *config) { c.retention = d } }

// WithLatency delays each answer by fixed and a share of jitter that its query decides.
func WithLatency(fixed, jitter time.Duration) Option {
	return func(c *config) { c.latency, c.jitter = fixed, jitter }
}

// WithRateLimit answers 429 to all but the first n authorized requests of each window. WorkOS
// documents 6,000 in 60 s.
func WithRateLimit(n int, window time.Duration, how RetryAfter) Option {
	return func(c *config) { c.rateLimit, c.rateWindow, c.retryAfter = n, window, how }
}

// WithRefusedTypes makes names unknown from the start, as Server.RefuseTypes does later.
func WithRefusedTypes(names ...string) Option {
	return func(c *config) { c.refused = append(c.refused, names...) }
}

// WithTypeRefusal sets the answer to a request that names an unknown event type; name is the first
// such. The default is the live wording: 400 invalid_events_request with the name in single quotes.
func WithTypeRefusal(answer func(name string) (status int, body []byte)) Option {
	return func(c *config) { c.refusal = answer }
}

// WithQueryRefusal makes the server answer a query with a status and a body instead of looking at
// it, unless the status is 0.
func WithQueryRefusal(answer func(q url.Values) (status int, body []byte)) Option {
	return func(c *config) { c.queryRefusal = answer }
}

// WithLedger sets how many of the latest requests Server.Requests keeps; default 1024, 0 is none.
// Each costs as much as its query string, some 2.5 kB with every event type.
func WithLedger(n int) Option { return func(c *config) { c.ledger = n } }

// WithWorld makes the server have objects and answer for their list endpoints; see World.
func WithWorld(c WorldConfig) Option { return func(cfg *config) { cfg.world = &c } }

// WithDeletedCursorsLost makes the id of a deleted object an unknown cursor of lists. Otherwise a
// list is continued at the place where the object was.
func WithDeletedCursorsLost() Option { return func(c *config) { c.deletedCursors = true } }
