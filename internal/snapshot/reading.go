package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/tidwall/gjson"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/contain"
	"workos-relay/pipeline"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// reading reads all lists of one entity. Only run changes its fields; each list that is read at the
// same time has a goroutine, and so has the walk through the parents.
type reading struct {
	e        *Engine
	entity   state.Entity
	endpoint lists.Endpoint
	parents  chan parent // in the order of the walk; nil once it has ended or is given up, and if the list has no parent
	pages    chan page
	at       checkpoint.Snapshot // what the messages of the portion that is gathered lead to
	open     []list              // lists that are read, in the order in which they were begun
	portion  pipeline.SnapshotPortion
	size     int  // of the portion, in bytes of responses
	refused  int  // how many lists were refused
	answered bool // a list was not

	ctx    context.Context //nolint:containedctx // of the goroutines that belong to it
	cancel context.CancelFunc
	busy   sync.WaitGroup
}

// list is one that is read now.
type list struct {
	parents []string
	after   lists.Cursor
}

// parent is an object that a list belongs to.
type parent struct {
	steps []checkpoint.SnapshotStep
	ids   []string // for lists.Query.Parents
	raw   []byte
	err   error // ends the walk, except for a *refusedError
}

// page is a page of a list, or why there is none.
type page struct {
	parents []string
	lists.Page
	err error
}

// newReading begins to read s.Entity from where s is. The caller must call stop.
func newReading(ctx context.Context, e *Engine, s *checkpoint.Snapshot) (*reading, error) {
	entity, known := state.Lookup(s.Entity)
	endpoint, listed := lists.Lookup(s.Entity)
	if !known || !listed {
		return nil, fmt.Errorf("relay has no list of the entity %q; is the snapshot of a newer relay?", s.Entity)
	}
	r := &reading{e: e, entity: entity, endpoint: endpoint, at: *s, pages: make(chan page, e.readers())}
	r.ctx, r.cancel = context.WithCancel(ctx)
	for _, l := range s.Open {
		r.open = append(r.open, list{parents: l.Parents, after: lists.Cursor(l.After)})
		r.start(parent{ids: l.Parents}, lists.Cursor(l.After))
	}
	if len(endpoint.Parents) == 0 {
		if len(s.Open) == 0 {
			r.begin(parent{})
		}
		return r, nil
	}
	if r.at.Count(s.Entity) == (checkpoint.SnapshotCount{Entity: s.Entity}) { // it begins
		of := r.at.Count(endpoint.Parents[len(endpoint.Parents)-1])
		r.at.Counts = r.at.Add(checkpoint.SnapshotCount{Entity: s.Entity, Parents: of.Objects + of.Skipped + of.Dropped})
	}
	parents := make(chan parent)
	r.parents = parents
	r.spawn(func() {
		defer close(parents)
		w := walk{r: r, to: parents}
		if err := contain.Do(func() error { return w.level(nil, nil, s.Walk) }); err != nil {
			w.emit(parent{err: err})
		}
	})
	return r, nil
}

func (e *Engine) readers() int {
	if e.Readers > 0 {
		return e.Readers
	}
	return DefaultReaders
}

func (r *reading) spawn(do func()) {
	r.busy.Add(1)
	go func() {
		defer r.busy.Done()
		do()
	}()
}

// stop cancels what is in flight and waits for it.
func (r *reading) stop() {
	r.cancel()
	r.busy.Wait()
}

// begin begins to read the list of a parent.
func (r *reading) begin(p parent) {
	if p.steps != nil {
		r.at.Walk = p.steps
	}
	if !slices.ContainsFunc(r.open, func(l list) bool { return slices.Equal(l.parents, p.ids) }) { // the parents may come again
		r.open = append(r.open, list{parents: p.ids})
		r.start(p, "")
	}
}

// start reads a list in another goroutine.
func (r *reading) start(p parent, after lists.Cursor) {
	r.spawn(func() {
		err := contain.Do(func() error { return r.readList(p, after) })
		if err != nil {
			r.send(page{parents: p.ids, err: err})
		}
	})
}

