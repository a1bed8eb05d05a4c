//go:build unix

package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/router"
	"workos-relay/sink"
)

// kafkaCluster is a Kafka with what relay needs of it: partitions in which producers number what
// they send, and transactions with a coordinator that fences. The lock of the world guards it.
type kafkaCluster struct {
	w       *world
	created map[string]bool
	logs    map[partition]*partitionLog
	lane    coordinator
	// ids are given to producers without transactions.
	ids int64
}

const (
	partitions         = 3
	positionTopic      = "relay.position"
	transactionTimeout = 15 * time.Second
	requestTimeout     = 6 * time.Second // for which a request is tried
	tryTimeout         = 2 * time.Second
	laneProducer       = int64(1)
)

type partition struct {
	topic  string
	number int
}

// partitionLog is a partition. A control record takes an offset, too.
type partitionLog struct {
	records []kafkaRecord
	next    map[producer]int // sequence number that is expected
}

type producer struct {
	id    int64
	epoch int
}

type kafkaRecord struct {
	sink.Message
	document []byte   // of a position
	by       producer // whose transaction it belongs to; zero for none
	state    txnState
	control  bool
}

type txnState int

const (
	committed txnState = iota // or not part of a transaction
	undecided
	aborted
)

// coordinator is what the cluster knows of the transactional id of the lane.
type coordinator struct {
	epoch  int
	open   bool
	ending int // marks that are not written yet
	parts  []partition
	number int // of the transaction
}

// Refusals of brokers.
var (
	errFenced       = errors.New("the producer was fenced")
	errConcurrent   = errors.New("the transaction before it is being ended")
	errSequence     = errors.New("out of order sequence number")
	errNoTxn        = errors.New("there is no transaction with this partition")
	errNoSession    = errors.New("the ledger has no session: fence first")
	errUnknownTopic = errors.New("there is no such topic")
)

func newKafka(w *world) *kafkaCluster {
	return &kafkaCluster{w: w, created: map[string]bool{}, logs: map[partition]*partitionLog{}, ids: laneProducer}
}

func (k *kafkaCluster) binding() router.Binding { return router.Kafka }

// restart keeps everything: logs and the state of the coordinator are durable.
func (k *kafkaCluster) restart() {}

// purge deletes the topic.
func (k *kafkaCluster) purge() {
	delete(k.created, positionTopic)
	delete(k.logs, partition{positionTopic, 0})
}

func (k *kafkaCluster) samePlaces() bool { return false }

func (k *kafkaCluster) log(p partition) *partitionLog {
	l := k.logs[p]
	if l == nil {
		l = &partitionLog{next: map[producer]int{}}
		k.logs[p] = l
	}
	return l
}

func (k *kafkaCluster) read(see func(partition string, place uint64, m *sink.Message)) {
	for _, topic := range sortedKeys(k.created) {
		for n := range partitions {
			at := partition{topic, n}
			if k.logs[at] == nil || topic == positionTopic {
				continue
			}
			for i := range k.logs[at].records {
				if r := &k.logs[at].records[i]; !r.control && r.state == committed {
					see(fmt.Sprintf("%s/%d", topic, n), uint64(i), &r.Message)
				}
			}
		}
	}
}

