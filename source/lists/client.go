package lists

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"workos-relay/source"
)

var (
	// ErrNotFound means that WorkOS itself says that an object does not exist.
	ErrNotFound = errors.New("WorkOS has no such object")
	// ErrGone means that the object that a list belongs to does not exist any more, and the list
	// with it. The error is a *GoneError.
	ErrGone = errors.New("what the list belongs to was deleted")
	// ErrNotContinued means that WorkOS does not continue a list after what it has sent, again and
	// again, so that its end cannot be reached. A later attempt from the start may.
	ErrNotContinued = errors.New("WorkOS does not continue a list")
	// ErrNoGet means that no endpoint gives one object of the entity.
	ErrNoGet = errors.New("WorkOS gives no single object of this kind")
)

// GoneError says which parent of a list was deleted. It matches ErrGone.
type GoneError struct {
	Entity string // of the list
	Parent string // the parent's id
	Err    error  // the API's answer
}

// Error implements error.
func (e *GoneError) Error() string {
	return fmt.Sprintf("the list of %s objects of %s is gone: %v", e.Entity, e.Parent, e.Err)
}

// Unwrap returns the API's answer.
func (e *GoneError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrGone) hold.
func (*GoneError) Is(target error) bool { return target == ErrGone }

// Client reads lists. It is safe for concurrent use. Readers that run at the same time share one
// Client, so that all of them wait when the API asks one of them to.
type Client struct {
	Getter *source.Getter
	Limit  int // objects per request, 1 to source.MaxLimit; source.MaxLimit if zero
	// Patience returns how long a request that is made now may be refused; see
	// source.GetRequest.Patience. Nil is a Patience that returns 0.
	Patience func() time.Duration

	small smallPages
}

// Query says what to read.
type Query struct {
	Entity string
	// Parents are the ids of the objects that the list belongs to, as Endpoint.Parents names them.
	// The parents of a list are the parents of the object that it belongs to, and the object's id.
	Parents []string
	// Parent is that object as it was listed, if it is available. It becomes a part of Object.Data
	// of a directory_group_membership.
	Parent []byte
	After  Cursor // empty to begin
}

// Page is a part of a list.
type Page struct {
	Objects []Object // they alias the response
	Next    Cursor   // what to continue at; empty if the list has ended
	// Restarted means that the API did not know the cursor any more, and that the list is read
	// again from its start, or from a place before the cursor. Objects come that have come before.
	Restarted bool
	Size      int       // bytes of the response
	Now       time.Time // the API's clock; zero if the response had no Date header
	RequestID string
}

// Pages reads a list from a query's cursor to its end. An error is the last thing that it yields;
// its errors are those of Page.
func (c *Client) Pages(ctx context.Context, q Query) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		for {
			p, err := c.Page(ctx, q)
			if err != nil {
				yield(Page{}, err)
				return
			}
			if !yield(p, nil) || p.Next == "" {
				return
			}
			q.After = p.Next
		}
	}
}

// Page reads one page. It repeats requests as source.Getter.Get does and has the same errors, and
// ErrGone and ErrNotContinued. An object that belongs to another list is left out.
//
// If the API does not know the cursor any more, for example because its object was deleted, Page
// continues after an earlier object of the page before, or from the start of the list. It does the
// same if the API seems to have ignored the cursor, or to have said too early that nothing follows
// it.
func (c *Client) Page(ctx context.Context, q Query) (Page, error) {
	e, err := q.endpoint()
	if err != nil {
		return Page{}, err
	}
	after, err := parseCursor(q.After)
	if err != nil {
		return Page{}, fmt.Errorf("read the list of %s objects: %w", q.Entity, err)
	}
	r := reading{c: c, e: &e, q: q}
	return r.page(ctx, after)
}

// endpoint returns the endpoint of a query.
func (q *Query) endpoint() (Endpoint, error) {
	e, ok := Lookup(q.Entity)
	switch {
	case !ok:
		return e, fmt.Errorf("WorkOS has no list of %q objects", q.Entity)
	case len(q.Parents) != len(e.Parents) || slices.Contains(q.Parents, ""):
		return e, fmt.Errorf("a list of %s objects belongs to [%s], not to %q", q.Entity, strings.Join(e.Parents, ", "), q.Parents)
	}
	return e, nil
}

