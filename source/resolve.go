package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/retry"
)

// plainness is what the API was found to refuse of the optional parameters. A stream asks without
// them from then on.
type plainness struct {
	noOrder      bool // order
	wholeSeconds bool // milliseconds in a time
	noEnd        bool // range_end
	noStart      bool // range_start
}

// order returns the parameter order of a request, empty if it is left out.
func (p *plainness) order() string {
	if p.noOrder {
		return ""
	}
	return "asc"
}

// margin is by how much a range is widened, since no document says whether it includes its own
// bounds.
func (p *plainness) margin() time.Duration {
	if p.wholeSeconds {
		return time.Second
	}
	return rangeMargin
}

// time writes a bound of a range. Without milliseconds it is up to a second too early.
func (p *plainness) time(t time.Time) string {
	if p.wholeSeconds {
		return t.UTC().Format("2006-01-02T15:04:05Z")
	}
	return t.UTC().Format(apiTime)
}

// endTime writes the end of a range. Without milliseconds it is up to a second too late.
func (p *plainness) endTime(t time.Time) string {
	if p.wholeSeconds {
		t = t.Add(time.Second - 1)
	}
	return p.time(t)
}

// canResolve reports whether further requests may tell what an answer that blames the request
// means. An answer that is not WorkOS's is first waited out.
func (r *reader) canResolve(err error) bool {
	var e *APIError
	if !errors.As(err, &e) || !isClientFault(err) {
		return false
	}
	return !e.Foreign || mayRefuseTypes(err) || r.failures.count > 0
}

// resolveRefusal finds out what an answer that blames the request means, by leaving out parts of
// the request. It returns errAskAgain, an answer after all, a *CursorLostError, or an error that
// may pass.
func (r *reader) resolveRefusal(ctx context.Context, opts ListEventsOpts, err error) (answer, error) {
	bare := ListEventsOpts{Events: opts.Events, OrganizationId: opts.OrganizationId, Limit: 1}
	var cause *APIError
	errors.As(err, &cause)
	if mayRefuseTypes(err) {
		found, err := findRefused(ctx, r.send, bare, opts.Events, r.types.onTrial(opts.Events), cause, false)
		switch {
		case err != nil:
			return answer{}, err
		case len(found.refused) > 0 && found.good:
			return answer{}, r.leaveOut(found)
		case !found.good && !cause.Foreign && cause.blamesEvents():
			return answer{}, fmt.Errorf("%w: %w", ErrAllRefused, cause)
		case !found.whole:
			return answer{}, cause
		}
	} else if refusal := r.try(ctx, bare); isClientFault(refusal) && cause.Foreign {
		return answer{}, cause
	} else if refusal != nil {
		return answer{}, refusal
	}
	// The optional parameters are to blame, or the refusal has passed.
	least := bare
	least.After, least.RangeStart, least.RangeEnd = opts.After, opts.RangeStart, opts.RangeEnd
	if refusal := r.try(ctx, least); refusal != nil {
		if !isClientFault(refusal) {
			return answer{}, refusal
		}
		if opts.After != "" {
			return answer{}, r.cursorRefused(refusal)
		}
		return answer{}, r.resolveRange(ctx, least, refusal)
	}
	a, err := r.send(ctx, opts)
	if err == nil || !isClientFault(err) {
		return a, err
	}
	return answer{}, r.resolveOrderOrLimit(ctx, least, opts, err)
}

// try makes a request and returns why it is refused, nil if it is not.
func (r *reader) try(ctx context.Context, opts ListEventsOpts) error {
	_, err := r.send(ctx, opts)
	if errors.Is(err, ErrTooLarge) { // an event was there to be read
		return nil
	}
	return err
}