func sortedKeys(m map[string]bool) []string {
	var all []string
	for key := range m {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

func (k *kafkaCluster) positions(see func(place uint64, document []byte)) {
	for i, r := range k.log(partition{positionTopic, 0}).records {
		if !r.control && r.state == committed {
			see(uint64(i), r.document)
		}
	}
}

// fence gives the lane a new epoch, and ends what the one before has open.
func (k *kafkaCluster) fence() (int, error) {
	c := &k.lane
	if c.ending > 0 {
		return 0, errConcurrent
	}
	if c.open {
		c.epoch++ // the session that is open is refused from here on
		k.end(aborted)
		return 0, errConcurrent
	}
	c.epoch++
	return c.epoch, nil
}

// begin adds partitions to the transaction of the lane.
func (k *kafkaCluster) begin(epoch int, parts []partition) error {
	c := &k.lane
	switch {
	case epoch != c.epoch:
		return errFenced
	case c.ending > 0:
		return errConcurrent
	}
	if !c.open {
		c.open, c.parts = true, nil
		c.number++
		number := c.number
		time.AfterFunc(k.w.within(transactionTimeout), func() {
			k.w.mu.Lock()
			defer k.w.mu.Unlock()
			if c.open && c.number == number {
				k.w.noteLocked("the coordinator aborts a transaction that is open for too long")
				c.epoch++
				k.end(aborted)
			}
		})
	}
	for _, p := range parts {
		if !slices.Contains(c.parts, p) {
			c.parts = append(c.parts, p)
		}
	}
	return nil
}

// produce appends records of one producer to a partition, and returns the offset of the first.
func (k *kafkaCluster) produce(at partition, by producer, txn bool, sequence int, records []kafkaRecord) (int, error) {
	if !k.created[at.topic] {
		return 0, errUnknownTopic
	}
	c := &k.lane
	switch {
	case txn && by.epoch != c.epoch && !k.w.mutated("compare"):
		return 0, errFenced
	case txn && (!c.open || !slices.Contains(c.parts, at)) && !k.w.mutated("compare"):
		return 0, errNoTxn
	}
	l := k.log(at)
	next := l.next[by]
	switch {
	case sequence < next: // a copy
		for i := range l.records {
			if r := &l.records[i]; r.by == by && !r.control {
				if sequence == 0 {
					return i, nil
				}
				sequence--
			}
		}
		return 0, errSequence
	case sequence > next:
		return 0, errSequence
	}
	offset := len(l.records)
	for _, r := range records {
		r.by, r.state = by, committed
		if txn {
			r.state = undecided
		}
		l.records = append(l.records, r)
	}
	l.next[by] = next + len(records)
	return offset, nil
}

// commit ends the transaction of the lane. What it decides is final; the marks follow.
func (k *kafkaCluster) commit(epoch int) error {
	c := &k.lane
	switch {
	case epoch != c.epoch && !k.w.mutated("compare"):
		return errFenced
	case !c.open:
		return errNoTxn
	}
	k.end(committed)
	return nil
}

// end decides the open transaction and writes a mark to each of its partitions, each in its time.
func (k *kafkaCluster) end(as txnState) {
	c := &k.lane
	c.open = false
	var batch []sink.Message
	var document []byte
	var place uint64
	for _, at := range c.parts {
		l := k.log(at)
		for i := range l.records {
			r := &l.records[i]
			if r.state != undecided {
				continue
			}
			if at.topic == positionTopic {
				document, place = r.document, uint64(i)
			} else {
				batch = append(batch, r.Message)
			}
		}
		c.ending++
		time.AfterFunc(time.Duration(mix(k.w.seed+uint64(c.number)<<8+uint64(c.ending))%uint64(60*time.Millisecond)), func() {
			k.w.mu.Lock()
			defer k.w.mu.Unlock()
			for i := range l.records {
				if l.records[i].state == undecided {
					l.records[i].state = as
				}
			}
			l.records = append(l.records, kafkaRecord{control: true})
			c.ending--
		})
	}
	if as == committed && document != nil {
		slices.SortStableFunc(batch, func(a, b sink.Message) int { return k.w.place[idOf(&a)] - k.w.place[idOf(&b)] })
		k.w.judge.commits(place, batch, document)
	} else if as == committed {
		k.w.judge.fault("P1", "a transaction without a position was committed, with %d messages", len(batch))
	}
}

func (k *kafkaCluster) open(p *process) (sink.Sink, sink.Ledger) {
	b := &kafkaSink{k: k, p: p, closed: make(chan struct{}), create: true}
	return b, &kafkaLedger{kafkaSink: b, id: identityOn(b.Identity())}
}

// kafkaSink is the part of sink/kafka that speaks to the brokers, as far as their answers matter
// to a lane: kafka.Sink and, with kafkaLedger, kafka.Ledger.
type kafkaSink struct {
	k      *kafkaCluster
	p      *process
	create bool
	closed chan struct{}

	writing  sync.Mutex
	session  producer // of Publish; no id for none
	sequence map[partition]int
	stored   map[string]bool             // acknowledged behind the durable prefix
	doubt    map[partition]*kafkaRecords // may be stored
}

// kafkaRecords are records that go to a partition in one request.
type kafkaRecords struct {
	at       partition
	sequence int
	records  []kafkaRecord
	index    []int // in the batch
	acked    bool
	offset   int
}

func (b *kafkaSink) Identity() string { return "kafka" }

func (b *kafkaSink) Close() error {
	b.p.w.mu.Lock()
	defer b.p.w.mu.Unlock()
	if !isClosed(b.closed) {
		close(b.closed)
	}
	return nil
}

func illegalKafkaTopic(t string) bool {
	return t == "" || t == "." || t == ".." || len(t) > 249 || strings.Trim(t, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != ""
}

func (b *kafkaSink) Prepare(ctx context.Context, topics []string) error {
	return prepare(ctx, b.p, "prepare", b.create, topics, illegalKafkaTopic, b.k.created, func() {})
}

func (b *kafkaSink) Holds(ctx context.Context, topics []string) (bool, error) {
	return call(ctx, b.p, request{what: "holds", patience: tryTimeout}, func(*fate) (bool, error) {
		for at, l := range b.k.logs {
			if slices.Contains(topics, at.topic) && len(l.records) > 0 && !b.p.w.mutated("first start") {
				return true, nil
			}
		}
		return false, nil
	})
}

func (b *kafkaSink) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	return inspect(ctx, b.p, topics, b.create, b.k.created)
}

func (b *kafkaSink) survey(ctx context.Context, topics []string) ([]checkpoint.Part, error) {
	return call(ctx, b.p, request{what: "survey", patience: tryTimeout}, func(*fate) ([]checkpoint.Part, error) {
		var parts []checkpoint.Part
		for _, topic := range slices.Sorted(slices.Values(topics)) {
			if !b.k.created[topic] {
				continue
			}
			part := checkpoint.Part{Name: "kafka topic " + topic, Topic: topic, ID: topic, Position: topic == positionTopic}
			for n := range partitions {
				if topic == positionTopic && n > 0 {
					break
				}
				size := len(b.k.log(partition{topic, n}).records)
				part.Ends = append(part.Ends, int64(size))
				part.Events += uint64(size)
			}
			if part.Position {
				part.Events = 0
			}
			parts = append(parts, part)
		}
		return parts, nil
	})
}

func (b *kafkaSink) Survey(ctx context.Context, topics []string, _ []checkpoint.Part) ([]checkpoint.Part, error) {
	return b.survey(ctx, topics)
}

func (b *kafkaSink) Ping(ctx context.Context) error {
	_, err := call(ctx, b.p, request{what: "ping", patience: tryTimeout}, func(*fate) (struct{}, error) { return struct{}{}, nil })
	return err
}

// partitionOf is where a message goes: by its key.
func partitionOf(m *sink.Message) partition {
	if m.Topic == positionTopic {
		return partition{positionTopic, 0}
	}
	return partition{m.Topic, int(hash(string(m.Key)) % partitions)}
}

// try asks again until the bus has decided, or for as long as the request timeout.
func try[T any](ctx context.Context, p *process, what string, passes func(error) bool, ask func(*fate) (T, error)) (T, error) {
	for began := time.Now(); ; {
		v, err := call(ctx, p, request{what: what, patience: tryTimeout}, ask)
		if err == nil || !passes(err) || ctx.Err() != nil || p.isDead() {
			return v, err
		}
		most := requestTimeout
		if errors.Is(err, errConcurrent) {
			most = p.w.within(most)
		}
		if time.Since(began) > most {
			return v, &sink.TimeoutError{Setting: "request_timeout", Value: requestTimeout, Err: err}
		}
		if e := sleep(ctx, 20*time.Millisecond); e != nil {
			return v, e
		}
	}
}

func isTransient(err error) bool {
	return errors.Is(err, errNoAnswer) || errors.Is(err, errBroken) || errors.Is(err, errConcurrent)
}

// send sends records to their partitions, until they are acknowledged or can no longer be. The
// brokers of partitions with even numbers and those of others get a request each.
func (b *kafkaSink) send(ctx context.Context, by producer, txn bool, queues []*kafkaRecords) error {
	for odd := range 2 {
		var mine []*kafkaRecords
		for _, q := range queues {
			if q.at.number%2 == odd {
				mine = append(mine, q)
			}
		}
		if len(mine) == 0 {
			continue
		}
		offsets, err := try(ctx, b.p, fmt.Sprintf("produce to %d partitions", len(mine)), isTransient, func(*fate) ([]int, error) {
			var offsets []int
			for _, q := range mine {
				offset, err := b.k.produce(q.at, by, txn, q.sequence, q.records)
				if err != nil {
					return nil, err
				}
				offsets = append(offsets, offset)
			}
			return offsets, nil
		})
		if b.p.w.mutated("early") && isTransient(err) {
			offsets, err = make([]int, len(mine)), nil // the answer is not waited for
		}
		if err != nil {
			return err
		}
		for i, q := range mine {
			q.acked, q.offset = true, offsets[i]
		}
	}
	return nil
}

// Publish implements sink.Sink as kafka.publisher does: with sequence numbers, and what is in doubt
// is sent again as it was.
func (b *kafkaSink) Publish(ctx context.Context, batch []sink.Message) error {
	b.writing.Lock()
	defer b.writing.Unlock()
	if len(batch) == 0 {
		return nil
	}
	ctx, stop, err := aliveUntil(ctx, b.closed)
	if err != nil {
		return &sink.PublishError{Err: err}
	}
	defer stop()
	b.p.w.sends(batch)
	sendable := len(batch)
	var rejected error
	for i := range batch {
		if r := rejects(&batch[i], illegalKafkaTopic); r != nil {
			sendable, rejected = i, r
			break
		}
	}
	durable, err := b.publish(ctx, own(batch[:sendable]))
	if err == nil {
		err = rejected
	}
	if err == nil {
		return nil
	}
	return &sink.PublishError{Durable: durable, Err: err}
}

func (b *kafkaSink) publish(ctx context.Context, batch []sink.Message) (int, error) {
	if len(batch) == 0 {
		return 0, nil
	}
	if b.session.id == 0 {
		id, err := try(ctx, b.p, "producer id", isTransient, func(*fate) (int64, error) {
			b.k.ids++
			return b.k.ids, nil
		})
		if err != nil {
			return 0, err
		}
		b.session, b.sequence, b.doubt = producer{id: id}, map[partition]int{}, nil
	}
	queues := b.arrange(batch, b.sequence)
	if !b.resume(queues) {
		b.session.epoch++ // shuts out what is in doubt
		b.sequence, b.doubt = map[partition]int{}, nil
		queues = b.arrange(batch, b.sequence)
	}
	sendErr := b.send(ctx, b.session, false, queues)
	acked := make([]bool, len(batch))
	for i := range batch {
		acked[i] = b.stored[idOf(&batch[i])]
	}
	for _, q := range queues {
		for _, i := range q.index {
			acked[i] = q.acked
		}
	}
	durable := 0
	for durable < len(batch) && acked[durable] {
		durable++
	}
	stored, doubt := map[string]bool{}, map[partition]*kafkaRecords{}
	for _, q := range queues {
		if q.acked {
			b.sequence[q.at] = q.sequence + len(q.records)
		} else {
			doubt[q.at] = q
		}
	}
	for i := durable; i < len(batch); i++ {
		if acked[i] {
			stored[idOf(&batch[i])] = true
		}
	}
	b.stored, b.doubt = stored, doubt
	return durable, sendErr
}

// arrange divides what is to be sent among the partitions, in the order of the batch.
func (b *kafkaSink) arrange(batch []sink.Message, sequence map[partition]int) []*kafkaRecords {
	var queues []*kafkaRecords
	of := map[partition]*kafkaRecords{}
	for i := range batch {
		if b.stored[idOf(&batch[i])] {
			continue
		}
		at := partitionOf(&batch[i])
		q := of[at]
		if q == nil {
			q = &kafkaRecords{at: at, sequence: sequence[at]}
			of[at] = q
			queues = append(queues, q)
		}
		q.records, q.index = append(q.records, kafkaRecord{Message: batch[i]}), append(q.index, i)
	}
	return queues
}

// resume reports whether each partition in doubt gets the same messages first, and has those go in
// a request of the same form.
func (b *kafkaSink) resume(queues []*kafkaRecords) bool {
	for at, d := range b.doubt {
		i := slices.IndexFunc(queues, func(q *kafkaRecords) bool { return q.at == at })
		if i < 0 || len(queues[i].records) != len(d.records) {
			return false
		}
		for n := range d.records {
			if idOf(&d.records[n].Message) != idOf(&queues[i].records[n].Message) {
				return false
			}
		}
	}
	return true
}

// kafkaLedger is kafka.Ledger on the simulated cluster.
type kafkaLedger struct {
	*kafkaSink
	id checkpoint.Identity

	mu        sync.Mutex // guards what follows
	live      bool
	known     bool
	revision  uint64 // offset of the position plus one
	epoch     int
	sequences map[partition]int

	stale checkpoint.Checkpoint // of the mutation that loads before it fences
}

func (l *kafkaLedger) Forget() {}

func (l *kafkaLedger) Survey(ctx context.Context, topics []string, _ []checkpoint.Part) ([]checkpoint.Part, error) {
	return l.survey(ctx, append(slices.Clone(topics), positionTopic))
}

func (l *kafkaLedger) Prepare(ctx context.Context, topics []string) error {
	if err := l.kafkaSink.Prepare(ctx, topics); err != nil {
		return err
	}
	return l.kafkaSink.Prepare(ctx, []string{positionTopic})
}

func (l *kafkaLedger) Fence(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.end()
	if l.p.w.mutated("no fence") {
		l.begin(l.p.w.epochOf(l.k))
		return nil
	}
	if l.p.w.mutated("load before fence") {
		l.stale, _ = l.Load(ctx)
	}
	epoch, err := try(ctx, l.p, "fence", isTransient, func(*fate) (int, error) { return l.k.fence() })
	if err == nil {
		l.begin(epoch)
	}
	return err
}

func (l *kafkaLedger) begin(epoch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live, l.known, l.epoch, l.sequences = true, false, epoch, map[partition]int{}
}

func (l *kafkaLedger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live, l.known = false, false
}

func (w *world) epochOf(k *kafkaCluster) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return k.lane.epoch
}

// kafkaPosition is the position as the log shows it.
type kafkaPosition struct {
	revision  uint64 // 0 if there is none
	document  []byte
	undecided bool // a later one is in a transaction that is not decided
	missing   bool // there is no topic
}

// look reads the log of positions. own is the offset of a position that is committed for certain.
func (k *kafkaCluster) look(own int) (p kafkaPosition) {
	if !k.created[positionTopic] {
		return kafkaPosition{missing: true}
	}
	for i, r := range k.log(partition{positionTopic, 0}).records {
		switch {
		case r.control:
		case r.state == committed, i == own:
			p = kafkaPosition{revision: uint64(i + 1), document: r.document}
		case r.state == undecided:
			p.undecided = true
		}
	}
	return p
}

func (l *kafkaLedger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, _, err := l.load(ctx, func(err error) bool { return err == nil || errors.Is(err, checkpoint.ErrNotFound) })
	if stale := l.stale; stale.Revision != 0 && err == nil {
		l.stale = checkpoint.Checkpoint{}
		l.mu.Lock()
		l.revision = stale.Revision
		l.mu.Unlock()
		return stale, nil
	}
	return cp, err
}

func (l *kafkaLedger) LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	known := func(err error) bool {
		return errors.Is(err, checkpoint.ErrNotFound) || errors.Is(err, checkpoint.ErrCorrupt) || errors.Is(err, checkpoint.ErrForeign)
	}
	cp, _, err := l.load(ctx, func(err error) bool { return err == nil || known(err) })
	if known(err) {
		err = nil
	}
	return cp, err
}

