package source

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/retry"
)

const (
	// minPollGap is the least time between two polls at the tip, also with many calls of Wake.
	minPollGap = 25 * time.Millisecond
	// rangeMargin widens range_start, since no document says whether it includes its own instant.
	rangeMargin = time.Millisecond
	// maxRange stays under the 30 days that one query with a range may span.
	maxRange = 29 * 24 * time.Hour
	// heldBack is well over the seconds for which the API keeps new events back: older stretches
	// that were empty stay so.
	heldBack = 5 * time.Minute
	// growAfter is the number of good pages after which a limit that was halved is doubled again.
	growAfter = 10
	// apiTime is how times are written in a query.
	apiTime = "2006-01-02T15:04:05.000Z"
)

// reader is one cursor over the source: the state of one call of Pages. It is used by one
// goroutine.
type reader struct {
	retrier
	s *Stream

	pos   checkpoint.Position // the last event read, or where to begin
	from  time.Time           // lower bound of the next request by time; in use only while pos has no event id
	floor time.Time           // events older than this are left out until one is not; zero once there was one
	types *typeSet
	seen  *recentIDs
	odd   map[string]bool // types that came unasked and were reported

	limit, maxLimit int
	goodPages       int // since limit was last changed

	polled time.Time // when the last response came; zero before the first
	atTip  bool
	gap    time.Duration // to the next poll at the tip, as far as the client's PollBudget permits it
	wake   <-chan struct{}
	now    time.Time // the API's clock at polled
	doubt  cursorDoubt
	plain  plainness
	quiet  atomic.Pointer[time.Time] // what quietUntil returns

	silentUntil time.Time // when checkSilence is due again; zero at the start

	seenTo     time.Time // by the API's clock: every event created before it was read or is left to Checkpoint.Refused; zero if unknown
	proven     time.Time // local time when seenTo was last found to hold
	tip        string    // the last event after which the API said that nothing follows
	trail      *trail
	anchor     *anchor // nil unless the cursor is lost
	lostInRow  int     // cursors lost since the last good page
	lostTold   time.Time
	stuck      int       // pages in a row that brought nothing new and no way to go on
	repeatTold time.Time // when repeated events were last reported
	checked    bool      // checkStart was done

	overfullTold time.Time // when a response with too many events was last reported

	left      []checkpoint.Refused // the types of which events are missing; replaced, never changed in place
	work      *lateWork            // nil unless late events are being read
	lateTurn  bool
	joining   []string             // types that take part again and still count as refused
	joinUntil map[string]time.Time // events of these types created before are late

	full      bool          // the last page held as many events as were asked for
	perPage   time.Duration // what it spanned
	pageCost  int64         // what it kept in memory
	noRanges  bool          // the API does not answer by time as a backfill needs
	calmUntil time.Time     // no backfill before
	// contradictions counts the backfills in a row that met one.
	contradictions int
}

func newReader(s *Stream, cp checkpoint.Checkpoint) (*reader, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	after := cp.Position
	r := &reader{
		s: s, retrier: retrier{client: s.Client, log: s.Logger}, wake: s.Wake,
		pos: after, from: after.CreatedAt, floor: after.CreatedAt,
		types: newTypeSet(s.Events), seen: newRecentIDs(recentCount), odd: map[string]bool{},
		limit:  s.Limit,
		seenTo: cp.Seen, trail: newTrail(recentCount, cp.Recent.Seeded(after)),
	}
	r.place = func() zap.Field { return zap.Stringer("after", r.pos) }
	if r.client == nil {
		r.client = DefaultClient
	}
	if s.Hooks != nil {
		r.hooks = *s.Hooks
	}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	if r.limit == 0 {
		r.limit = MaxLimit
	}
	r.maxLimit = r.limit
	r.gap = r.interval()
	if after.EventID != "" {
		r.floor = time.Time{}
		r.seen.add(after.EventID)
		for _, p := range cp.Recent.Events {
			r.seen.add(p.EventID)
		}
	}
	r.resumeRefused(cp.Refused)
	return r, nil
}

// next returns the next page to yield.
func (r *reader) next(ctx context.Context) (Page, error) {
	for {
		if r.work == nil {
			if err := r.tryRefused(ctx); err != nil {
				return Page{}, err
			}
		}
		if r.lateFirst() {
			page, err := r.late(ctx)
			if err != nil && !errors.Is(err, errAskAgain) {
				return Page{}, err
			} else if len(page.Events) > 0 {
				return page, nil
			}
			continue
		}
		if len(r.types.active) == 0 && r.impatient {
			return Page{}, ErrAllRefused
		}
		if len(r.types.active) == 0 { // they were refused before this stream began
			if err := retry.Sleep(ctx, r.interval()); err != nil {
				return Page{}, err
			}
			continue
		}
		if err := r.waitToPoll(ctx); err != nil {
			return Page{}, err
		}
		page, err := r.poll(ctx)
		var lost *CursorLostError
		switch {
		case err == nil:
		case errors.As(err, &lost):
			if err := r.reanchor(ctx, lost); err != nil {
				return Page{}, err
			}
		default:
			return Page{}, err
		}
		if page.Tip || len(page.Events) > 0 {
			return page, nil
		}
	}
}