func (r *reading) send(p page) bool {
	select {
	case r.pages <- p:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// readList reads a list to its end.
func (r *reading) readList(p parent, after lists.Cursor) error {
	q := lists.Query{Entity: r.entity.Name, Parents: p.ids, Parent: p.raw, After: after}
	if n := len(p.ids); q.Parent == nil && n > 1 { // after a restart
		o, err := r.e.parent(r.ctx, r.entity.Name, p.ids)
		switch {
		case err == nil:
			q.Parent = o.Raw
		case !errors.Is(err, lists.ErrNoGet):
			return err
		}
	}
	for {
		got, err := r.e.list(r.ctx, q)
		if err != nil {
			return err
		}
		if !r.send(page{parents: p.ids, Page: got}) || got.Next == "" {
			return nil
		}
		q.After = got.Next
	}
}

// record returns how far the reading has come.
func (r *reading) record() *checkpoint.Snapshot {
	s := r.at
	s.Open = nil
	for _, l := range r.open {
		s.Open = append(s.Open, checkpoint.SnapshotList{Parents: l.parents, After: string(l.after)})
	}
	return &s
}

// run gives all pages, as many at once as there are and as fit.
func (r *reading) run(give func(pipeline.SnapshotPortion) error) error {
	for r.parents != nil || len(r.open) > 0 {
		parents := r.parents
		if len(r.open) >= r.e.readers() {
			parents = nil
		}
		// A page that is there is taken before the next parent, and what is gathered goes out
		// before anything is waited for.
		var err error
		select {
		case p := <-r.pages:
			err = r.take(p)
		default:
			if len(r.portion.Messages) > 0 {
				err = r.flush(give)
				break
			}
			select {
			case p := <-r.pages:
				err = r.take(p)
			case p, ok := <-parents:
				err = r.follow(p, ok)
			case <-r.ctx.Done():
				err = r.ctx.Err()
			}
		}
		if errors.Is(err, lists.ErrNotContinued) {
			return errors.Join(err, r.flush(give)) // records where the next attempt begins
		}
		if err == nil && (len(r.portion.Messages)+pageSize > r.e.most() || r.e.MaxBytes > 0 && r.size >= r.e.MaxBytes) {
			err = r.flush(give)
		}
		if err != nil {
			return err
		}
	}
	return r.flush(give)
}

// pageSize is how many objects a page has at most, apart from lists that have no pages.
const pageSize = 100

// follow takes the next parent of the walk. If WorkOS does not continue a list of parents, the next
// attempt walks from the start, or the parents that were not reached are left out.
func (r *reading) follow(p parent, ok bool) error {
	if errors.Is(p.err, lists.ErrNotContinued) {
		r.at.Walk = nil
		p.err = r.e.restarted(r.entity.Name, nil, p.err)
	}
	switch {
	case !ok:
		r.parents = nil
	case isRefused(p.err):
		r.refuse(p.err)
	case p.err != nil:
		return fmt.Errorf("read the parents of %s: %w", r.entity.Name, p.err)
	default:
		r.begin(p)
	}
	return nil
}

func (r *reading) flush(give func(pipeline.SnapshotPortion) error) error {
	p := pipeline.SnapshotPortion{Messages: r.portion.Messages, Snapshot: r.record()}
	r.portion, r.size = pipeline.SnapshotPortion{}, 0
	return give(p)
}

// take adds a page to the portion.
func (r *reading) take(p page) error {
	at := slices.IndexFunc(r.open, func(l list) bool { return slices.Equal(l.parents, p.parents) })
	switch {
	case errors.Is(p.err, lists.ErrGone): // what of it was published before stays until the next snapshot
		r.e.Logger.Info("snapshot: what a list belongs to was deleted meanwhile", zap.String("entity", r.entity.Name), zap.Strings("parents", p.parents))
		r.ended(at)
		return nil
	case errors.Is(p.err, lists.ErrNotContinued): // the next attempt reads the list from its start
		r.open[at].after = ""
		p.err = r.e.restarted(r.entity.Name, p.parents, p.err)
	}
	switch {
	case isRefused(p.err):
		r.open = slices.Delete(r.open, at, at+1)
		r.refuse(p.err)
		return nil
	case p.err != nil:
		return fmt.Errorf("read the list of %s: %w", r.entity.Name, p.err)
	}
	r.answered = true
	r.size += p.Size
	if len(p.Objects) > 0 && len(p.parents) > 0 {
		r.e.named.Store(r.entity.Name, p.parents)
	}
	count := checkpoint.SnapshotCount{Entity: r.entity.Name}
	for i := range p.Objects {
		if !r.e.concerns(&r.endpoint, &p.Objects[i]) {
			continue
		}
		*r.add(&p.Objects[i], &count)++
	}
	r.at.Counts = r.at.Add(count)
	if r.open[at].after = p.Next; p.Next == "" {
		r.ended(at)
	}
	return nil
}

// refuse records that a list is left out. If all are, the others are not asked for.
func (r *reading) refuse(err error) {
	r.at = *r.e.refuse(&r.at, err)
	if r.refused++; r.refused >= mostRefused && !r.answered {
		r.parents = nil
	}
}

// ended records that a list is read to its end.
func (r *reading) ended(at int) {
	r.open = slices.Delete(r.open, at, at+1)
	if len(r.endpoint.Parents) > 0 {
		r.at.Counts = r.at.Add(checkpoint.SnapshotCount{Entity: r.entity.Name, Lists: 1})
	}
}

// add adds the message of an object to the portion, and returns which of the counts it belongs to:
// Skipped if it has no key, or if a route cannot redact it, and Dropped if a route drops it.
func (r *reading) add(o *lists.Object, count *checkpoint.SnapshotCount) *uint64 {
	c, ok := r.entity.Of(o.Data)
	if !ok {
		r.e.Logger.Warn("snapshot: an object without a key is left out", zap.String("entity", r.entity.Name), zap.String("id", o.ID))
		return &count.Skipped
	}
	messages, err := r.e.Message(r.portion.Messages, &c, r.at.Run)
	switch {
	case err != nil:
		r.e.leftOut(&c, err)
		return &count.Skipped
	case len(messages) == len(r.portion.Messages):
		return &count.Dropped
	}
	r.portion.Messages = messages
	r.e.window.note(&c)
	return &count.Objects
}

// leftOut logs that no message of an object can be made.
func (e *Engine) leftOut(c *state.Change, err error) {
	e.Logger.Error("snapshot: an object is left out of its state topic", zap.String("entity", c.Entity), zap.String("key", c.Key), zap.Error(err))
}

// concerns reports whether an object belongs to the organization that the lane is restricted to.
// The lists of a parent are read only if the parent does.
func (e *Engine) concerns(of *lists.Endpoint, o *lists.Object) bool {
	switch {
	case e.Organization == "" || len(of.Parents) > 0:
		return true
	case of.Entity == "organization":
		return o.ID == e.Organization
	default:
		return gjson.GetBytes(o.Raw, "organization_id").Str == e.Organization
	}
}

// walk finds the parents of the lists of an entity, the outermost first.
type walk struct {
	r  *reading
	to chan<- parent // r.parents, which run may set to nil meanwhile
}

func (w *walk) emit(p parent) bool {
	select {
	case w.to <- p:
		return true
	case <-w.r.ctx.Done():
		return false
	}
}

// level walks through the list of parents that belongs to ids, and through what is below each. It
// continues after the object that resume leads to. If that object is not there any more, the page
// that it was in is walked through again: reading a list twice does no harm.
func (w *walk) level(steps []checkpoint.SnapshotStep, ids []string, resume []checkpoint.SnapshotStep) error {
	q := lists.Query{Entity: w.r.endpoint.Parents[len(ids)], Parents: ids}
	if len(resume) > 0 {
		q.After = lists.Cursor(resume[0].After)
	}
	outer, _ := lists.Lookup(q.Entity)
	innermost := len(ids)+1 == len(w.r.endpoint.Parents)
	for {
		p, err := w.r.e.list(w.r.ctx, q)
		switch {
		case errors.Is(err, lists.ErrGone):
			return nil
		case isRefused(err):
			if !w.emit(parent{err: err}) {
				return w.r.ctx.Err()
			}
			return nil
		case err != nil:
			return err
		}
		objects, within := p.Objects, []checkpoint.SnapshotStep(nil)
		if len(resume) > 0 {
			at := slices.IndexFunc(objects, func(o lists.Object) bool { return o.ID == resume[0].ID })
			switch {
			case at >= 0 && innermost:
				objects = objects[at+1:]
			case at >= 0:
				objects, within = objects[at:], resume[1:]
			}
			resume = nil
		}
		for i := range objects {
			o := &objects[i]
			if !w.r.e.concerns(&outer, o) {
				continue
			}
			here := append(slices.Clip(steps), checkpoint.SnapshotStep{After: string(q.After), ID: o.ID})
			below := append(slices.Clip(ids), o.ID)
			if innermost {
				if !w.emit(parent{steps: here, ids: below, raw: slices.Clone(o.Raw)}) {
					return w.r.ctx.Err()
				}
				continue
			}
			if err := w.level(here, below, within); err != nil {
				return err
			}
			within = nil
		}
		if p.Next == "" {
			return nil
		}
		q.After = p.Next
	}
}