// load reads the current position. If replaceable says so of the outcome, the session goes on from
// it.
func (l *kafkaLedger) load(ctx context.Context, replaceable func(error) bool) (cp checkpoint.Checkpoint, revision uint64, err error) {
	if err := ctx.Err(); err != nil {
		return cp, 0, err
	}
	l.mu.Lock()
	own, live, epoch, known := -1, l.live, l.epoch, l.known
	if known {
		own = int(l.revision) - 1
	}
	l.mu.Unlock()
	var at kafkaPosition
	for look := 1; ; look++ {
		at, err = try(ctx, l.p, "load", isTransient, func(*fate) (kafkaPosition, error) { return l.k.look(own), nil })
		if err != nil {
			return cp, 0, err
		}
		if !at.undecided || look == 5 {
			break
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return cp, 0, err
		}
	}
	switch at.revision {
	case 0:
		err = fmt.Errorf("%w in the topic of positions", checkpoint.ErrNotFound)
	default:
		cp, err = checkpoint.Decode(at.document)
		cp.Revision = at.revision
		if err == nil {
			err = l.id.Check(cp.Source)
		}
	}
	if replaceable(err) && live {
		l.mu.Lock()
		if l.live && l.epoch == epoch && !l.known {
			l.known, l.revision = true, at.revision
		}
		l.mu.Unlock()
	}
	return cp, at.revision, err
}

