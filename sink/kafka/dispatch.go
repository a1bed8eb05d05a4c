package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"go.uber.org/zap"

	"workos-relay/internal/printable"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

const (
	// requestBytes is where a request is full, before compression; a record batch that is larger
	// goes alone.
	requestBytes = 256 << 10
	// requestsPerLeader bounds the requests side by side to one broker, each on a connection of its
	// own.
	requestsPerLeader = 4

	// In a transaction a broker asks the coordinator, before it takes the first records of a
	// partition, whether the partition belongs to it (KIP-890). It has only one such question under
	// way for a transaction and refuses a second produce request meanwhile, so much goes in one
	// request to a leader, and the next one follows the answer. More than a megabyte is what
	// proxies and services refuse: Kafka's Java client sends no more unless it is told to
	// (max.request.size).
	transactionRequestBytes     = 1_000_000
	transactionRequestsByLeader = 1
)

// sender sends the messages in the queues of partitions to their leaders, and follows the answers.
type sender struct {
	*course
	queues   []*partitionQueue
	busy     map[int32]int // requests under way, by leader
	underWay int           // their bytes
	opening  task          // a producer session
}

// partitionQueue holds the messages for one partition that are not acknowledged, in order.
type partitionQueue struct {
	topic     string
	partition int32
	place     *client.Sequence
	limit     client.Limit
	index     []int // of the messages in the batch
	most      int   // records in the next record batch at most; shrinks while a culprit is looked for
	pending   *recordBatch
	busy      bool
	hangUps   int // how often the connection was closed on the head, although the cluster answers other requests
	answers   int // of the cluster, when that happened last
	backoff
}

func (q *partitionQueue) id() client.Partition {
	return client.Partition{Topic: q.topic, Number: q.partition}
}

// recordBatch is the head of a partition's queue as it was sent, or is about to be. While it is in
// doubt it is sent again as it is.
type recordBatch struct {
	session  client.Session
	sequence int32
	records  int
	set      []byte // encoded; nil until then
	codec    compress.Codec
	doubt    bool  // it may be stored without relay knowing
	refused  bool  // although it is in doubt, sending it again as it is cannot help
	silent   int   // how often it was sent and not answered
	err      error // it could not be encoded

	keys []messageKey // of its messages, if it has outlived its delivery
	left time.Time    // when that was
}

// request is the heads of some queues with the same leader.
type request struct {
	leader   int32
	queues   []*partitionQueue
	size     int // before compression
	frame    int // size with what surrounds the records
	sent     time.Time
	inFlight int // bytes in flight when it was sent, its own included
}

// isPaused reports whether the leader throttles relay. A position alone does not wait: it keeps the
// lease.
func (s *sender) isPaused(leader int32, now time.Time) bool {
	return s.p.pace.Paused[leader].After(now) && (s.txn == nil || len(s.batch) > 1)
}

// ready groups the queues that have something to send into requests to leaders that take more, and
// says what is missing for the others. A leader gets its share in a few requests side by side, each
// with other partitions, so that it works on one while the next is still encoded.
func (s *sender) ready(now time.Time) []*request {
	var ready []*request
	open := make(map[int32]*request) // by leader: the one that takes more
	full, most := requestBytes, requestsPerLeader
	if s.txn != nil {
		full, most = transactionRequestBytes, transactionRequestsByLeader
	}
	full = s.p.requestRoom(s.p.pace.Request(full, now))
	for _, q := range s.queues {
		if q.busy || len(q.index) == 0 || q.index[0] >= s.sendable() || q.notBefore.After(now) {
			continue
		}
		leader, ok := s.leader(q)
		if !ok || s.isPaused(leader, now) || !s.enrolled(q) {
			continue
		}
		extra := frameBytes(q.topic)
		records, size := s.next(q, full-extra)
		if s.underWay > 0 && s.underWay+size > s.p.pace.Window {
			continue
		}
		r := open[leader]
		if r != nil && r.frame+extra+size > full {
			r = nil
		}
		if r == nil {
			if s.busy[leader] == most {
				continue
			}
			s.busy[leader]++
			r = &request{leader: leader, sent: now}
			open[leader] = r
			ready = append(ready, r)
		}
		if q.pending == nil {
			session, sequence := q.place.Take()
			q.pending = &recordBatch{session: session, sequence: sequence, records: records, codec: s.p.codec}
		}
		q.busy = true
		r.frame += extra + size
		r.size += size
		s.underWay += size
		r.queues = append(r.queues, q)
	}
	for _, r := range ready {
		r.inFlight = s.underWay
	}
	return ready
}

// frameBytes is at most what a produce request holds for a record batch beside its records.
func frameBytes(topic string) int { return client.BatchHeaderBytes + 32 + len(topic) }

