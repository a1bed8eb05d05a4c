package deadletter

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/router"
	"workos-relay/sink"
)

// Letter is a dead letter on a bus. It is the newest of its event in its log.
type Letter struct {
	router.Letter           // without Event, which Index.Load reads
	Carries       bool      // the event is in it
	Stored        time.Time // when, by the bus; in Kafka it may be the clock of the producer
	Log           string    // "stream WORKOS", "relay.dead_letter/0"
	Offset        int64     // in the log
	// Replayed says that the event was published again after it became a dead letter; nil if not.
	Replayed *router.Replayed

	created time.Time            // of the event; zero if unknown
	places  []router.LetterPlace // of the newest dead letter of the event in each log
	log     int                  // index of the log
	size    int                  // bytes of its body
}

// Created returns when the event was created, the zero time if the dead letter does not tell.
func (l *Letter) Created() time.Time { return l.created }

// Index is what the topic of dead letters held when it was read.
type Index struct {
	// Letters has one dead letter of each event: by when the events were created, then in the
	// order of the logs.
	Letters []*Letter
	Foreign int // messages that are not dead letters

	bus  sink.Scanner
	logs []sink.Log
}

// Read reads the dead letters on topic. progress, if not nil, is called now and then with how much
// is read, from 0 to 1, and how many messages that is.
func Read(ctx context.Context, bus sink.Scanner, topic string, progress func(done float64, seen int)) (*Index, error) {
	logs, err := bus.Logs(ctx, []string{topic}, time.Time{})
	if err != nil {
		return nil, err
	}
	r := reading{
		Index: &Index{bus: bus, logs: logs}, parked: map[string]*parked{}, texts: map[string]string{},
	}
	total, before, seen := int64(0), int64(0), 0
	for _, l := range logs {
		total += l.End - l.From
	}
	for i, l := range logs {
		if err := bus.Scan(ctx, l, func(m *sink.Stored) error {
			if seen++; seen%1000 == 0 && progress != nil {
				progress(float64(before+m.Offset-l.From)/float64(max(total, 1)), seen)
			}
			if m.Topic == topic {
				r.add(i, m)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		before += l.End - l.From
	}
	return r.finish(), nil
}

// reading is a run of Read.
type reading struct {
	*Index
	parked map[string]*parked // by what names the event
	texts  map[string]string  // shares equal texts: many dead letters have the same reason
}

// parked is what the topic says of one event.
//
// The order of two messages is known only within a log. Times do not tell it: in Kafka they may be
// those of the producers, whose clocks may be wrong. So an event counts as published again only if
// that was said of its newest dead letter in each log.
type parked struct {
	letters  []*Letter            // the newest in each log, in the order of the logs
	replayed []router.LetterPlace // up to which letter in each log the event was published again
	last     *router.Replayed     // the newest message which says so
}

// add adds a letter that follows all others of its log.
func (p *parked) add(l *Letter) {
	if n := len(p.letters); n > 0 && p.letters[n-1].log == l.log {
		p.letters[n-1] = l
		return
	}
	p.letters = append(p.letters, l)
}

// republished notes a message which says that the event was published again.
func (p *parked) republished(m *router.Replayed) {
	for _, at := range m.Letters {
		i := slices.IndexFunc(p.replayed, func(r router.LetterPlace) bool { return r.Log == at.Log })
		if i < 0 {
			p.replayed = append(p.replayed, at)
			continue
		}
		p.replayed[i].Offset = max(p.replayed[i].Offset, at.Offset)
	}
	if p.last == nil || !m.At.Before(p.last.At) {
		p.last = m
	}
}

// isOpen reports whether l is newer than what was published again.
func (p *parked) isOpen(l *Letter) bool {
	return !slices.ContainsFunc(p.replayed, func(r router.LetterPlace) bool { return r.Log == l.Log && r.Offset >= l.Offset })
}

// letter returns the dead letter that stands for the event, or nil if there is none. Of several
// logs it is the one that was stored last, as far as the times are right.
func (p *parked) letter() *Letter {
	from := slices.DeleteFunc(slices.Clone(p.letters), func(l *Letter) bool { return !p.isOpen(l) })
	open := len(from) > 0
	if !open {
		from = p.letters
	}
	if len(from) == 0 {
		return nil
	}
	l := slices.MaxFunc(from, func(a, b *Letter) int { return a.Stored.Compare(b.Stored) })
	if !open {
		l.Replayed = p.last
	}
	for _, other := range p.letters {
		l.places = append(l.places, router.LetterPlace{Log: other.Log, Offset: other.Offset})
	}
	return l
}

// of returns what is known of an event.
func (r *reading) of(key string) *parked {
	p := r.parked[key]
	if p == nil {
		p = &parked{}
		r.parked[key] = p
	}
	return p
}

// cutMark ends an id that was too long for a dead letter.
const cutMark = "..."

// name returns what names the event of a dead letter. A long id may have been cut.
func name(id, digest string) string {
	if strings.HasSuffix(id, cutMark) {
		return id + " " + digest
	}
	return id
}

func (r *reading) add(log int, m *sink.Stored) {
	if m.Header(router.HeaderLetter) != "" {
		var p router.Replayed
		if json.Unmarshal(m.Body, &p) != nil || m.Header(router.HeaderLetter) != router.LetterReplayed {
			r.Foreign++
			return
		}
		r.of(name(p.EventID, p.SHA256)).republished(&p)
		return
	}
	body, err := router.ParseLetter(m.Body)
	if err != nil {
		r.Foreign++
		return
	}
	l := &Letter{Letter: body, Carries: len(body.Event) > 0 && string(body.Event) != "null", Stored: m.Time, Log: r.logs[log].Name, Offset: m.Offset, log: log, size: len(m.Body)}
	l.Event = nil
	l.Reason, l.Type, l.Topic = r.shared(l.Reason), r.shared(l.Type), r.shared(l.Topic)
	if at, err := time.Parse(time.RFC3339Nano, l.CreatedAt); err == nil {
		l.created = at
	}
	r.of(name(l.EventID, l.SHA256)).add(l)
}

func (r *reading) shared(text string) string {
	if known, ok := r.texts[text]; ok {
		return known
	}
	r.texts[text] = text
	return text
}

func (r *reading) finish() *Index {
	for _, p := range r.parked {
		if l := p.letter(); l != nil {
			r.Letters = append(r.Letters, l)
		}
	}
	slices.SortFunc(r.Letters, func(a, b *Letter) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.log, b.log), cmp.Compare(a.Offset, b.Offset))
	})
	return r.Index
}

