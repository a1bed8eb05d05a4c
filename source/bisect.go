package source

import (
	"context"
	"errors"
	"math/bits"
	"slices"
)

// sendFunc makes one request, as Client.fetch does.
type sendFunc func(ctx context.Context, opts ListEventsOpts) (answer, error)

// typeSearch finds the event types of a request that the API refuses. It asks for parts of the
// list, one event at a time, and decides by which requests are accepted. The wording of a refusal
// only says where to look first.
type typeSearch struct {
	send sendFunc
	base ListEventsOpts // of every request; Events and Limit are set by the search

	refused []string
	errs    map[string]*APIError // the answer to each refused type
	good    bool                 // the API has accepted a request for some of the types
	whole   bool                 // the API has accepted the request for all of them
	left    int                  // requests that may still be made
	blind   int                  // requests that may be made before one is accepted
}

// errSearchEnded means that a search has used up its requests.
var errSearchEnded = errors.New("search ended")

// findRefused finds those of types that the API refuses, and the answer to each; none if something
// else is refused. cause is the answer that made the caller look; asked says that it was the answer
// to a request of base for all of types. base holds the parameters that every request needs, such
// as the organization, and should hold nothing else. trial are types that are likely to be refused.
// Errors other than a refusal end the search and are returned.
//
// For k refused types of n it makes about 2k·log2(n) requests, and never more than 2n and a few. If
// the API accepts no part of the list, the search ends after about 2·log2(n) requests, or 64 if
// cause is WorkOS's and blames the event types.
func findRefused(ctx context.Context, send sendFunc, base ListEventsOpts, types, trial []string, cause *APIError, asked bool) (*typeSearch, error) {
	s := &typeSearch{
		send: send, base: base, errs: map[string]*APIError{},
		left: 2*len(types) + 16, blind: 2*bits.Len(uint(len(types))) + 2,
	}
	s.base.Limit = 1
	if !cause.Foreign && cause.blamesEvents() {
		s.blind = max(s.blind, 64)
	}
	suspects := append(slices.Clone(trial), without(cause.Refused, trial)...)
	err := s.checkSuspects(ctx, types, suspects)
	if err == nil && len(s.refused) == 0 && asked {
		err = s.divide(ctx, types, cause)
	} else if err == nil && len(s.refused) == 0 {
		s.whole, err = s.search(ctx, types)
	}
	if errors.Is(err, errSearchEnded) {
		err = nil
	}
	return s, err
}

// checkSuspects searches the suspects alone, if the API accepts the other types. Each refusal of
// the others may name further
// suspects.
func (s *typeSearch) checkSuspects(ctx context.Context, types, suspects []string) error {
	for len(suspects) > 0 && len(suspects) < len(types) {
		refusal, err := s.test(ctx, without(types, suspects))
		if err != nil {
			return err
		}
		if refusal == nil {
			_, err := s.search(ctx, suspects)
			return err
		}
		if len(refusal.Refused) == 0 {
			return nil // the words are of no help
		}
		suspects = append(suspects, refusal.Refused...)
	}
	return nil
}

// search adds the refused ones of types to s.refused. It reports whether the API accepts all of
// them at once.
func (s *typeSearch) search(ctx context.Context, types []string) (accepted bool, err error) {
	refusal, err := s.test(ctx, types)
	if err != nil || refusal == nil {
		return err == nil, err
	}
	return false, s.divide(ctx, types, refusal)
}

// divide searches both halves of a list that was refused.
func (s *typeSearch) divide(ctx context.Context, types []string, refusal *APIError) error {
	if len(types) == 1 {
		s.refused = append(s.refused, types[0])
		s.errs[types[0]] = refusal
		return nil
	}
	middle := len(types) / 2
	if _, err := s.search(ctx, types[:middle]); err != nil {
		return err
	}
	_, err := s.search(ctx, types[middle:])
	return err
}

// test returns the API's refusal of a request for these types, or nil if it accepts them.
func (s *typeSearch) test(ctx context.Context, types []string) (*APIError, error) {
	if s.left == 0 || s.blind == 0 && !s.good {
		return nil, errSearchEnded
	}
	s.left--
	s.blind = max(s.blind-1, 0)
	opts := s.base
	opts.Events = types
	_, err := s.send(ctx, opts)
	var refusal *APIError
	switch {
	case err == nil || errors.Is(err, ErrTooLarge): // an event was there to be read
		s.good = true
		return nil, nil //nolint:nilnil // accepted
	case mayRefuseTypes(err) && errors.As(err, &refusal):
		return refusal, nil
	}
	return nil, err
}

// without returns types less those of out.
func without(types, out []string) []string {
	return slices.DeleteFunc(slices.Clone(types), func(name string) bool { return slices.Contains(out, name) })
}