// poll asks for the next page once and checks it. The page may be empty.
func (r *reader) poll(ctx context.Context) (Page, error) {
	a, opts, err := r.exchange(ctx)
	if err != nil {
		return Page{}, err
	}
	if !r.checked {
		if err := r.checkStart(ctx, a, opts); err != nil {
			return Page{}, err
		}
		r.checked = true
	}
	if err := r.checkSilence(ctx, a, opts); err != nil {
		return Page{}, err
	}
	page, err := r.accept(a, opts)
	if errors.Is(err, errNothingNew) {
		return Page{}, r.askAgain(ctx, a)
	}
	if err == nil {
		r.stuck = 0
	}
	if err == nil && opts.After != "" {
		r.lostInRow = 0
	}
	return page, err
}

// waitToPoll waits until the next poll is due: at the tip PollInterval, or less while events come,
// and elsewhere the silence that a backfill was asked for.
func (r *reader) waitToPoll(ctx context.Context) error {
	if !r.atTip {
		return retry.Sleep(ctx, time.Until(r.quietUntil()))
	}
	interval, polls := r.interval(), r.client.polls()
	due := r.polled.Add(interval)
	at, early := polls.reserve(r.polled.Add(r.gap), due)
	paid := early
	call(r.hooks.OnWait, WaitInfo{Wait: at.Sub(r.polled)})
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			if early && !r.client.mayPollEarly() {
				early = false
				call(r.hooks.OnWait, WaitInfo{Wait: interval})
				timer.Reset(time.Until(due))
				continue
			}
		case _, ok := <-r.wake:
			if !ok {
				r.wake = nil
				continue
			}
			if err := retry.Sleep(ctx, min(interval, minPollGap)-time.Since(r.polled)); err != nil {
				return err
			}
		}
		if !paid {
			polls.spend(interval)
		}
		return nil
	}
}

// setGap sets the time to the next poll at the tip after a page that brought events, or none.
func (r *reader) setGap(events bool) {
	if fastest := r.s.FastestPoll; events && fastest > 0 {
		r.gap = min(fastest, r.interval())
	} else {
		r.gap = min(2*r.gap, r.interval())
	}
}

// interval is the most time between two polls at the tip.
func (r *reader) interval() time.Duration {
	if r.s.PollInterval <= 0 {
		return DefaultPollInterval
	}
	return r.s.PollInterval
}

