package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// entities are those of the world, parents first.
var entities = []string{"user", "directory", "directory_user", "directory_group", "directory_group_membership"}

var eventTypes = []string{
	"dsync.activated", "dsync.deleted", "dsync.group.created", "dsync.group.deleted", "dsync.group.updated", "dsync.group.user_added", "dsync.group.user_removed",
	"dsync.user.created", "dsync.user.deleted", "dsync.user.updated", "user.created", "user.deleted", "user.updated",
}

// thing is an object of the world.
type thing struct {
	entity, id string
	parents    []string // ids
	data       json.RawMessage
}

// key is its key in the state topic.
func (o *thing) key() string {
	if o.entity == "directory_group_membership" {
		return o.parents[1] + "/" + o.id
	}
	return o.id
}

// world is what WorkOS has: objects that change, and the events that tell of it.
type world struct {
	rnd *rand.Rand

	mu     sync.Mutex
	things []*thing // in the order of their lists
	events []source.Event
	n      int
	asked  []string // keys that were looked for by Get
	// orphans are the keys of what a directory took along when it was deleted, without an event.
	orphans map[string]bool
}

func (w *world) id(kind string) string {
	w.n++
	return fmt.Sprintf("%s_%06d", kind, w.n)
}

// tell adds an event about o, unless it is from before the events reach back.
func (w *world) tell(silent bool, typ string, o *thing) {
	if silent {
		return
	}
	e := source.Event{ID: w.id("event"), Event: typ, Data: o.data, CreatedAt: time.Now().UTC()}
	e.Raw = fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":%s,"created_at":%q}`, e.ID, typ, o.data, e.CreatedAt.Format(time.RFC3339Nano))
	w.events = append(w.events, e)
}

func (w *world) set(o *thing) {
	w.n++
	at := time.Now().UTC().Format(time.RFC3339Nano)
	switch o.entity {
	case "directory_group_membership":
		o.data = fmt.Appendf(nil, `{"directory_id":%q,"user":{"id":%q},"group":{"object":"directory_group","id":%q}}`, o.parents[0], o.id, o.parents[1])
	default:
		o.data = fmt.Appendf(nil, `{"id":%q,"n":%d,"updated_at":%q}`, o.id, w.n, at)
	}
}

// random returns one of the objects of an entity, nil if there is none.
func (w *world) random(entity string) *thing {
	var of []*thing
	for _, o := range w.things {
		if o.entity == entity {
			of = append(of, o)
		}
	}
	if len(of) == 0 {
		return nil
	}
	return of[w.rnd.IntN(len(of))]
}

// change does something at random.
func (w *world) change(silent bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	entity := entities[w.rnd.IntN(len(entities))]
	names := map[string]string{"user": "user", "directory_user": "dsync.user", "directory_group": "dsync.group"}
	switch o := w.random(entity); {
	case entity == "directory" && (o == nil || w.rnd.IntN(3) > 0):
		d := &thing{entity: entity, id: w.id(entity)}
		w.add(silent, "dsync.activated", d)
	case entity == "directory":
		w.things = slices.DeleteFunc(w.things, func(x *thing) bool {
			if len(x.parents) > 0 && x.parents[0] == o.id {
				w.orphans[x.key()] = true
				return true
			}
			return x == o
		})
		w.tell(silent, "dsync.deleted", o)
	case entity == "directory_group_membership" && o != nil && w.rnd.IntN(3) == 0:
		w.remove(silent, "dsync.group.user_removed", o)
	case entity == "directory_group_membership":
		group, user := w.random("directory_group"), w.random("directory_user")
		if group == nil || user == nil || group.parents[0] != user.parents[0] {
			return
		}
		m := &thing{entity: entity, id: user.id, parents: []string{group.parents[0], group.id}}
		if !slices.ContainsFunc(w.things, func(x *thing) bool { return x.entity == entity && x.key() == m.key() }) {
			w.add(silent, "dsync.group.user_added", m)
		}
	case o != nil && w.rnd.IntN(5) == 0:
		// What belongs to it goes first, each with its event.
		for _, m := range slices.Clone(w.things) {
			if m.entity == "directory_group_membership" && (m.id == o.id || m.parents[1] == o.id) {
				w.remove(silent, "dsync.group.user_removed", m)
			}
		}
		w.remove(silent, names[entity]+".deleted", o)
	case o != nil && w.rnd.IntN(2) == 0:
		w.set(o)
		w.tell(silent, names[entity]+".updated", o)
	default:
		n := &thing{entity: entity, id: w.id(entity)}
		if entity != "user" {
			d := w.random("directory")
			if d == nil {
				return
			}
			n.parents = []string{d.id}
		}
		w.add(silent, names[entity]+".created", n)
	}
}

