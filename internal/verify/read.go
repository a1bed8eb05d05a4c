package verify

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

const (
	partEvents = 32 << 10
	mostParts  = 512
	// progressEvery is after how many events or messages progress is told.
	progressEvery = 512
)

func (r *run) eventsFile() string { return filepath.Join(r.dir, "events") }
func (r *run) eventsPart(n int) string {
	return filepath.Join(r.dir, "events."+strconv.Itoa(n))
}
func (r *run) copiesPart(n int) string {
	return filepath.Join(r.dir, "copies."+strconv.Itoa(n))
}

func (r *run) keysPart(n int) string {
	return filepath.Join(r.dir, "keys."+strconv.Itoa(n))
}
func (r *run) lostPart(n int) string {
	return filepath.Join(r.dir, "lost."+strconv.Itoa(n))
}

// readSource writes down what the source has, in its order.
func (r *run) readSource(ctx context.Context) (err error) {
	w, err := newWriter(r.eventsFile())
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := w.close(); err == nil {
			err = closeErr
		}
	}()
	for page, err := range r.check.Span.Pages(ctx, r.check.Source) {
		if err != nil {
			return err
		}
		for i := range page.Events {
			if err := r.noteEvent(w, &page.Events[i]); err != nil {
				return err
			}
		}
		r.progress(StageSource, r.check.Span.Fraction(r.oldest, page.Events[len(page.Events)-1].CreatedAt), r.report.Events+r.report.Dropped)
	}
	return nil
}

func (r *run) noteEvent(w *writer, e *source.Event) error {
	m, id, err := r.check.carrier(e)
	if err != nil {
		return err
	}
	if r.oldest.IsZero() || e.CreatedAt.Before(r.oldest) {
		r.oldest = e.CreatedAt
	}
	if m == nil {
		r.report.Dropped++
		return nil
	}
	topic := r.topic(m.Topic)
	rec := event{index: r.count, id: id, topic: topic, created: e.CreatedAt.UnixNano(), sum: sha256.Sum256(m.Body), key: r.key(topic, m.Key)}
	r.count++
	r.report.Events++
	return w.write(&rec)
}

// split divides the events among the parts, and fills the filter with their ids.
func (r *run) split(ctx context.Context) (err error) {
	r.parts = int(min(r.count/partEvents+1, mostParts)) //nolint:gosec // at most mostParts
	r.filter = newFilter(r.count)
	r.found = newBits(r.count)
	ws, err := newWriters(r.parts, r.eventsPart)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := ws.close(); err == nil {
			err = closeErr
		}
	}()
	var e event
	return readAll(r.eventsFile(), &e, func() error {
		h := r.filter.hash(e.id)
		r.filter.add(h)
		if e.index%progressEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return ws[r.part(h)].write(&e)
	})
}

// key is a hash of a message's key and its topic.
func (r *run) key(topic uint32, key []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	_, _ = h.Write(binary.BigEndian.AppendUint32(nil, topic)) // it never fails
	_, _ = h.Write(key)
	return h.Sum64()
}

func (r *run) part(hash uint64) int {
	return int(hash >> 32 % uint64(r.parts)) //nolint:gosec // at most mostParts
}

// busLog is one log of the bus, and what the check learns of it.
type busLog struct {
	sink.Log
	firstScan, endScan uint64    // the copies kept of it
	oldest             time.Time // when its first message was stored; zero if it has none
	lowest             uint64    // the earliest event that the lane itself published to it
}

const noEvent = 1<<64 - 1

// held is what a log with a limit for each topic holds of one.
type held struct {
	messages int64
	lowest   uint64 // the earliest event that the lane itself published
}

// readBus writes down what the bus has of the events, log by log, divided among the parts.
func (r *run) readBus(ctx context.Context) (err error) {
	topics := append(slices.Clone(r.check.Topics), r.names...)
	slices.Sort(topics)
	logs, err := r.check.Bus.Logs(ctx, slices.Compact(topics), r.oldest.Add(-skew))
	if err != nil {
		return err
	}
	ws, err := newWriters(r.parts, r.copiesPart)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := ws.close(); err == nil {
			err = closeErr
		}
	}()
	var keys writers
	if slices.ContainsFunc(logs, func(l sink.Log) bool { return l.Compacted }) {
		r.compacted = map[uint32]bool{}
		if keys, err = newWriters(r.parts, r.keysPart); err != nil {
			return err
		}
		defer func() {
			if closeErr := keys.close(); err == nil {
				err = closeErr
			}
		}()
	}
	total, before := int64(0), int64(0)
	for _, l := range logs {
		total += l.End - l.From
	}
	seen := 0
	for n, l := range logs {
		ln := busLog{Log: l, firstScan: r.scans, lowest: noEvent}
		if l.Compacted {
			r.compacted[r.topic(l.Topic)] = true
		}
		if l.Unknown != "" {
			r.report.unknown(l.Topic, l.Unknown)
		}
		err := r.check.Bus.Scan(ctx, l, func(m *sink.Stored) error {
			if ln.oldest.IsZero() {
				ln.oldest = m.Time
			}
			if seen++; seen%progressEvery == 0 {
				r.progress(StageBus, float64(before+m.Offset-l.From)/float64(total), seen)
			}
			if l.MaxPerTopic > 0 {
				r.hold(m.Topic)
			}
			if l.Compacted {
				if err := r.noteKey(keys, m); err != nil {
					return err
				}
			}
			return r.noteCopy(ws, n, m)
		})
		if err != nil {
			return err
		}
		ln.endScan = r.scans
		r.lanes = append(r.lanes, ln)
		before += l.End - l.From
	}
	r.report.Scanned = seen
	return nil
}

// hold counts a message of a topic that the source has events of.
func (r *run) hold(topic string) {
	n, ok := r.topics[topic]
	if !ok {
		return
	}
	h := r.held[n]
	if h == nil {
		h = &held{lowest: noEvent}
		r.held[n] = h
	}
	h.messages++
}

// noteKey writes down that a compacted log holds a message with this key, and of when its event is.
func (r *run) noteKey(ws writers, m *sink.Stored) error {
	at, err := time.Parse(time.RFC3339Nano, m.Header(router.HeaderCreatedAt))
	if err != nil || len(m.Key) == 0 {
		return nil //nolint:nilerr // it is no message of relay
	}
	rec := keyed{key: r.key(r.topic(m.Topic), m.Key), created: at.UnixNano()}
	if err := ws[r.part(rec.key)].write(&rec); err != nil {
		return fmt.Errorf("writing to %s: %w", r.dir, err)
	}
	return nil
}

func (r *run) noteCopy(ws writers, lane int, m *sink.Stored) error {
	id := m.Header(router.HeaderID)
	if id == "" || m.Header(router.HeaderLetter) != "" { // what became of a dead letter carries no event
		return nil
	}
	h := r.filter.hash(id)
	if !r.filter.has(h) {
		return nil
	}
	rec := copied{scan: r.scans, id: id, topic: r.topic(m.Topic), lane: uint32(lane), offset: m.Offset, sum: sha256.Sum256(m.Body)} //nolint:gosec // far fewer
	switch {
	case m.Header(router.HeaderReplay) != "":
		rec.mark = byReplay
	case m.Header(router.HeaderRepair) != "":
		rec.mark = byRepair
	case m.Header(headerLate) != "":
		rec.mark = late
	}
	r.scans++
	if err := ws[r.part(h)].write(&rec); err != nil {
		return fmt.Errorf("writing to %s: %w", r.dir, err)
	}
	return nil
}