// requestRoom returns how many bytes of record batches fill a request that may have full bytes.
func (p *publisher) requestRoom(full int) int {
	if most := int(p.cfg.MaxRequestBytes); most > 0 {
		full = min(full, most)
	}
	return full - p.headBytes() - full/128 // data that cannot be compressed grows a little
}

// headBytes is at most what a produce request holds before its topics.
func (p *publisher) headBytes() int {
	return 128 + len(p.cfg.ClientID) + len(TransactionalID(p.cfg.RelayID, p.cfg.Lane))
}

// leader returns the broker that leads the queue's partition, and asks for a fresh layout where
// none is known.
func (s *sender) leader(q *partitionQueue) (int32, bool) {
	leaders := s.layout.Topics[q.topic].Leaders
	if len(leaders) > 0 && int(q.partition) >= len(leaders) {
		s.fail(q.index[0], fmt.Errorf("kafka topic %s has no partition %d any more: it was created again with %s", q.topic, q.partition, printable.Count(len(leaders), "partition")))
		return 0, false
	}
	if len(leaders) == 0 || leaders[q.partition] < 0 {
		err := fmt.Errorf("partition %d of kafka topic %s has no leader: a broker is down, or an election is under way", q.partition, q.topic)
		s.complain(err, q.topic, q.partition)
		s.relocate()
		return 0, false
	}
	return leaders[q.partition], true
}

// enrolled reports whether the partition has a producer session, and asks for one if none is
// open.
func (s *sender) enrolled(q *partitionQueue) bool {
	if q.place.Valid() || s.p.unnumbered && s.txn == nil {
		return true
	}
	if !s.p.session.Valid() {
		s.opening.wanted = true
		return false
	}
	q.place.Adopt(s.p.session)
	return true
}

// next returns how many records go into the next record batch of q, and their size before
// compression: at most full, but at least one.
func (s *sender) next(q *partitionQueue, full int) (records, size int) {
	if p := q.pending; p != nil && p.set != nil {
		return p.records, len(p.set)
	} else if p != nil {
		for n, i := range q.index[:p.records] {
			size += messageSize(&s.batch[i], n)
			if s.p.cfg.Timestamp == timestampEvent {
				size += client.TimestampRoom
			}
		}
		return p.records, size
	}
	budget := min(q.limit.Bytes/10*9-client.BatchHeaderBytes, full)
	for records < len(q.index) && records < q.most && q.index[records] < s.sendable() {
		n := messageSize(&s.batch[q.index[records]], records)
		if records > 0 && s.p.cfg.Timestamp == timestampEvent {
			n += client.TimestampRoom
		}
		if records > 0 && size+n > budget {
			break
		}
		size += n
		records++
	}
	return records, size
}

// requestSession asks for a producer session.
func (s *sender) requestSession() {
	s.opening.busy, s.opening.wanted = true, false
	s.spawn(func(ctx context.Context) func() {
		given, err := s.p.cluster.OpenSession(ctx)
		return func() { s.sessionOpened(given, err) }
	})
}

func (s *sender) sessionOpened(given client.Session, err error) {
	s.opening.busy = false
	if err == nil {
		s.p.session, s.p.mute = given, 0
		s.opening.worked()
		return
	}
	if s.ctx.Err() == nil && s.p.doesWithout(err) {
		s.opening = task{}
		return
	}
	s.opening.failed()
	s.opening.wanted = true
	if client.IsDenied(err) && s.opening.denied(s.p.grace) {
		s.fail(s.durable, &sink.FatalError{Err: s.p.explain(err)})
	}
	s.complain(s.p.explain(err), "", -1)
}

// produce sends the heads of the queues of r to their leader in one request.
func (s *sender) produce(r *request) {
	s.spawn(func(ctx context.Context) func() {
		res, err := s.send(ctx, r.queues)
		return func() { s.produced(r, res, err) }
	})
}

func (s *sender) produced(r *request, res *client.Produced, err error) {
	leader, queues := r.leader, r.queues
	if s.busy[leader]--; s.busy[leader] == 0 {
		delete(s.busy, leader)
	}
	for _, q := range queues {
		q.busy = false
	}
	if s.ctx.Err() == nil || err == nil {
		s.underWay -= r.size
	}
	if err != nil {
		s.lost(r, err)
		return
	}
	now := time.Now()
	if res.Throttle > 0 {
		s.throttled(leader, res.Throttle, now)
	}
	s.p.acks = max(now.Sub(r.sent), s.p.acks*3/4)
	s.p.pace.Answered(r.size, r.inFlight, now.Sub(r.sent), res.Throttle)
	for _, q := range queues {
		if q.pending.err != nil {
			s.fail(q.index[0], q.pending.err)
			q.pending = nil
			continue
		}
		a, ok := res.Of[q.id()]
		if !ok {
			q.pending.doubt = true
			s.retry(q, errors.New("the broker's answer leaves the partition out"))
			s.relocate()
			continue
		}
		s.answered(q, a)
	}
}