// reading is one page that is being read.
type reading struct {
	c *Client
	e *Endpoint
	q Query
}

// maxSetbacks is how often the API may lose the cursor of a list without coming past that place,
// before that counts as an error.
const maxSetbacks = 3

func (r *reading) page(ctx context.Context, after cursor) (Page, error) {
	for i, place := range after.places {
		l, err := r.fetch(ctx, place.id, after.setbacks)
		switch {
		case isRefused(err):
			continue // a request without the cursor tells whether it is to blame
		case err != nil:
			return Page{}, err
		}
		ok, err := r.follows(ctx, l, after, place)
		switch {
		case err != nil:
			return Page{}, err
		case !ok:
			continue
		case i == 0:
			return r.result(l, after, false), nil
		}
		if err := r.setBack(&after); err != nil {
			return Page{}, err
		}
		return r.result(l, after, true), nil
	}
	if len(after.places) > 0 {
		if err := r.setBack(&after); err != nil {
			return Page{}, err
		}
	}
	l, err := r.fetch(ctx, "", after.setbacks)
	if err != nil {
		return Page{}, r.gone(err)
	}
	return r.result(l, after, len(after.places) > 0), nil
}

// setBack takes note that the list is not continued at its cursor.
func (r *reading) setBack(c *cursor) error {
	if c.setbacks++; c.setbacks > maxSetbacks {
		return fmt.Errorf("read the list of %s objects: %w: it does not come past %s, and it was tried %d times",
			r.q.Entity, ErrNotContinued, c.places[0].id, maxSetbacks)
	}
	if c.places[0].created.After(c.reached) {
		c.reached = c.places[0].created
	}
	return nil
}

// follows reports whether a page may be what follows a place of the list. It is not if it ends
// where the page before ended, or begins with an object that is older and does not lead past the
// place, as when the API ignored the cursor. If it is empty, the newest object of the list is
// looked at, which must not be newer than the place. What was created within the last minute does
// not count: an API may show it in one list before the other, and its events have yet to come.
func (r *reading) follows(ctx context.Context, l *list, c cursor, p place) (bool, error) {
	if n := len(l.places); n > 0 {
		first, overlaps := l.places[0].created, slices.ContainsFunc(l.places, func(q place) bool { return q.id == p.id })
		older := !p.created.IsZero() && !first.IsZero() && p.created.Sub(first) > maxStepBack
		return l.places[n-1].id != p.id && (p != c.places[0] || !c.has(l.places[n-1].id)) && (overlaps || !older), nil
	}
	newest, err := r.ask(ctx, url.Values{"order": {"desc"}, "limit": {"1"}})
	if err != nil {
		return false, r.gone(err)
	}
	if len(newest.places) == 0 || p.created.IsZero() || newest.places[0].created.IsZero() {
		return true, nil
	}
	now := l.answer.Now
	if now.IsZero() {
		now = time.Now()
	}
	last := newest.places[0].created
	return !last.After(p.created) || last.After(now.Add(-settled)), nil
}

const (
	// maxStepBack is how much older than the object before it an object of a list may be. More
	// means that the list started over.
	maxStepBack = time.Second
	// settled is the age from which an object is in every list that it belongs to.
	settled = time.Minute
)

// result returns the page that a response holds, with the cursor that continues after it.
func (r *reading) result(l *list, before cursor, restarted bool) Page {
	p := Page{Restarted: restarted, Size: l.answer.Size, Now: l.answer.Now, RequestID: l.answer.RequestID}
	for i := range l.objects {
		if o := &l.objects[i]; r.e.belongs(o, r.q.Parents) {
			o.finish(r.e, &r.q)
			p.Objects = append(p.Objects, *o)
		}
	}
	if ended := l.after == "" && len(l.places) != l.answer.Limit; !ended && len(l.places) > 0 && !r.e.Unpaged {
		next := newCursor(l, before)
		p.Next = next.String()
	}
	return p
}

// fetch asks for the page after an object, or for the first one if after is empty. After setbacks
// the pages are of another size, so that they end at other objects.
func (r *reading) fetch(ctx context.Context, after string, setbacks int) (*list, error) {
	if r.e.Unpaged {
		return r.ask(ctx, url.Values{})
	}
	limit := max(r.c.small.limit(r.e.Entity, r.c.limit())-7*setbacks, 1)
	query := url.Values{"order": {"asc"}, "limit": {strconv.Itoa(limit)}}
	if after != "" {
		query.Set("after", after)
	}
	l, err := r.ask(ctx, query)
	if err == nil {
		r.c.small.note(r.e.Entity, limit, l.answer.Limit, r.c.limit())
	}
	return l, err
}