func (w *world) add(silent bool, typ string, o *thing) {
	w.set(o)
	w.things = append(w.things, o)
	w.tell(silent, typ, o)
}

func (w *world) remove(silent bool, typ string, o *thing) {
	w.things = slices.DeleteFunc(w.things, func(x *thing) bool { return x == o })
	w.tell(silent, typ, o)
}

// Page implements Lists. A cursor is the number of the last object in the order of creation.
func (w *world) Page(ctx context.Context, q lists.Query) (lists.Page, error) {
	select {
	case <-time.After(time.Duration(w.pause()) * time.Millisecond):
	case <-ctx.Done():
		return lists.Page{}, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(q.Parents); n > 0 && !slices.ContainsFunc(w.things, func(x *thing) bool { return x.id == q.Parents[n-1] }) {
		return lists.Page{}, lists.ErrGone
	}
	var p lists.Page
	limit := 1 + w.rnd.IntN(6)
	ordered := slices.SortedFunc(slices.Values(w.things), func(a, b *thing) int { return strings.Compare(a.id, b.id) })
	for _, o := range ordered {
		if o.entity != q.Entity || !slices.Equal(o.parents, q.Parents) || o.id <= string(q.After) {
			continue
		}
		if len(p.Objects) == limit {
			p.Next = lists.Cursor(p.Objects[limit-1].ID)
			break
		}
		p.Objects = append(p.Objects, lists.Object{Entity: q.Entity, ID: o.id, Parents: q.Parents, Raw: o.data, Data: o.data})
	}
	return p, nil
}

func (w *world) pause() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rnd.IntN(3000)
}

// Get implements Lists.
func (w *world) Get(_ context.Context, ref lists.Ref) (lists.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, ref.Key)
	for _, o := range w.things {
		if o.entity == ref.Entity && o.key() == ref.Key {
			return lists.Object{Entity: o.entity, ID: o.id, Raw: o.data, Data: o.data}, nil
		}
	}
	return lists.Object{}, lists.ErrNotFound
}

// Resume implements pipeline.Source.
func (w *world) Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		for after := from.Position; ; {
			w.mu.Lock()
			at := slices.IndexFunc(w.events, func(e source.Event) bool { return e.ID == after.EventID }) + 1
			n := min(5, len(w.events)-at)
			p := source.Page{Events: slices.Clone(w.events[at : at+n]), Tip: n < 5, Now: time.Now(), Size: 100 * n}
			w.mu.Unlock()
			if n > 0 {
				after = p.Events[n-1].Position()
			}
			if !yield(p, nil) {
				return
			}
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
				yield(source.Page{}, ctx.Err())
				return
			}
		}
	}
}

// shelf is a bus in memory, of both modes: it keeps each message, and fails now and then, before or
// after it has stored some.
type shelf struct {
	checkpoint.Store
	rnd     *rand.Rand
	failing float64
	delay   time.Duration // of each Publish and Commit

	mu  sync.Mutex
	log []sink.Message
}

var errShelf = errors.New("the shelf shakes")

func (b *shelf) keep(batch []sink.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range batch {
		m.Key, m.Body, m.Headers = slices.Clone(m.Key), slices.Clone(m.Body), slices.Clone(m.Headers)
		b.log = append(b.log, m)
	}
}

func (b *shelf) fails() bool { return b.rnd.Float64() < b.failing }

func (b *shelf) Publish(_ context.Context, batch []sink.Message) error {
	time.Sleep(b.delay)
	if b.fails() {
		n := b.rnd.IntN(len(batch) + 1)
		b.keep(batch[:n])
		return &sink.PublishError{Durable: b.rnd.IntN(n + 1), Err: errShelf}
	}
	b.keep(batch)
	return nil
}

// Commit is that of a ledger; the Store alone is that of at_least_once.
func (b ledger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	time.Sleep(b.delay)
	before := b.fails()
	if before && b.rnd.IntN(2) == 0 {
		return checkpoint.Checkpoint{}, errShelf
	}
	cp, err := b.Store.Commit(ctx, prev, next)
	if err == nil {
		b.keep(batch)
	}
	if before {
		return checkpoint.Checkpoint{}, errShelf
	}
	return cp, err
}

type ledger struct{ *shelf }

