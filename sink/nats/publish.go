package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"workos-relay/sink"
)

// publisher implements Sink.Publish. Only the holder of the token in sender.turn uses it.
type publisher struct {
	cfg    *Config
	conn   *connection
	stream *stream
	sender *sender

	lastSeq uint64    // sequence of the last durable event
	highest uint64    // sequence that the stream has acknowledged
	ahead   stringSet // ids that may be stored before a predecessor of theirs

	forgotten atomic.Bool // highest and lastSeq count no more; any goroutine may set it
}

type stringSet map[string]struct{}

// publishBatch implements Sink.Publish.
func (p *publisher) publishBatch(ctx context.Context, batch []sink.Message) error {
	if len(batch) == 0 {
		return nil
	}
	durable, form := 0, p.cfg.storedForm(batch, false)
	done, err := p.sender.begin(ctx)
	if err == nil {
		if p.forgotten.Swap(false) {
			p.highest, p.lastSeq = 0, 0
		}
		durable, err = p.publish(ctx, form.messages)
		done()
	}
	if err == nil {
		return nil
	}
	return form.explain(&sink.PublishError{Durable: durable, Err: err})
}

// publish returns how many messages of batch are durable, and why the next is not.
func (p *publisher) publish(ctx context.Context, batch []sink.Message) (durable int, err error) {
	l, err := p.conn.connected(ctx)
	if err != nil {
		return 0, fmt.Errorf("publishing to stream %s: %w", p.cfg.Stream, err)
	}
	sendable, rejected := p.sendable(l, batch)
	withIDs := true
	for durable < sendable {
		n, err := p.run(ctx, l, batch[durable:sendable], withIDs)
		durable += n
		// P2: what follows a message that was stored too early is stored once more behind it.
		if errors.Is(err, errOutOfOrder) && withIDs {
			p.cfg.Logger.Warn("messages were stored out of order; publishing them again without their ids",
				zap.String("topic", batch[durable].Topic), zap.String("first_id", batch[durable].ID), zap.Int("messages", sendable-durable))
			withIDs = false
			continue
		}
		if err != nil {
			return durable, p.sender.publishError(ctx, l, batch[durable].Topic, err)
		}
	}
	if rejected != nil {
		return durable, rejected
	}
	return durable, nil
}

// sendable returns how many messages come before the first that can never be published, and why
// that one cannot.
func (p *publisher) sendable(l *link, batch []sink.Message) (int, error) {
	limits := p.stream.limits(l)
	for i := range batch {
		if rejected := limits.check(&batch[i], idHeaderSize(&batch[i])); rejected != nil {
			return i, rejected
		}
	}
	return len(batch), nil
}

// run makes one attempt at batch and returns how long its durable prefix is.
func (p *publisher) run(ctx context.Context, l *link, batch []sink.Message, withIDs bool) (prefix int, err error) {
	p.sender.attempts++
	floor := uint64(0)
	if first := slices.IndexFunc(batch, func(m sink.Message) bool { return m.Entity == "" }); first >= 0 {
		if _, ok := p.ahead[batch[first].ID]; ok {
			floor = p.lastSeq
		}
	}
	a := newAttempt(p.stream, p.sender.attempts, batch, withIDs, floor)
	a.highest = p.highest
	lost := l.lostSignal()
	done := p.sender.expect(a.number, a)
	cause := p.send(ctx, l, a, lost)
	if cause == nil {
		cause = p.await(ctx, a, len(batch), lost)
	}
	if cause != nil && !errors.Is(cause, errAckTimeout) {
		a.drainAcks(p.sender.ackDrain, lost)
	}
	done()
	o := a.finish(cause)
	p.keepOutcome(a, o)
	return o.prefix, o.err
}

func isWentBack(err error) bool {
	var back *sink.WentBackError
	return errors.As(err, &back)
}

// keepOutcome keeps what the next attempt needs to see that order was broken: where the prefix
// ends, and which messages behind it may be stored already.
func (p *publisher) keepOutcome(a *attempt, o outcome) {
	if o.prefix > 0 && o.lastSeq > 0 {
		p.lastSeq = o.lastSeq
	}
	if p.highest = o.highest; isWentBack(o.err) { // which is said once
		p.highest, p.lastSeq = 0, 0
	}
	if len(p.ahead) > 0 {
		for i := range a.batch[:o.prefix] {
			delete(p.ahead, a.batch[i].ID)
		}
	}
	if !a.withIDs {
		return
	}
	for i := o.prefix + 1; i < o.sent; i++ {
		if p.ahead == nil {
			p.ahead = stringSet{}
		}
		if id := a.batch[i].ID; id != "" && len(p.ahead) < maxWindow {
			p.ahead[id] = struct{}{}
		}
	}
}

