package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"workos-relay/source/lists"
	"workos-relay/state"
)

const (
	// mostWitnesses is how many objects that a list has just named are looked at, to find out
	// whether WorkOS gives one of them by itself.
	mostWitnesses = 3
	// mostLooked is how many lists are searched for such objects.
	mostLooked = 20
)

// list reads a page of a list. Its error matches lists.ErrGone only if what the list belongs to is
// gone itself: a path that WorkOS, or an emulator, does not serve may be answered in the same way.
// Then list returns a *refusedError.
func (e *Engine) list(ctx context.Context, q lists.Query) (lists.Page, error) {
	p, err := e.page(ctx, q)
	if !errors.Is(err, lists.ErrGone) || len(q.Parents) == 0 {
		return p, err
	}
	switch _, there := e.parent(ctx, q.Entity, q.Parents); {
	case errors.Is(there, lists.ErrGone):
		return p, err
	case there != nil && !errors.Is(there, lists.ErrNoGet):
		return p, there
	}
	if p, err = e.page(ctx, q); errors.Is(err, lists.ErrGone) {
		err = e.notServed(fmt.Errorf("what the list belongs to is there, and yet %s", err.Error())) //nolint:errorlint // it is not gone
	}
	return p, err
}

// parent looks at the object that a list of an entity belongs to. It returns lists.ErrGone if there
// is none, lists.ErrNoGet if nothing can tell, and a *refusedError if WorkOS refuses to tell.
func (e *Engine) parent(ctx context.Context, entity string, ids []string) (lists.Object, error) {
	of, _ := lists.Lookup(entity)
	last := len(ids) - 1
	known, _ := json.Marshal(map[string]string{"organization_id": ids[0]}) // strings have a JSON form
	o, err := e.get(ctx, lists.Ref{Entity: of.Parents[last], Key: ids[last], Known: known})
	if !errors.Is(err, lists.ErrNotFound) {
		return o, err
	}
	if err := e.served(ctx, of.Parents[last]); err != nil {
		return o, err
	}
	return o, lists.ErrGone
}

// notServed makes err a *refusedError if a snapshot may go on without a list.
func (e *Engine) notServed(err error) error {
	if !e.LeaveOut {
		return err
	}
	return &refusedError{err}
}

// served returns nil if it may be believed that an object of an entity does not exist because
// WorkOS does not know it by itself: WorkOS gives an object that a list has named now, or the lists
// name none. If it gives none of those, served returns an error, and a *refusedError with LeaveOut.
func (e *Engine) served(ctx context.Context, entity string) error {
	if _, ok := e.serves.Load(entity); ok {
		return nil
	}
	endpoint, _ := lists.Lookup(entity)
	kind, _ := state.Lookup(entity)
	places := [][]string{nil}
	if len(endpoint.Parents) > 0 {
		places = nil
		if ids, ok := e.named.Load(entity); ok { // a list that had objects
			places = [][]string{ids.([]string)} //nolint:forcetypeassert // nothing else is stored
		}
		more, err := e.parentsOf(ctx, &endpoint, nil)
		if err != nil {
			return err
		}
		places = append(places, more...)
	}
	var missed error
	for _, ids := range places {
		p, err := e.page(ctx, lists.Query{Entity: entity, Parents: ids})
		switch {
		case errors.Is(err, lists.ErrGone), isRefused(err):
			continue
		case err != nil:
			return err
		}
		for i := range p.Objects[:min(mostWitnesses, len(p.Objects))] {
			c, ok := kind.Of(p.Objects[i].Data)
			if !ok {
				continue
			}
			_, err := e.get(ctx, lists.Ref{Entity: entity, Key: c.Key, Known: p.Objects[i].Data})
			if err == nil {
				e.serves.Store(entity, true)
				return nil
			}
			if !errors.Is(err, lists.ErrNotFound) {
				return err
			}
			missed = err
		}
	}
	if missed == nil {
		return nil
	}
	return e.notServed(fmt.Errorf("WorkOS gives no %s by itself that its lists name, so that nothing tells whether one is gone: %s", entity, missed.Error())) //nolint:errorlint // it is there
}

// parentsOf returns the ids of the parents of some lists of an entity, mostLooked at most.
func (e *Engine) parentsOf(ctx context.Context, endpoint *lists.Endpoint, ids []string) ([][]string, error) {
	if len(ids) == len(endpoint.Parents) {
		return [][]string{ids}, nil
	}
	p, err := e.page(ctx, lists.Query{Entity: endpoint.Parents[len(ids)], Parents: ids})
	switch {
	case errors.Is(err, lists.ErrGone), isRefused(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var out [][]string
	for i := range p.Objects[:min(mostLooked, len(p.Objects))] {
		if len(out) >= mostLooked {
			break
		}
		more, err := e.parentsOf(ctx, endpoint, append(append([]string(nil), ids...), p.Objects[i].ID))
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}