// Open returns the dead letters whose events were not published again.
func (x *Index) Open() []*Letter {
	return slices.DeleteFunc(slices.Clone(x.Letters), func(l *Letter) bool { return l.Replayed != nil })
}

// Find returns the dead letter of an event, or nil.
func (x *Index) Find(id string) *Letter {
	if i := slices.IndexFunc(x.Letters, func(l *Letter) bool { return l.EventID == id }); i >= 0 {
		return x.Letters[i]
	}
	return nil
}

// Content is what a dead letter holds beside what Letter says.
type Content struct {
	Event   json.RawMessage // empty if it is not in the dead letter
	Key     []byte
	Headers []sink.Header
}

// Load reads dead letters again, with the events in them.
func (x *Index) Load(ctx context.Context, letters []*Letter) (map[*Letter]Content, error) {
	wanted := make(map[int]map[int64]*Letter)
	for _, l := range letters {
		if wanted[l.log] == nil {
			wanted[l.log] = make(map[int64]*Letter)
		}
		wanted[l.log][l.Offset] = l
	}
	found := make(map[*Letter]Content, len(letters))
	for log, in := range wanted {
		part := x.logs[log]
		first, last := part.End, part.From
		for offset := range in {
			first, last = min(first, offset), max(last, offset)
		}
		part.From, part.End = first, last+1
		if err := x.bus.Scan(ctx, part, func(m *sink.Stored) error {
			l := in[m.Offset]
			if l == nil {
				return nil
			}
			body, err := router.ParseLetter(m.Body)
			if err != nil || body.EventID != l.EventID {
				return nil //nolint:nilerr // it is not the message that was read before
			}
			found[l] = Content{
				Event: slices.Clone(body.Event), Key: slices.Clone(m.Key), Headers: slices.Clone(m.Headers),
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	for _, l := range letters {
		if _, ok := found[l]; !ok {
			return nil, fmt.Errorf("the dead letter of event %s is gone from %s (it was at %d a moment ago): retention removed it, or somebody did; start again", l.EventID, l.Log, l.Offset)
		}
	}
	return found, nil
}