func (l *kafkaLedger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	none := checkpoint.Checkpoint{}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	for i := range batch {
		if r := rejects(&batch[i], illegalKafkaTopic); r != nil {
			return none, &sink.PublishError{Durable: i, Err: r}
		}
	}
	batch = own(batch)
	moves, refused := !next.Equal(prev.Position), prev.Refused
	for began, done := time.Now(), 0; ; {
		n := len(batch) - done
		if most := l.p.w.plan.transaction; moves && most > 0 {
			n = min(n, most)
		}
		to := next
		if done+n < len(batch) {
			to = prev
			if prev.Generation == 0 {
				to = next
				to.Position, to.Recent, refused = prev.Position, prev.Recent, next.Refused
			}
			to.Refused = refused
			if l.p.w.mutated("part") {
				to.Position = batch[done+n-1].Position
			} else {
				to = to.MovedPartly(sink.Passed(batch[done:done+n]), next.Position)
			}
			to.UpdatedAt = next.UpdatedAt
		}
		kept, err := l.commitPart(ctx, batch[done:done+n], prev, to)
		if err != nil {
			return none, err
		}
		if done += n; done == len(batch) || time.Since(began) > requestTimeout/2 {
			return kept, nil
		}
		prev = kept
	}
}

// commitPart stores messages and position in one transaction.
func (l *kafkaLedger) commitPart(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	none := checkpoint.Checkpoint{}
	if err := l.id.Check(next.Source); err != nil {
		return none, fmt.Errorf("refused to commit for another: %w", err)
	}
	next.Revision = 0
	document := checkpoint.Encode(next)
	stays, err := checkpoint.Decode(document)
	if err != nil {
		return none, err
	}
	if err := l.compare(ctx, prev); err != nil {
		return none, err
	}
	l.mu.Lock()
	epoch, sequences := l.epoch, l.sequences
	l.mu.Unlock()
	queues := l.arrange(batch, sequences)
	at := partition{positionTopic, 0}
	last := &kafkaRecords{at: at, sequence: sequences[at], records: []kafkaRecord{{Message: sink.Message{Topic: positionTopic}, document: document}}}
	queues = append(queues, last)
	var parts []partition
	for _, q := range queues {
		parts = append(parts, q.at)
	}
	ctx, cancel := context.WithTimeout(ctx, l.p.w.within(requestTimeout))
	defer cancel()
	offset, err := l.transact(ctx, producer{laneProducer, epoch}, parts, queues, last)
	if l.p.w.mutated("guess") && isTransient(err) {
		err = nil
	}
	if err != nil {
		l.end()
		if errors.Is(err, errFenced) || errors.Is(err, errNoTxn) {
			err = fmt.Errorf("%w: %w", checkpoint.ErrConflict, err)
		} else if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			err = &sink.TimeoutError{Setting: "request_timeout", Value: requestTimeout, Err: err}
		}
		return none, err
	}
	for _, q := range queues {
		sequences[q.at] = q.sequence + len(q.records)
	}
	stays.Revision = uint64(offset) + 1
	l.mu.Lock()
	l.revision = stays.Revision
	l.mu.Unlock()
	return stays, nil
}