// ask makes a request for objects of the list.
func (r *reading) ask(ctx context.Context, query url.Values) (*list, error) {
	for name, values := range r.e.Fixed {
		query[name] = values
	}
	if r.e.Parameter != "" {
		query.Set(r.e.Parameter, r.parent())
	}
	var l *list
	answer, err := r.c.Getter.Get(ctx, source.GetRequest{
		Path: r.e.path(r.e.Path, r.q.Parents, ""), Pattern: cmp.Or(r.e.shape, r.e.Path), Query: query,
		Read: func(body []byte) (err error) {
			l, err = decodeList(body, r.e)
			return err
		},
		// A list that belongs to nothing cannot be gone: such a 404 is a refusal.
		Final: func(e *source.APIError) bool {
			return len(r.q.Parents) > 0 && isNotFound(e, r.parent()) || query.Has("after") && isRefused(e)
		},
		Patience: r.c.patience(),
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the request
	}
	l.answer = answer
	return l, nil
}

// parent is the id of the object that the list belongs to; empty if it belongs to none.
func (r *reading) parent() string {
	if len(r.q.Parents) == 0 {
		return ""
	}
	return r.q.Parents[len(r.q.Parents)-1]
}

// gone makes the answer that a parent does not exist a *GoneError.
func (r *reading) gone(err error) error {
	var api *source.APIError
	if errors.As(err, &api) && len(r.q.Parents) > 0 && isNotFound(api, r.parent()) {
		return &GoneError{Entity: r.q.Entity, Parent: r.parent(), Err: err}
	}
	return err
}

// isNotFound reports whether an answer of WorkOS says that an object does not exist. It is a 404
// with a code or a text that says so, which the answer to a path that the API does not have lacks,
// or another refusal that names the object or a parent of it.
func isNotFound(e *source.APIError, ids ...string) bool {
	if e.Foreign || e.RequestID == "" {
		return false
	}
	text := strings.ToLower(e.Message)
	says := strings.Contains(text, "not found") || strings.Contains(text, "could not find") || strings.Contains(text, "couldn't find")
	switch e.Status {
	case http.StatusNotFound:
		return strings.Contains(e.Code, "not_found") || says && strings.Trim(text, ". ") != "not found"
	case http.StatusBadRequest, http.StatusForbidden, http.StatusUnprocessableEntity:
		return says && slices.ContainsFunc(ids, func(id string) bool { return id != "" && strings.Contains(e.Message, id) })
	}
	return false
}

// isRefused reports whether an answer of WorkOS blames the request.
func isRefused(err error) bool {
	var e *source.APIError
	if !errors.As(err, &e) || e.Foreign || e.RequestID == "" {
		return false
	}
	switch e.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusGone, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

func (c *Client) patience() time.Duration {
	if c.Patience == nil {
		return 0
	}
	return c.Patience()
}

func (c *Client) limit() int {
	if c.Limit <= 0 || c.Limit > source.MaxLimit {
		return source.MaxLimit
	}
	return c.Limit
}

// smallPages remembers for which entities a page had to be smaller than the limit, so that the next
// one is not tried in vain. It lets the limit grow again after a while of good pages.
type smallPages struct {
	mu    sync.Mutex
	known map[string]*smallPage
}

type smallPage struct{ limit, good int }

// growAfter is the number of good pages after which a limit that was halved is doubled again.
const growAfter = 10

func (s *smallPages) limit(entity string, most int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.known[entity]; p != nil {
		return min(p.limit, most)
	}
	return most
}

// note takes note of a page that was asked for with a limit and came with another, or with the
// same.
func (s *smallPages) note(entity string, asked, came, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.known[entity]
	if came < asked {
		if s.known == nil {
			s.known = map[string]*smallPage{}
		}
		s.known[entity] = &smallPage{limit: came}
		return
	}
	if p == nil {
		return
	}
	if p.good++; p.good >= growAfter {
		p.limit, p.good = min(2*p.limit, most), 0
	}
	if p.limit == most {
		delete(s.known, entity)
	}
}
