package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/sink"
)

const (
	// surveyEvery is how often a lane checks whether its destination still holds what it
	// acknowledged.
	surveyEvery = 15 * time.Second
	// adoptAfter is how long a standby sees another relay work on a destination that differs from
	// the remembered one before it accepts the new one as the decision of the operator. The active
	// relay checks far more often, and stops if nobody decided.
	adoptAfter = 6 * surveyEvery
	// saveEvery is how often the counts are saved while events flow. After a crash they are behind
	// by at most that time.
	saveEvery = 2 * time.Second
	// releaseLook bounds the last look at the destination, so that a bus that does not answer
	// delays no stop.
	releaseLook = 2 * time.Second
)

// DestinationStore keeps, outside of a destination, what is known of it. checkpoint.File implements
// it.
type DestinationStore interface {
	// LoadDestination returns checkpoint.ErrNotFound if nothing is kept.
	LoadDestination(ctx context.Context) (checkpoint.Destination, error)
	SaveDestination(ctx context.Context, d checkpoint.Destination) error
}

// LostError says that a destination no longer holds what relay stored in it, so that the lane must
// not continue by itself. It matches checkpoint.ErrLost.
type LostError struct {
	Lane     string
	What     string              // one sentence for each stream or topic
	Position checkpoint.Position // the last one that is known to be committed
	// Overwritten says that the bus has stored messages in the place of what is missing, and that
	// relay remembers that until an operator says where to go on: it does not help to restore the
	// destination.
	Overwritten bool
}

// Error implements error.
func (e *LostError) Error() string {
	return operator.Explain(fmt.Sprintf("%v: %s", checkpoint.ErrLost, e.What), e.OperatorAction())
}

// Is makes errors.Is(err, checkpoint.ErrLost) hold.
func (e *LostError) Is(target error) bool { return target == checkpoint.ErrLost }

// OperatorAction returns what to do.
func (e *LostError) OperatorAction() string {
	if e.Overwritten {
		return "say where to go on"
	}
	return "restore it and start relay again, or say where to go on"
}

// Guard remembers, outside of the bus, what a lane has stored in its destination, and checks
// whether it is still there. Both targets of a Delivery share one. A nil Guard remembers nothing. A
// Guard is safe for concurrent use.
type Guard struct {
	Store  DestinationStore
	Logger *zap.Logger // not nil

	mu       sync.Mutex
	recalled bool                    // Store was read
	known    *checkpoint.Destination // nil: nothing is known
	index    map[string]int          // in known.Parts, by Topic; nil: to be made again
	dirty    bool                    // known differs from what Store has
	failed   bool                    // the last save failed, which was logged
	saved    time.Time               // when that was tried last
	other    otherDestination        // standby: what differs from known
	looked   time.Time               // standby: the last survey
}

// otherDestination is a destination that a standby sees another relay work on, and that is not the
// remembered one.
type otherDestination struct {
	parts    []checkpoint.Part
	since    time.Time // zero if there is none
	halfway  bool      // half of adoptAfter has passed
	revision uint64    // of the position then
}