// send sends the messages in order, never more than the window beyond the prefix, and stops at the
// first sign of a failure.
func (p *publisher) send(ctx context.Context, l *link, a *attempt, lost <-chan struct{}) error {
	prefix, inFlight := 0, 0 // bytes of batch[prefix:i]
	var e encoder
	for i := range a.batch {
		target := i - p.cfg.Window + 1
		full := inFlight >= p.sender.flow.inFlight()
		if full {
			target = max(target, half(a.batch[prefix:i], inFlight)+prefix)
		}
		if target > prefix {
			started := time.Now()
			if err := p.await(ctx, a, target, lost); err != nil {
				p.sender.flow.failed()
				return err
			}
			if full {
				p.sender.flow.measure(time.Since(started))
			}
			acknowledged, _ := a.progress()
			for ; prefix < acknowledged; prefix++ {
				inFlight -= wireSize(&a.batch[prefix])
			}
		}
		inFlight += wireSize(&a.batch[i])
		if err := p.conn.ended(ctx, lost); err != nil {
			return err
		}
		if a.failing.Load() {
			_, failure := a.progress()
			return failure
		}
		a.noteSent(i + 1) // before it is sent, for it may be stored even if sending fails
		if err := l.send(e.encode(&a.batch[i], reply(l.inbox, a.number, i), a.withIDs)); err != nil {
			if errors.Is(err, errLost) {
				a.noteSent(i)
			}
			return err
		}
	}
	return nil
}

// half returns how many of the first messages make up half of the bytes of all, which is size.
func half(messages []sink.Message, size int) int {
	for i, n := 0, 0; i < len(messages); i++ {
		if n += wireSize(&messages[i]); 2*n >= size {
			return i + 1
		}
	}
	return len(messages)
}

// await waits until the first target messages are acknowledged. It fails if something else ends
// the attempt, or if ack_timeout goes by without progress.
func (p *publisher) await(ctx context.Context, a *attempt, target int, lost <-chan struct{}) error {
	timeout := time.NewTimer(p.cfg.AckTimeout)
	defer timeout.Stop()
	last := 0
	for {
		prefix, failure := a.progress()
		switch {
		case failure != nil:
			return failure
		case prefix >= target:
			return nil
		case prefix > last:
			last = prefix
			timeout.Reset(p.cfg.AckTimeout)
		}
		if err := p.conn.wait(ctx, a.wake, timeout.C, lost); err != nil {
			return err
		}
	}
}

// attempt is one pass over messages: each is sent once, in order, and the acknowledgements are
// matched to them by number.
type attempt struct {
	stream  *stream
	number  uint64
	batch   []sink.Message
	state   []bool // by index: a state message, which has no id and cannot come too early; nil if there are none
	withIDs bool
	wake    chan struct{} // something happened; capacity 1
	failing atomic.Bool   // a failure is known: nothing more is to be sent

	mu       sync.Mutex
	highest  uint64        // sequence that the stream has acknowledged
	seqs     []uint64      // by index: where the stream stored the message; 0 while unknown
	reached  []uint64      // by index: highest when the message was sent: the stream stores a new one after that
	sent     int           // batch[:sent] went out
	prefix   int           // batch[:prefix] is stored, in order
	prevSeq  uint64        // the next event of batch[prefix:] must be stored after this
	failedAt int           // the first message known to have failed; len(batch) for none
	failure  error         // why
	refused  map[int]error // by index: an answer that may be that of a stream in another domain
	ended    bool          // the batch is the caller's again, and not looked at any more
}

func newAttempt(s *stream, number uint64, batch []sink.Message, withIDs bool, prevSeq uint64) *attempt {
	a := &attempt{
		stream: s, number: number, batch: batch, withIDs: withIDs, wake: make(chan struct{}, 1),
		seqs: make([]uint64, len(batch)), reached: make([]uint64, len(batch)), prevSeq: prevSeq, failedAt: len(batch),
	}
	for i := range batch {
		if batch[i].Entity == "" {
			continue
		}
		if a.state == nil {
			a.state = make([]bool, len(batch))
		}
		a.state[i] = true
	}
	return a
}

// answered implements answers.
func (a *attempt) answered(index int, m *nats.Msg) {
	// The acknowledgement of what the stream has recognized as a copy is not plain.
	if seq, ok := a.stream.plainAck(m.Data); ok {
		a.recordNew(index, seq)
		return
	}
	ack, err := a.stream.parseAck(m)
	switch {
	case err == nil:
		a.recordStored(index, ack.Seq)
	case a.stream.mayBeAnother(err):
		a.recordRefusal(index, err)
	default:
		a.fail(index, err)
	}
}