// quietUntil is when the silence ends that a backfill was asked for; zero if it never was. The
// requests of a backfill read it while they wait for their turn.
func (r *reader) quietUntil() time.Time {
	if t := r.quiet.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// options is the query of the next request.
func (r *reader) options() ListEventsOpts {
	opts := r.query(r.types.active)
	switch {
	case r.anchor != nil && r.anchor.after != "":
		opts.After = r.anchor.after
	case r.pos.EventID != "" && r.anchor == nil:
		opts.After = r.pos.EventID
	case !r.from.IsZero() && !r.plain.noStart:
		opts.RangeStart = r.plain.time(r.from.Add(-r.plain.margin()))
		if end := r.from.Add(maxRange); end.Before(r.clock().Add(-heldBack)) && !r.plain.noEnd {
			opts.RangeEnd = r.plain.time(end)
		}
	}
	return opts
}

// query is a query for events of these types, without a place to begin.
func (r *reader) query(types []string) ListEventsOpts {
	return ListEventsOpts{Events: types, Limit: r.limit, Order: r.plain.order(), OrganizationId: r.s.OrganizationID}
}

// clock is the API's clock as last seen and run on, or the local one before any answer.
func (r *reader) clock() time.Time {
	if r.now.IsZero() {
		return time.Now()
	}
	return r.now.Add(time.Since(r.polled))
}

// accept checks a page against the position, moves the position to its end, and returns what of it
// is to be yielded.
func (r *reader) accept(a answer, opts ListEventsOpts) (Page, error) {
	came, full := len(a.Data), a.full(opts)
	if err := r.checkOrder(a, full); err != nil {
		return Page{}, err
	}
	if r.anchor != nil {
		if err := r.leaveOutOld(&a, opts); err != nil {
			return Page{}, err
		}
	}
	first := firstPosition(a.Data).EventID
	if err := r.leaveOutRepeated(&a, opts); err != nil {
		return Page{}, err
	}
	if err := r.checkCursor(a, opts, first); err != nil {
		return Page{}, err
	}
	r.countInversions(a.Data)
	r.reportUnexpected(a.Data)
	r.s.payloads.compare(a.Data, &r.hooks, r.log)
	events := r.expected(r.cutFloor(a.Data))
	r.atTip = !full && opts.RangeEnd == ""
	r.full = full
	r.setGap(len(events) > 0)
	if n := len(a.Data); n > 0 {
		r.passed(a.Data)
		r.pos = a.Data[n-1].Position()
		r.perPage, r.pageCost = r.pos.CreatedAt.Sub(a.Data[0].CreatedAt), pageCost(a.Data, a.held)
		r.growLimit()
	} else if opts.RangeEnd != "" && !full {
		r.from = r.from.Add(maxRange) // nothing in this stretch: on to the next one
	}
	page := Page{Events: events, Tip: r.atTip, Now: r.clock().UTC(), Size: a.held, RequestID: a.RequestID, Sent: a.sent, Took: a.took, Request: a.request}
	if r.atTip {
		if !a.Date.IsZero() && (came > 0 || opts.After == "") { // an empty answer to a cursor proves nothing, see checkSilence
			r.sawAll(a.Date.Add(-heldBack))
		}
		if came > 0 || opts.After == "" {
			r.tip = r.pos.EventID
		}
		page.Seen = r.seenTo
	}
	return r.joined(page), nil
}

// cutFloor leaves out the events before the time at which the stream begins. Once one is not older,
// order alone decides.
func (r *reader) cutFloor(events []Event) []Event {
	if r.floor.IsZero() {
		return events
	}
	for i := range events {
		if !events[i].CreatedAt.Before(r.floor) {
			r.floor = time.Time{}
			return events[i:]
		}
	}
	return nil
}

// shrinkLimit halves the limit after a response that was too large. If the limit is 1 already, err
// becomes final.
func (r *reader) shrinkLimit(opts ListEventsOpts, err error) error {
	r.goodPages = 0
	if opts.Limit <= 1 {
		return operator.Require(fmt.Errorf("the event that follows %s cannot be read: %w", r.pos, err),
			actOnTooLarge+", or move past it")
	}
	r.limit = opts.Limit / 2
	r.log.Warn("a response was larger than permitted; asking for fewer events at a time",
		zap.Int("limit", r.limit), zap.Stringer("after", r.pos), zap.Error(err))
	return nil
}

// isSlow reports whether err is of an answer that came in time but did not end in time.
func isSlow(err error) bool {
	var e *ResponseError
	return errors.As(err, &e) && errors.Is(err, errNoAnswer)
}

// halveLimit asks for fewer events at a time, since so many do not arrive within the timeout.
func (r *reader) halveLimit(opts ListEventsOpts, err error) {
	if r.goodPages = 0; opts.Limit > 1 {
		r.limit = opts.Limit / 2
		r.log.Warn("a response did not arrive in time; asking for fewer events at a time",
			zap.Int("limit", r.limit), zap.Stringer("after", r.pos), zap.Error(err))
	}
}

// growLimit doubles a limit that was halved after a while of good pages.
func (r *reader) growLimit() {
	if r.limit == r.maxLimit {
		return
	}
	if r.goodPages++; r.goodPages >= growAfter {
		r.goodPages = 0
		r.limit = min(2*r.limit, r.maxLimit)
	}
}

// send makes one request and tells the hooks.
func (r *reader) send(ctx context.Context, opts ListEventsOpts) (answer, error) {
	waited, err := r.client.wait(ctx)
	var a answer
	if err == nil {
		a, err = r.client.fetchAs(ctx, opts, reading{count: r.countOverfull()})
	}
	r.sent(a, waited, r.failures.count)
	return a, err
}

// sent tells the hooks of a request that had failed resend times in a row before.
func (r *reader) sent(a answer, waited time.Duration, resend int) {
	a.tell(r.hooks.OnRequest, resend)
	if waited > 0 {
		call(r.hooks.OnLimiterWait, LimiterWaitInfo{Wait: waited})
	}
	if a.status != 0 {
		call(r.hooks.OnResponse, ResponseInfo{Status: a.status, Duration: a.took, Bytes: a.Size, Events: len(a.Data), Now: a.Date})
	}
	if a.over != nil {
		r.noteOverfull(a)
	}
}

// exchange gets the next page, however long that takes, and returns it with the query that it
// answers. Its errors are final.
func (r *reader) exchange(ctx context.Context) (answer, ListEventsOpts, error) {
	for {
		opts := r.options()
		a, err := r.send(ctx, opts)
		if err != nil && ctx.Err() == nil && r.canResolve(err) {
			a, err = r.resolveRefusal(ctx, opts, err)
		}
		switch {
		case err == nil:
			r.setClock(a)
			r.recovered()
			return a, opts, nil
		case ctx.Err() != nil:
			return answer{}, opts, ctx.Err()
		case errors.Is(err, errAskAgain):
		case errors.Is(err, ErrTooLarge):
			if err := r.shrinkLimit(opts, err); err != nil {
				return answer{}, opts, err
			}
		case errors.Is(err, ErrCursorLost):
			if err := r.doubtCursor(ctx, opts, err); err != nil {
				return answer{}, opts, err
			}
		default:
			r.gap = r.interval()
			if isSlow(err) {
				r.halveLimit(opts, err)
			}
			if err := r.backOff(ctx, err); err != nil {
				return answer{}, opts, err
			}
		}
	}
}

// setClock sets the clock by an answer, which may have come a while ago.
func (r *reader) setClock(a answer) {
	r.polled, r.now = a.sent.Add(a.took), a.Date
	if r.now.IsZero() {
		r.now = r.polled
	}
}

// errAskAgain: the request has been changed and is made again at once.
var errAskAgain = errors.New("ask again")
