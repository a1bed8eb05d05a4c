package sourcetest

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// query is a request that passed every check.
type query struct {
	types  typeSet
	limit  int
	after  string
	before string
	desc   bool
	org    string
	start  time.Time // zero: none
	end    time.Time

	inclusive bool // set by Replay: the page that ends with the cursor
	overlap   int  // events before the place of the cursor with which the page begins
}

// EventForm is how the event types are written in the query; forms combine by bit-or.
type EventForm uint8

// The forms in use by WorkOS's documents, SDKs and emulators.
const (
	Comma    EventForm = 1 << iota // events=a,b
	Repeat                         // events=a&events=b
	Brackets                       // events[]=a&events[]=b
)

// RangeSupport says what the server makes of range_start and range_end.
type RangeSupport uint8

// Supported is documented; the others are what servers and emulators have been seen to do.
const (
	RangesSupported RangeSupport = iota
	RangesRefused                // 422
	RangesIgnored
)

// RangeEndWithAfter says what the server makes of range_end beside after, which no document
// settles.
type RangeEndWithAfter uint8

// The three readings.
const (
	RangeEndApplied RangeEndWithAfter = iota
	RangeEndIgnored
	RangeEndRefused // 400
)

var knownParameters = map[string]bool{
	"events": true, "events[]": true, "limit": true, "after": true, "before": true, "order": true,
	"range_start": true, "range_end": true, "organization_id": true,
}

// parse applies the rules of the Events API. Source of the rules:
// https://workos.com/docs/reference/events/list and WorkOS's OpenAPI specification.
func (s *Server) parse(raw string) (query, *apiError) {
	q := query{limit: 10, desc: true, overlap: s.cfg.overlap}
	v, err := url.ParseQuery(raw)
	if err != nil {
		return q, badRequest("invalid_request", "The query string cannot be read: "+err.Error())
	}
	if s.cfg.queryRefusal != nil {
		if status, body := s.cfg.queryRefusal(v); status != 0 {
			return q, &apiError{status: status, body: body}
		}
	}
	for name, values := range v {
		if !knownParameters[name] {
			return q, badRequest("unknown_parameter", "Unknown query parameter '"+name+"'.")
		}
		if len(values) > 1 && name != "events" && name != "events[]" {
			return q, badRequest("invalid_request", "Query parameter '"+name+"' is given more than once.")
		}
		if values[0] == "" && name != "events" && name != "events[]" {
			return q, badRequest("invalid_request", "Query parameter '"+name+"' is empty.")
		}
	}
	for _, check := range []func(url.Values, *query) *apiError{s.parseEvents, s.parsePage, s.parseRange, s.parseOrganization} {
		if e := check(v, &q); e != nil {
			return q, e
		}
	}
	return q, nil
}

func (s *Server) parseEvents(v url.Values, q *query) *apiError {
	plain, brackets := v["events"], v["events[]"]
	if len(plain) > 0 && len(brackets) > 0 {
		return badRequest("invalid_request", "Both 'events' and 'events[]' are given.")
	}
	lists, form := plain, Repeat
	switch {
	case len(brackets) > 0:
		lists, form = brackets, Brackets
	case len(plain) == 1:
		form = Repeat | Comma // a single name is both
		if strings.Contains(plain[0], ",") {
			form = Comma
		}
	}
	if s.cfg.forms&form == 0 {
		lists = nil // a server that does not know the form sees no events at all
	}
	if len(lists) == 0 || len(lists) == 1 && lists[0] == "" {
		return badRequest("invalid_events_request", "The 'events' parameter is required: name at least one event type.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	for _, list := range lists {
		if form == Comma {
			for name := range strings.SplitSeq(list, ",") {
				if e := s.addType(q, name); e != nil {
					return e
				}
			}
			continue
		}
		if e := s.addType(q, list); e != nil {
			return e
		}
	}
	return nil
}

// addType expects both locks to be held.
func (s *Server) addType(q *query, name string) *apiError {
	t, ok := s.store.typeIdx[name]
	if !ok || s.refused[name] {
		if s.cfg.refusal != nil {
			status, body := s.cfg.refusal(name)
			return &apiError{status: status, body: body}
		}
		return badRequest("invalid_events_request", "The events parameter holds an unknown event type: '"+name+"'.")
	}
	q.types.add(t)
	return nil
}

func (s *Server) parsePage(v url.Values, q *query) *apiError {
	if v.Has("limit") {
		n, err := strconv.Atoi(v.Get("limit"))
		if err != nil || n < 1 || n > 100 {
			return unprocessable("limit", "limit_out_of_range", "limit must be a number from 1 to 100")
		}
		q.limit = n
	}
	q.limit = max(q.limit, s.cfg.excess)
	switch order := v.Get("order"); order {
	case "asc", "normal":
		q.desc = false
	case "desc", "":
	default:
		return unprocessable("order", "order_invalid", "order must be asc, desc or normal")
	}
	if s.cfg.oldestFirst {
		q.desc = false
	}
	q.after, q.before = v.Get("after"), v.Get("before")
	if q.after != "" && q.before != "" {
		return badRequest("invalid_request", "'after' and 'before' cannot be used together.")
	}
	return nil
}

func (s *Server) parseRange(v url.Values, q *query) *apiError {
	start, end := v.Get("range_start"), v.Get("range_end")
	if start == "" && end == "" {
		return nil
	}
	if start != "" && q.after != "" {
		return badRequest("invalid_request", "'after' and 'range_start' cannot be used together.")
	}
	if s.cfg.ranges == RangesRefused {
		return unprocessable("range_start", "range_not_supported", "ranges are not supported")
	}
	for _, b := range []struct {
		text string
		to   *time.Time
		name string
	}{{start, &q.start, "range_start"}, {end, &q.end, "range_end"}} {
		if b.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, b.text)
		if err != nil {
			return badRequest("invalid_date_range", "'"+b.name+"' must be an ISO 8601 date-time.")
		}
		*b.to = t
	}
	if end != "" && q.after != "" && s.cfg.rangeEndWithAfter == RangeEndRefused {
		return badRequest("invalid_request", "'after' and 'range_end' cannot be used together.")
	}
	if start != "" && end != "" {
		switch d := q.end.Sub(q.start); {
		case d < 0:
			return badRequest("invalid_date_range", "'range_end' is before 'range_start'.")
		case s.cfg.maxRange > 0 && d > s.cfg.maxRange:
			return badRequest("invalid_date_range", "The range is longer than "+strconv.Itoa(int(s.cfg.maxRange.Hours()/24))+" days.")
		}
	}
	if end != "" && q.after != "" && s.cfg.rangeEndWithAfter == RangeEndIgnored {
		q.end = time.Time{}
	}
	if s.cfg.ranges == RangesIgnored {
		q.start, q.end = time.Time{}, time.Time{}
	}
	return nil
}

func (s *Server) parseOrganization(v url.Values, q *query) *apiError {
	q.org = v.Get("organization_id")
	if q.org == "" {
		return nil
	}
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	if _, ok := s.store.orgIdx[q.org]; !ok {
		return &apiError{status: http.StatusBadRequest, body: errorBody("", "Organization not found: '"+q.org+"'.")}
	}
	return nil
}