// throttled notes that a leader takes no records for a while. A transaction that would be open for
// too long is given up, before more of it has to be stored again.
func (s *sender) throttled(leader int32, throttle time.Duration, now time.Time) {
	s.p.pace.Pause(leader, throttle, now)
	if s.txn == nil {
		return
	}
	left, bounded := client.AllowanceLeft(s.ctx)
	for _, q := range s.queues {
		if len(q.index) > 0 && !q.busy && bounded && throttle > left {
			s.fail(0, errThrottledLeader(throttle))
			return
		}
	}
}

// lost deals with a request that got no answer.
func (s *sender) lost(r *request, err error) {
	now := time.Now()
	var hangUp *client.HungUpError
	large := errors.As(err, &hangUp) && hangUp.Answered && hangUp.Request >= client.SuspiciousRequest
	if s.ctx.Err() == nil {
		switch {
		case large:
			if s.p.pace.HungUp(hangUp.Request, now) {
				s.p.name(requestsLimited(hangUp.Request))
			}
		case errors.Is(err, context.DeadlineExceeded):
			s.late = true
			s.p.pace.Unanswered(r.size)
		}
	}
	for _, q := range r.queues {
		if !client.IsUnsent(err) {
			q.pending.doubt = true
		}
		if client.IsSilence(err) || s.ctx.Err() != nil && s.ended == nil {
			q.pending.silent++
		}
		s.retry(q, err)
	}
	if hangUp != nil && hangUp.Answered && s.ctx.Err() == nil {
		s.hungUp(r, hangUp, large, now)
	}
	s.relocate()
}

// hungUp deals with a request on which the connection was closed: what it holds may be too large,
// or of a codec that the cluster cannot read.
func (s *sender) hungUp(r *request, err *client.HungUpError, large bool, now time.Time) {
	for _, q := range r.queues {
		p := q.pending
		if p == nil || large && (len(r.queues) > 1 || p.records > 1) {
			continue // it can be made smaller first
		}
		if answers := s.p.cluster.AnswerCount(); answers > q.answers {
			q.answers = answers
			q.hangUps++
		}
		if q.hangUps >= failuresUntilMistrust && s.recode(q, err) {
			q.hangUps = 0
		}
	}
	if large {
		s.tooLargeToSend(r, err, now)
	}
}

// silentUntilCut is how often a record batch is sent as it is without an answer before it is cut
// into smaller ones.
const silentUntilCut = 3

// tooLargeToSend deals with a request on which the connection was closed, as something before the
// broker does if a request is too large for it. A request with several record batches is sent in
// several ones by itself.
func (s *sender) tooLargeToSend(r *request, err *client.HungUpError, now time.Time) {
	if len(r.queues) != 1 {
		return
	}
	q := r.queues[0]
	if q.pending == nil {
		return
	}
	if q.pending.records == 1 {
		if s.p.pace.Suspect(s.key(q.index[0]), s.p.cluster.AnswerCount()) {
			q.pending.refused = true
			s.fail(q.index[0], &sink.RejectedError{Topic: q.topic, Size: err.Request, Reason: fmt.Sprintf("%s closes the connection on each request with this message, "+
				"of %d bytes: the broker or a proxy before it limits the size of a request (socket.request.max.bytes of an Apache Kafka, 1046528 bytes on Azure Event Hubs)", err.Address, err.Request)})
		}
		return
	}
	if full := s.p.pace.Request(transactionRequestBytes, now); len(q.pending.set) > full && s.txn != nil {
		s.fail(0, tooSlow("", 0, s.p.explain(err)))
	}
}

// retry schedules the head of q again: as it was if it is in doubt, else cut according to what fits
// now. What gets no answer although it was sent several times is cut, too: the leader then takes it
// in the next epoch, and may have stored it before.
func (s *sender) retry(q *partitionQueue, err error) {
	q.failed()
	p := q.pending
	full := s.p.pace.Request(requestBytes, time.Now())
	switch {
	case !p.doubt:
		q.pending = nil
	case s.txn == nil && p.records > 1 && p.silent >= silentUntilCut && len(p.set) > full:
		s.p.log.Info("a kafka record batch gets no answer and is sent again in smaller ones; if it is stored already, its messages are stored twice",
			zap.String("topic", q.topic), zap.Int32("partition", q.partition), zap.Int("bytes", len(p.set)), zap.Int("messages", p.records))
		s.p.restart(q.place)
		q.pending = nil
	}
	s.complain(s.p.explainTopic(err, q.topic), q.topic, q.partition)
}