func (b *shelf) Close() error                                                  { return nil }
func (b *shelf) Identity() string                                              { return identity.Destination }
func (b *shelf) Prepare(context.Context, []string) error                       { return nil }
func (b *shelf) Ping(context.Context) error                                    { return nil }
func (b *shelf) Holds(context.Context, []string) (bool, error)                 { return false, nil }
func (b *shelf) Inspect(context.Context, []string) ([]sink.TopicStatus, error) { return nil, nil }
func (b *shelf) Survey(context.Context, []string, []checkpoint.Part) ([]checkpoint.Part, error) {
	return nil, nil
}
func (ledger) Fence(context.Context) error { return nil }
func (ledger) Forget()                     {}
func (b ledger) LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	return b.Load(ctx)
}

// Each implements Stored.
func (b *shelf) Each(_ context.Context, entity string, fn func(string, []byte, []sink.Header) error) error {
	for key, m := range b.newest("state." + entity) {
		if err := fn(key, m.Body, m.Headers); err != nil {
			return err
		}
	}
	return nil
}

// Empty implements Stored.
func (b *shelf) Empty(_ context.Context, entity string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(b.log, func(m sink.Message) bool { return m.Topic == "state."+entity }), nil
}

// newest returns the newest message of each key of a state topic that is not removed.
func (b *shelf) newest(topic string) map[string]sink.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]sink.Message{}
	for _, m := range b.log {
		switch {
		case m.Topic != topic:
		case m.Removes():
			delete(out, string(m.Key))
		default:
			out[string(m.Key)] = m
		}
	}
	return out
}

var identity = checkpoint.Identity{Relay: "test", Lane: "lane", Endpoint: "https://api.example.com", Destination: "shelf"}

func newLane(t *testing.T, w *world, b *shelf, exactly bool) *pipeline.Lane {
	t.Helper()
	w.mu.Lock() // the world changes meanwhile, by the same numbers
	defer w.mu.Unlock()
	r, err := router.New(router.Config{Types: eventTypes, State: entities})
	require.NoError(t, err)
	owner := pipeline.Ownership{
		Identity: identity, Holder: "holder", Events: eventTypes, Logger: zap.NewNop(),
		Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
	}
	e := &Engine{
		Lists: w, Entities: entities, Message: r.AppendObject, Stored: b, Automatic: true, Readers: 1 + w.rnd.IntN(6),
		Now:         func(context.Context) (time.Time, error) { return time.Now(), nil },
		MaxMessages: 1 + w.rnd.IntN(200), Logger: zap.NewNop(),
	}
	lane := &pipeline.Lane{
		Name: "lane", Holder: "holder", Source: w, Router: r, State: r, Snapshots: e, BatchMessages: 1 + w.rnd.IntN(100),
		Target: &pipeline.AtLeastOnce{Ownership: owner, Sink: b, Store: b.Store},
	}
	if exactly {
		lane.Target = &pipeline.ExactlyOnce{Ownership: owner, Ledger: ledger{b}}
		lane.TakeoverAfter = 15 * time.Second
	}
	return lane
}

// TestTheStateConverges: for any change while a snapshot is read and afterwards, any moment at
// which relay is stopped, and any failure of the bus, the state topics have what the world has in
// the end. An object that tells when it was updated is never turned back after the snapshot has
// published it.
func TestTheStateConverges(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{rnd: rand.New(rand.NewPCG(seed, 20)), orphans: map[string]bool{}}
			b := &shelf{Store: checkpoint.NewMemory(identity), rnd: rand.New(rand.NewPCG(seed, 21)), failing: []float64{0, 0.3}[seed%2],
				delay: time.Duration(seed%3) * 100 * time.Millisecond}
			exactly := seed%4 < 2
			reach := w.rnd.IntN(100) // the events before it are gone
			for i := range 100 + w.rnd.IntN(200) {
				w.change(i < reach)
				time.Sleep(time.Second)
			}
			time.Sleep(time.Duration(w.rnd.IntN(100)) * time.Second)
			changing, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for changing.Err() == nil {
					time.Sleep(time.Duration(w.pause()) * time.Millisecond)
					w.change(false)
				}
			}()
			for range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), w.lasts())
				require.NoError(t, newLane(t, w, b, exactly).Run(ctx))
				cancel()
			}
			stop()
			<-done
			lane := newLane(t, w, b, exactly)
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			require.NoError(t, lane.Run(ctx))
			cp, err := b.Load(t.Context())
			require.NoError(t, err)
			require.True(t, cp.Snapshot.Finished(), "seed %d", seed)
			require.Equal(t, w.events[len(w.events)-1].ID, cp.EventID, "seed %d", seed)
			w.requireState(t, b, seed)
			if exactly { // copies of at_least_once come in order, after what they are copies of
				requireNoneTurnedBack(t, b, cp.Snapshot.Run, seed)
			}
		})
	}
}