// recall reads once what was saved. It returns a ForeignError if that belongs to another
// destination.
func (g *Guard) recall(ctx context.Context, id checkpoint.Identity) (*checkpoint.Destination, error) {
	if g == nil {
		return nil, nil //nolint:nilnil // nothing is known, which is no error
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.recalled && g.Store != nil {
		d, err := g.Store.LoadDestination(ctx)
		switch {
		case err == nil:
			g.known, g.index = &d, nil
			if !d.Closed { // the counts are those of the last save before a crash
				for i := range d.Parts {
					d.Parts[i].Rough = true
				}
			}
		case !errors.Is(err, checkpoint.ErrNotFound):
			return nil, err
		}
	}
	g.recalled = true
	if g.known == nil {
		return nil, nil //nolint:nilnil // see above
	}
	err := id.Check(g.known.Source)
	if have := g.known.Source.Destination; err == nil && have != id.Destination { // a domain was added
		err = &checkpoint.ForeignError{Field: "destination", Want: id.Destination, Have: have}
	}
	if err != nil {
		return nil, operator.Require(err, "say where to go on in the new destination, or restore the configuration")
	}
	d := *g.known
	d.Parts = slices.Clone(d.Parts)
	for i := range d.Parts {
		d.Parts[i].Ends = slices.Clone(d.Parts[i].Ends)
	}
	return &d, nil
}

// examine returns a LostError if dest no longer holds what is remembered of it. position reads the
// position that dest keeps; it is nil if the position is elsewhere.
func (g *Guard) examine(ctx context.Context, o *Ownership, dest sink.Destination, position func(context.Context) (checkpoint.Checkpoint, error)) error {
	known, err := g.recall(ctx, o.Identity)
	if err != nil || known == nil {
		return err
	}
	now, err := dest.Survey(ctx, o.Topics, known.Parts)
	if err != nil {
		return fmt.Errorf("asking %s whether it still holds what was published: %w", o.Identity.Destination, err)
	}
	// P3: a destination that holds less than it acknowledged stops the lane.
	if lost := shortcomings(known.Parts, now, o.Topics); lost != nil {
		if restored(ctx, known, now, position) {
			g.Logger.Warn("the destination was made again and holds the position that was committed last: going on with it",
				zap.String("destination", o.Identity.Destination))
		} else {
			return lostError(o, lost, known, known.Parts)
		}
	}
	g.survey(ctx, o, known.Mode, now)
	return nil
}

// HasLost reports whether dest no longer holds what known says of it, or whether known is of
// another destination than that of id. An error means that dest cannot tell now.
func HasLost(ctx context.Context, id checkpoint.Identity, known checkpoint.Destination, dest sink.Destination, topics []string) (bool, error) {
	if known.Source != id {
		return true, nil
	}
	now, err := dest.Survey(ctx, topics, known.Parts)
	if err != nil {
		return false, fmt.Errorf("asking %s whether it still holds what was published: %w", id.Destination, err)
	}
	return len(shortcomings(known.Parts, now, topics)) > 0, nil
}

// shortcomings describes what of known is missing in now.
func shortcomings(known, now []checkpoint.Part, topics []string) []string {
	var lost []string
	for i := range known {
		k := &known[i]
		if k.Lost > 0 {
			lost = append(lost, endsEarly(k, int64(k.Lost))) //nolint:gosec // no part holds 2^63 messages
			continue
		}
		if !k.Used || k.Topic != "" && !k.Position && !sink.HasTopic(topics, k.Topic) { // no longer configured
			continue
		}
		at := slices.IndexFunc(now, func(p checkpoint.Part) bool { return p.Name == k.Name })
		if at < 0 {
			lost = append(lost, fmt.Sprintf("%s was deleted, or its server lost its store; relay had stored %s in it", k.Name, held(k)))
			continue
		}
		n := &now[at]
		if n.Ends == nil { // relay may not look at it
			continue
		}
		switch missing := shortfall(k.Ends, n.Ends); {
		case k.ID != "" && n.ID != "" && k.ID != n.ID, len(n.Ends) < len(k.Ends):
			lost = append(lost, fmt.Sprintf("%s was deleted and made again; relay had stored %s in it", k.Name, held(k)))
		case missing > 0:
			lost = append(lost, endsEarly(k, missing))
		}
	}
	return lost
}

// lostError returns the error for what shortcomings found in these parts of known.
func lostError(o *Ownership, lost []string, known *checkpoint.Destination, parts []checkpoint.Part) *LostError {
	return &LostError{
		Lane: o.Identity.Lane, What: strings.Join(lost, "; "), Position: known.Position,
		Overwritten: slices.ContainsFunc(parts, func(p checkpoint.Part) bool { return p.Lost > 0 }),
	}
}

func endsEarly(k *checkpoint.Part, missing int64) string {
	return fmt.Sprintf("%s ends %s before the end that it had; it lost what is missing, or was made again (relay had stored %s in it)",
		k.Name, printable.Count(missing, "message"), held(k))
}

// wentBack records what e says, so that Verify finds it, also in a later process. If nothing is
// known of the part it returns the error that stops the lane.
//
// P3: what is published after a loss must not hide it.
func (g *Guard) wentBack(ctx context.Context, o *Ownership, e *sink.WentBackError) error {
	known, err := g.recall(ctx, o.Identity)
	if known == nil {
		return errors.Join(&LostError{Lane: o.Identity.Lane, What: e.Error()}, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.known.Parts {
		if p := &g.known.Parts[i]; p.Name == e.Part {
			p.Lost += e.Missing
			g.dirty = true
			g.save(ctx)
			return nil
		}
	}
	return &LostError{Lane: o.Identity.Lane, What: e.Error(), Position: g.known.Position}
}

// held describes how much relay stored in p.
func held(p *checkpoint.Part) string {
	var what []string
	switch {
	case p.Events == 0 && p.Rough:
		what = append(what, "events")
	case p.Rough:
		what = append(what, "about "+printable.Count(p.Events, "event"))
	case p.Events > 0 || !p.Position:
		what = append(what, printable.Count(p.Events, "event"))
	}
	if p.Position {
		what = append(what, "the position")
	}
	return strings.Join(what, " and ")
}

// shortfall returns by how much the ends went back.
func shortfall(known, now []int64) int64 {
	var n int64
	for i := range min(len(known), len(now)) {
		n += max(known[i]-now[i], 0)
	}
	return n
}

// restored reports whether the position proves that a stream or topic with another id still holds
// everything: it was restored from a complete backup.
func restored(ctx context.Context, known *checkpoint.Destination, now []checkpoint.Part, position func(context.Context) (checkpoint.Checkpoint, error)) bool {
	if position == nil || known.Revision == 0 {
		return false
	}
	for _, k := range known.Parts {
		if !k.Used {
			continue
		}
		at := slices.IndexFunc(now, func(p checkpoint.Part) bool { return p.Name == k.Name })
		if at < 0 || len(now[at].Ends) < len(k.Ends) || shortfall(k.Ends, now[at].Ends) > 0 ||
			k.ID != now[at].ID && !k.Position { // only the position is proof
			return false
		}
	}
	cp, err := position(ctx)
	return err == nil && cp.Mode == known.Mode && cp.Revision >= known.Revision
}

// survey records what dest is now. The counts of known parts continue.
func (g *Guard) survey(ctx context.Context, o *Ownership, mode checkpoint.Mode, now []checkpoint.Part) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := checkpoint.Destination{Source: o.Identity, Mode: mode}
	var before []checkpoint.Part
	if g.known != nil {
		before, next.Position, next.Revision = g.known.Parts, g.known.Position, g.known.Revision
	}
	for _, p := range now {
		at := slices.IndexFunc(before, func(k checkpoint.Part) bool { return k.Name == p.Name })
		switch {
		case at >= 0:
			p.Used, p.Events, p.Rough = before[at].Used, before[at].Events, before[at].Rough
			if p.Ends == nil {
				p.ID, p.Ends = before[at].ID, before[at].Ends
			}
		case p.Events > 0: // from before relay remembered anything, or of others
			p.Used, p.Rough = true, true
		}
		p.Used = p.Used || p.Position
		next.Parts = append(next.Parts, p)
	}
	if g.known == nil || !sameDestination(g.known, &next) {
		g.dirty = true
	}
	g.known, g.index = &next, nil
	g.save(ctx)
}

func sameDestination(a, b *checkpoint.Destination) bool {
	return a.Source == b.Source && a.Mode == b.Mode && a.Closed == b.Closed && slices.EqualFunc(a.Parts, b.Parts, func(p, q checkpoint.Part) bool {
		return p.Name == q.Name && p.ID == q.ID && p.Used == q.Used && slices.Equal(p.Ends, q.Ends)
	})
}

// save writes what is known if it has changed. A failure does not stop the lane: the position is
// kept elsewhere.
func (g *Guard) save(ctx context.Context) {
	if !g.dirty || g.Store == nil || g.known == nil {
		return
	}
	g.saved = time.Now()
	err := g.Store.SaveDestination(ctx, *g.known)
	if g.dirty = err != nil; err != nil && !g.failed && ctx.Err() == nil {
		g.Logger.Warn("cannot remember what the destination holds; if it is deleted, a later start may not notice", zap.Error(err))
	}
	g.failed = err != nil
}

// acquired records that the lane continues from cp in dest.
func (g *Guard) acquired(ctx context.Context, o *Ownership, dest sink.Destination, cp checkpoint.Checkpoint) {
	if g == nil {
		return
	}
	g.moved(ctx, cp, nil)
	known, err := g.recall(ctx, o.Identity)
	if err != nil {
		return
	}
	var before []checkpoint.Part
	if known != nil {
		before = known.Parts
	}
	if known != nil && coversAll(known, o.Topics) {
		return // Verify has just surveyed it
	}
	now, err := dest.Survey(ctx, o.Topics, before)
	if err != nil { // the next look comes soon
		o.Logger.Debug("the destination was not surveyed", zap.Error(err))
		return
	}
	if shortcomings(before, now, o.Topics) != nil {
		return // Verify says so soon
	}
	g.survey(ctx, o, cp.Mode, now)
	g.moved(ctx, cp, nil)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dirty = true // the position
	g.save(ctx)
}

// coversAll reports whether every topic, and the position if the bus keeps it, is in a known part.
func coversAll(d *checkpoint.Destination, topics []string) bool {
	position := d.Mode != checkpoint.ExactlyOnce
	in := make(map[string]bool, len(d.Parts))
	for _, p := range d.Parts {
		position = position || p.Position
		in[p.Topic] = true
	}
	// The topics of a pattern were there when the destination was surveyed, or are recorded as
	// made.
	return position && (in[""] || !slices.ContainsFunc(topics, func(t string) bool { return !in[t] && !sink.IsPattern(t) }))
}

// made records topics that the sink has made ready, before anything is stored in them. It returns a
// *LostError if one of them takes the place of a topic that held messages.
func (g *Guard) made(ctx context.Context, o *Ownership, dest sink.Destination, topics []string) error {
	if g == nil {
		return nil
	}
	known, err := g.recall(ctx, o.Identity)
	if err != nil || known == nil {
		return err
	}
	now, err := dest.Survey(ctx, topics, nil)
	if err != nil {
		return fmt.Errorf("asking %s for topics that were just created: %w", o.Identity.Destination, err)
	}
	// P3: a topic that is made again must not hide that the one before it is lost.
	before := slices.DeleteFunc(slices.Clone(known.Parts), func(p checkpoint.Part) bool { return !slices.Contains(topics, p.Topic) })
	if lost := shortcomings(before, now, topics); lost != nil {
		return lostError(o, lost, known, before)
	}
	for _, t := range topics {
		if !slices.ContainsFunc(now, func(p checkpoint.Part) bool { return p.Topic == t }) {
			return fmt.Errorf("%s does not show topic %s yet, which was just created", o.Identity.Destination, t)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range now {
		if !slices.Contains(topics, p.Topic) {
			continue // the position
		}
		if at := slices.IndexFunc(g.known.Parts, func(k checkpoint.Part) bool { return k.Name == p.Name }); at >= 0 {
			g.known.Parts[at].Used = true
		} else {
			p.Used, p.Rough = true, p.Events > 0
			g.known.Parts = append(g.known.Parts, p)
		}
		g.dirty = true
	}
	slices.SortFunc(g.known.Parts, func(a, b checkpoint.Part) int { return strings.Compare(a.Name, b.Name) })
	g.index = nil
	g.save(ctx)
	return nil
}

// using is called before batch is published. It records the first message of each part before that
// message can be lost.
func (g *Guard) using(ctx context.Context, batch []sink.Message) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known == nil {
		return
	}
	for i := range batch {
		if p := g.part(batch[i].Topic); p != nil && !p.Used {
			p.Used, g.dirty = true, true
		}
	}
	if g.dirty {
		g.save(ctx)
	}
}

// part returns the part that holds the messages of topic. The caller holds g.mu.
func (g *Guard) part(topic string) *checkpoint.Part {
	if g.index == nil {
		g.index = make(map[string]int, len(g.known.Parts))
		for i := range g.known.Parts {
			g.index[g.known.Parts[i].Topic] = i
		}
	}
	i, ok := g.index[topic]
	if !ok {
		i, ok = g.index[""]
	}
	if !ok {
		return nil
	}
	return &g.known.Parts[i]
}

// moved records that cp is committed and batch is stored.
func (g *Guard) moved(ctx context.Context, cp checkpoint.Checkpoint, batch []sink.Message) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known == nil {
		return
	}
	g.known.Position = cp.Position
	if g.known.Mode == checkpoint.ExactlyOnce {
		g.known.Revision = cp.Revision
		for i := range g.known.Parts {
			if p := &g.known.Parts[i]; p.Position && len(p.Ends) == 1 { // a revision is a sequence, or an offset and one
				p.Ends[0] = max(p.Ends[0], int64(cp.Revision)) //nolint:gosec // no stream holds 2^63 messages
			}
		}
	}
	var last *checkpoint.Part
	for i := range batch {
		if last == nil || last.Topic != batch[i].Topic && last.Topic != "" {
			last = g.part(batch[i].Topic)
		}
		if last != nil {
			last.Events++
			g.dirty = true
		}
	}
	if time.Since(g.saved) >= saveEvery {
		g.save(ctx)
	}
}

// flush saves the counts if they were not saved for a while.
func (g *Guard) flush(ctx context.Context) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dirty && time.Since(g.saved) >= saveEvery {
		g.save(ctx)
	}
}

// released records that the lane ended in order, and where the destination ends.
func (g *Guard) released(ctx context.Context, o *Ownership, dest sink.Destination) {
	if g == nil {
		return
	}
	known, err := g.recall(ctx, o.Identity)
	if err == nil && known != nil {
		looking, cancel := context.WithTimeout(ctx, releaseLook)
		now, err := dest.Survey(looking, o.Topics, nil)
		cancel()
		if err == nil && shortcomings(known.Parts, now, o.Topics) == nil {
			g.survey(ctx, o, known.Mode, now)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known != nil {
		g.known.Closed, g.dirty = true, true
		g.save(ctx)
	}
}

// watches is called by a standby each time that it has read the position of another relay. It
// records the destination. It accepts a destination other than the remembered one if another relay
// has worked on it for adoptAfter: an operator has decided there.
func (g *Guard) watches(ctx context.Context, o *Ownership, dest sink.Destination, cp checkpoint.Checkpoint) {
	if g == nil || cp.Holder == o.Holder || checkpoint.SameStore(cp.Holder, o.Holder) {
		return
	}
	known, err := g.recall(ctx, o.Identity)
	if err != nil {
		return
	}
	if known == nil {
		g.acquired(ctx, o, dest, cp)
		return
	}
	g.mu.Lock()
	due := time.Since(g.looked) >= surveyEvery
	if due {
		g.looked = time.Now()
	}
	g.mu.Unlock()
	if !due {
		return
	}
	now, err := dest.Survey(ctx, o.Topics, nil)
	if err != nil {
		return
	}
	lost := shortcomings(known.Parts, now, o.Topics)
	if lost == nil || allThere(known.Parts, now) && g.worksOn(now, cp.Revision) {
		g.survey(ctx, o, cp.Mode, now)
		g.moved(ctx, cp, nil)
	}
}

// worksOn reports whether another relay has worked on these parts for adoptAfter, and has moved its
// position in the second half of that time: by then it has checked them.
func (g *Guard) worksOn(parts []checkpoint.Part, revision uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	other := &g.other
	if other.since.IsZero() || !contains(parts, other.parts) {
		*other = otherDestination{parts: parts, since: time.Now()}
	}
	passed := time.Since(other.since)
	if passed >= adoptAfter/2 && !other.halfway {
		other.halfway, other.revision = true, revision
	}
	return passed >= adoptAfter && other.revision != revision
}

// contains reports whether every part of some is in all: a lane may make more topics meanwhile.
func contains(all, some []checkpoint.Part) bool {
	for _, p := range some {
		if !slices.ContainsFunc(all, func(q checkpoint.Part) bool { return p.Name == q.Name && p.ID == q.ID }) {
			return false
		}
	}
	return true
}

func allThere(known, now []checkpoint.Part) bool {
	for _, k := range known {
		if k.Used && !slices.ContainsFunc(now, func(p checkpoint.Part) bool { return p.Name == k.Name }) {
			return false
		}
	}
	return true
}

// forgotten returns a LostError if a position is remembered and no longer there.
func (g *Guard) forgotten(ctx context.Context, o *Ownership, notFound error) error {
	known, err := g.recall(ctx, o.Identity)
	if err != nil || known == nil {
		return err
	}
	return &LostError{Lane: o.Identity.Lane, Position: known.Position, What: fmt.Sprintf("this relay committed a position in mode %s before, "+
		"the last one known is %s, and there is none now (%v)", known.Mode, known.Position, notFound)}
}
