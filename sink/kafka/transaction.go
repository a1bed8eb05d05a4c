package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// What is best gathered while a lane is behind. However few messages of a batch go to a partition,
// they cost a separate record batch, and in a transaction a record at its end and a write of
// the brokers: on an Apache Kafka with 94 topics of six partitions three times as many events in
// one are carried nearly twice as fast.
const (
	BatchMessages = 3000    // in one Publish or Commit
	Prefetch      = 8 << 20 // bytes of pages read ahead, which are two such batches of usual events
)

// transaction makes a delivery all or nothing. Its partitions are enlisted once every message has a
// partition and is known to fit, so that a message which can never be stored is found while nothing
// is begun.
type transaction struct {
	coordinator *client.Coordinator
	session     client.Session
	// positionTopic holds the last message of the delivery, and nothing else.
	positionTopic string

	enlisting task
	begun     bool  // the coordinator may hold an open transaction
	enlisted  bool  // it has answered that it does
	position  int64 // offset of the position; -1 until it is known
}

// enlist asks the coordinator to begin the transaction with every partition of the delivery, once
// these are all known.
func (d *delivery) enlist(now time.Time) {
	t := d.txn
	if t.enlisted || len(d.placer.waiting) > 0 || d.held < len(d.batch) || d.failure != nil {
		return
	}
	t.enlisting.wanted = true
	if !t.enlisting.due(now) {
		return
	}
	partitions := make([]client.Partition, len(d.sender.queues))
	for i, q := range d.sender.queues {
		partitions[i] = q.id()
	}
	t.enlisting.busy, t.begun = true, true
	d.spawn(func(ctx context.Context) func() {
		err := t.coordinator.Add(ctx, t.session, partitions)
		return func() { d.enlistAnswered(err) }
	})
}

func (d *delivery) enlistAnswered(err error) {
	d.txn.enlisting.busy = false
	if err == nil {
		d.txn.enlisted = true
		return
	}
	if d.ctx.Err() != nil {
		d.trouble = err
		return
	}
	d.fail(0, d.txn.refused(err))
}

// recordPosition records where the position is.
func (t *transaction) recordPosition(q *partitionQueue, a client.Acknowledgement) {
	if q.topic == t.positionTopic && a.BaseOffset >= 0 {
		t.position = a.BaseOffset + int64(q.pending.records) - 1
	}
}

// stopTransaction says what became of a delivery that is a transaction: nil if every record is
// stored, so that it can be committed. After an error nothing is, for any content of the
// partitions, once the transaction was aborted.
func (d *delivery) stopTransaction() error {
	var rejected *sink.RejectedError
	last := len(d.batch) - 1 // the position
	switch {
	case d.durable == len(d.batch):
		return nil
	case errors.As(d.failure, &rejected) && d.cut == last:
		return &sink.FatalError{Err: fmt.Errorf("the position %w; raise that topic's max.message.bytes", rejected)}
	case rejected != nil:
		return &sink.PublishError{Durable: d.cut, Err: rejected}
	case d.failure != nil:
		return d.failure
	}
	return d.stopped()
}

// refused says what an answer means that ends the transaction.
func (t *transaction) refused(err error) error {
	if client.IsFenced(err) {
		return t.fenced(err)
	}
	if client.IsUnsupported(err) {
		return noTransactions(err)
	}
	return fmt.Errorf("the transaction of %s cannot go on: %w", t.coordinator.ID, err)
}

// fenced is the conflict that a later session of the same transactional id makes.
func (t *transaction) fenced(err error) error {
	return fmt.Errorf("%w: the cluster no longer accepts this relay as %s: another relay with this id has taken over, or the transaction took longer than transaction_timeout: %w",
		checkpoint.ErrConflict, t.coordinator.ID, err)
}

// ErrNoTransactions means that the cluster cannot do transactions at all, so that delivery can only
// be at_least_once there. A missing permission or a coordinator that is down is another error.
var ErrNoTransactions = errors.New("the kafka cluster has no transactions")

func noTransactions(err error) error {
	return &sink.FatalError{Err: fmt.Errorf("%w, so exactly_once is not possible there: set delivery at_least_once: %w", ErrNoTransactions, err)}
}