// resolveOrderOrLimit finds out which of order and limit the API refuses. least is a request
// without them that it accepts.
func (r *reader) resolveOrderOrLimit(ctx context.Context, least, opts ListEventsOpts, err error) error {
	if opts.Order != "" {
		ordered := least
		ordered.Order = opts.Order
		switch refusal := r.try(ctx, ordered); {
		case refusal == nil:
		case !isClientFault(refusal):
			return refusal
		default:
			r.plain.noOrder, r.noRanges = true, false
			r.without("order", refusal)
			return errAskAgain
		}
	}
	if opts.Limit > 1 {
		r.limit = opts.Limit / 2
		r.maxLimit = r.limit
		r.log.Warn("the Events API refuses the limit; asking for fewer events at a time", zap.Int("limit", r.limit), zap.Error(err))
		return errAskAgain
	}
	return err
}

// resolveRange finds a way to write the bounds of a range that the API accepts. Events before the
// start are cut off in any case.
func (r *reader) resolveRange(ctx context.Context, least ListEventsOpts, err error) error {
	open := least
	open.RangeEnd = ""
	for _, step := range []struct {
		applies bool
		set     *bool
		opts    ListEventsOpts
		name    string
	}{
		{!r.plain.wholeSeconds, &r.plain.wholeSeconds, r.inSeconds(least), "milliseconds of a time"},
		{least.RangeEnd != "", &r.plain.noEnd, open, "range_end"},
	} {
		if !step.applies {
			continue
		}
		switch refusal := r.try(ctx, step.opts); {
		case refusal == nil:
			*step.set = true
			r.without(step.name, err)
			return errAskAgain
		case !isClientFault(refusal):
			return refusal
		}
	}
	if least.RangeStart == "" {
		return err
	}
	r.plain.noStart = true
	r.without("range_start", err)
	return errAskAgain
}

// inSeconds returns opts with the bounds of its range in whole seconds.
func (r *reader) inSeconds(opts ListEventsOpts) ListEventsOpts {
	seconds := plainness{wholeSeconds: true}
	for _, bound := range []*string{&opts.RangeStart, &opts.RangeEnd} {
		if t, err := time.Parse(apiTime, *bound); err == nil {
			*bound = seconds.time(t)
		}
	}
	return opts
}

// without says that a parameter is left out from now on.
func (r *reader) without(parameter string, err error) {
	r.log.Warn("the Events API refuses an optional parameter; going on without it", zap.String("parameter", parameter), zap.Error(err))
}

const (
	// cursorLimit is how long the API must refuse the cursor, in words that name it, before that
	// counts. Another refusal must stand for refusedLimit.
	cursorLimit = 15 * time.Second
	// cursorRounds is how often it must refuse it.
	cursorRounds = 3
)

// cursorDoubt is what speaks for a lost cursor.
type cursorDoubt struct {
	id     string
	since  time.Time
	rounds int
}

// cursorRefused returns the error for a request with a cursor that is refused, while the same
// request without it succeeds.
func (r *reader) cursorRefused(refusal error) error {
	e := &CursorLostError{
		Position: r.pos,
		Reason:   "it refuses the event id, while the same request without it succeeds; the event may have expired, or its type may no longer be among those asked for",
		Err:      refusal,
	}
	var api *APIError
	if errors.As(refusal, &api) {
		e.RequestID = api.RequestID
	}
	return e
}

// doubtCursor waits before the next request if the cursor was not yet refused for long enough. It
// returns lost if it was.
func (r *reader) doubtCursor(ctx context.Context, opts ListEventsOpts, lost error) error {
	var refusal *APIError
	if !errors.As(lost, &refusal) || r.impatient {
		return lost
	}
	d := &r.doubt
	if d.id != opts.After {
		*d = cursorDoubt{id: opts.After, since: time.Now()}
	}
	d.rounds++
	limit := refusedLimit
	if refusal.isWorkOS() && refusal.blamesCursor(opts.After) {
		limit = cursorLimit
	}
	left := limit - time.Since(d.since)
	if left <= 0 && d.rounds >= cursorRounds {
		return lost
	}
	wait := min(retry.Backoff{First: time.Second, Most: slowFirst}.Full(d.rounds), max(left, time.Second))
	r.reportRetry(refusal, RetryRefused, d.rounds, wait)
	return retry.Sleep(ctx, wait)
}