// transact runs a transaction and returns the offset of the position. The end is asked for once: an
// answer that does not come leaves it in doubt.
func (l *kafkaLedger) transact(ctx context.Context, by producer, parts []partition, queues []*kafkaRecords, last *kafkaRecords) (int, error) {
	_, err := try(ctx, l.p, "begin", func(err error) bool { return errors.Is(err, errConcurrent) }, func(*fate) (struct{}, error) {
		return struct{}{}, l.k.begin(by.epoch, parts)
	})
	if err != nil {
		return 0, err
	}
	if err := l.send(ctx, by, true, queues); err != nil {
		return 0, err
	}
	_, err = call(ctx, l.p, request{what: "end", patience: tryTimeout, once: true}, func(*fate) (struct{}, error) { return struct{}{}, l.k.commit(by.epoch) })
	return last.offset, err
}

// compare returns checkpoint.ErrConflict if the current position is not prev.
func (l *kafkaLedger) compare(ctx context.Context, prev checkpoint.Checkpoint) error {
	l.mu.Lock()
	live, known, revision := l.live, l.known, l.revision
	l.mu.Unlock()
	if !live {
		return errNoSession
	}
	if !known {
		_, now, err := l.load(ctx, func(err error) bool { return err == nil || errors.Is(err, checkpoint.ErrNotFound) })
		l.mu.Lock()
		known = l.known
		l.mu.Unlock()
		if err != nil && !known {
			return err
		}
		revision = now
	}
	if prev.Revision != revision {
		return fmt.Errorf("%w: revision %d is current, not %d", checkpoint.ErrConflict, revision, prev.Revision)
	}
	return nil
}