// recordNew notes the acknowledgement of a message that the stream did not have before.
//
// P3: a stream that stores it before what it had acknowledged until then has lost something.
func (a *attempt) recordNew(index int, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index < len(a.reached) && seq <= a.reached[index] {
		a.failLocked(index, &sink.WentBackError{Part: "stream " + a.stream.cfg.Stream, Missing: a.reached[index] + 1 - seq})
		a.signal()
		return
	}
	a.recordStoredLocked(index, seq)
}

// recordStored notes an acknowledgement and extends the prefix.
func (a *attempt) recordStored(index int, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recordStoredLocked(index, seq)
}

func (a *attempt) recordStoredLocked(index int, seq uint64) {
	if index >= len(a.seqs) || a.seqs[index] != 0 {
		return
	}
	a.seqs[index] = seq
	a.highest = max(a.highest, seq)
	for a.prefix < a.failedAt && a.seqs[a.prefix] != 0 {
		// A state message is stored again whenever it is published, so its sequence says nothing of
		// the events around it.
		if a.state == nil || !a.state[a.prefix] {
			if a.seqs[a.prefix] <= a.prevSeq {
				a.failLocked(a.prefix, errOutOfOrder)
				break
			}
			a.prevSeq = a.seqs[a.prefix]
		}
		a.prefix++
	}
	a.signal()
}

// fail notes that the message at index is not stored, or not known to be.
func (a *attempt) fail(index int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failLocked(index, err)
	a.signal()
}

func (a *attempt) failLocked(index int, err error) {
	if index < a.failedAt && index >= a.prefix {
		a.failedAt, a.failure = index, err
		a.failing.Store(true)
	}
}

// recordRefusal notes an answer that does not acknowledge the message at index, and may not be that
// of the stream.
func (a *attempt) recordRefusal(index int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused == nil {
		a.refused = make(map[int]error)
	}
	if _, known := a.refused[index]; !known {
		a.refused[index] = err
	}
}

// deny notes that the server refuses to take what the user publishes to a subject, or to deliver
// acknowledgements.
func (a *attempt) deny(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	index := a.prefix
	if m := deniedPublish.FindStringSubmatch(err.Error()); m != nil {
		for index < len(a.batch) && a.batch[index].Topic != m[1] {
			index++
		}
	}
	a.failLocked(index, err)
	a.signal()
}

func (a *attempt) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// progress returns how long the durable prefix is, and the first failure known.
func (a *attempt) progress() (prefix int, failure error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.prefix, a.failure
}

// drainAcks waits a moment for the acknowledgements of what was sent before the first failure.
func (a *attempt) drainAcks(moment time.Duration, lost <-chan struct{}) {
	timeout := time.NewTimer(moment)
	defer timeout.Stop()
	for {
		if prefix, _ := a.progress(); prefix >= a.reachablePrefix() {
			return
		}
		select {
		case <-a.wake:
		case <-timeout.C:
			return
		case <-lost:
			return
		}
	}
}

// reachablePrefix is how far the prefix can still grow: to the first failure, or to the last
// message sent.
func (a *attempt) reachablePrefix() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return min(a.sent, a.failedAt)
}

func (a *attempt) noteSent(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > a.sent {
		a.reached[n-1] = a.highest
	}
	a.sent = n
}

// outcome is how an attempt ended.
type outcome struct {
	prefix  int    // batch[:prefix] is durable, in order
	lastSeq uint64 // of the last durable event; 0 if there is none
	highest uint64 // sequence that the stream has acknowledged
	sent    int    // batch[prefix:sent] may be stored or not
	err     error  // why batch[prefix] is not durable; nil if all of the batch is
}

// finish ends the attempt. cause is what ended the attempt; what is acknowledged later counts no
// more.
func (a *attempt) finish(cause error) outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	o := outcome{prefix: a.prefix, sent: a.sent, highest: a.highest}
	if a.prefix > 0 {
		o.lastSeq = a.prevSeq
	}
	switch {
	case a.prefix == len(a.batch):
	case a.failure == nil && errors.Is(cause, errAckTimeout) && a.refused[a.prefix] != nil:
		o.err = fmt.Errorf("%w: %w", errAckTimeout, a.refused[a.prefix])
	case a.failure == nil:
		o.err = cause
	case a.failedAt == a.prefix:
		o.err = a.failure
	default: // the failure is another message's: it must not be taken for this one's
		o.err = fmt.Errorf("%w, and a later message failed: %v", errAckTimeout, a.failure) //nolint:errorlint // see above
	}
	return o
}