// TestOnlyWhatNoListHasIsLookedFor reads a second snapshot onto a bus that is slow: what the last
// list has is durable before the comparison begins. Of what vanished silently each is looked for,
// and removed.
func TestOnlyWhatNoListHasIsLookedFor(t *testing.T) {
	t.Parallel()
	for _, exactly := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := &world{rnd: rand.New(rand.NewPCG(1, 22)), orphans: map[string]bool{}}
			b := &shelf{Store: checkpoint.NewMemory(identity), rnd: rand.New(rand.NewPCG(1, 23)), delay: 3 * time.Second}
			for range 300 {
				w.change(true)
			}
			run := func() {
				lane := newLane(t, w, b, exactly)
				require.NoError(t, lane.Snapshots.(*Engine).Request(nil))
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
				defer cancel()
				require.NoError(t, lane.Run(ctx))
			}
			run()
			time.Sleep(time.Hour)
			w.asked = nil
			var gone []string
			for i, o := range slices.Backward(w.things) {
				if o.entity == "user" && len(gone) < 3 {
					gone = append(gone, o.key())
					w.things = slices.Delete(w.things, i, i+1)
				}
			}
			run()
			require.Subset(t, w.asked, gone)
			others := slices.DeleteFunc(slices.Clone(w.asked), func(key string) bool { return slices.Contains(gone, key) })
			require.Len(t, others, 1, "one object that a list has is looked for, which tells that WorkOS gives such objects")
			require.Len(t, w.asked, len(gone)+1)
			users := b.newest("state.user")
			for _, key := range gone {
				require.NotContains(t, users, key)
			}
			want := 0
			for _, o := range w.things {
				if o.entity == "user" {
					want++
				}
			}
			require.Len(t, users, want)
		})
	}
}

// TestAnEntityThatIsTakenOutIsNotCalledRead: a snapshot that goes on without one of its entities
// does not say that it has read it, so that it is read if it comes back.
func TestAnEntityThatIsTakenOutIsNotCalledRead(t *testing.T) {
	t.Parallel()
	w := &world{rnd: rand.New(rand.NewPCG(1, 24)), orphans: map[string]bool{}}
	e := &Engine{
		Lists: w, Entities: []string{"user"}, Automatic: true, Logger: zap.NewNop(),
		Message: func(batch []sink.Message, _ *state.Change, _ string) ([]sink.Message, error) { return batch, nil },
		Now:     func(context.Context) (time.Time, error) { return time.Now(), nil },
	}
	cp := checkpoint.Checkpoint{Snapshot: &checkpoint.Snapshot{Run: "run_1", Entities: []string{"user", "directory"}, Entity: "user", StartedAt: time.Now()}}
	for p, err := range e.Read(t.Context(), cp) {
		require.NoError(t, err)
		cp.Snapshot = p.Snapshot
	}
	require.True(t, cp.Snapshot.Finished())
	require.Equal(t, []string{"user"}, cp.Snapshot.Entities)
	require.False(t, e.Due(cp))
	e.Entities = []string{"user", "directory"}
	require.True(t, e.Due(cp))
}

func (w *world) lasts() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rnd.IntN(30_000)) * time.Millisecond
}

// requireState compares the state topics with the world. WorkOS sends no events for what a
// directory took along when it was deleted.
func (w *world) requireState(t *testing.T, b *shelf, seed uint64) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, entity := range entities {
		want, have := map[string]string{}, map[string]string{}
		for _, o := range w.things {
			if o.entity == entity {
				want[o.key()] = string(o.data)
			}
		}
		for key, m := range b.newest("state." + entity) {
			if _, there := want[key]; !there && w.orphans[key] {
				continue
			}
			have[key] = string(m.Body)
		}
		require.Equal(t, want, have, "seed %d: %s", seed, entity)
	}
}

// requireNoneTurnedBack compares the times of each object from when the snapshot published it.
func requireNoneTurnedBack(t *testing.T, b *shelf, run string, seed uint64) {
	t.Helper()
	newest := map[string]time.Time{}
	for _, m := range b.log {
		if m.Entity == "" || m.Removes() {
			continue
		}
		var o struct {
			UpdatedAt time.Time `json:"updated_at"`
		}
		require.NoError(t, json.Unmarshal(m.Body, &o))
		key := m.Topic + " " + string(m.Key)
		at, published := newest[key]
		if published || runOf(m.Headers) == run {
			require.False(t, o.UpdatedAt.Before(at), "seed %d: %s was turned back", seed, key)
			newest[key] = o.UpdatedAt
		}
	}
}
