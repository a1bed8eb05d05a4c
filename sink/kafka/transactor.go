package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// transactor stores messages and the position in one transaction. It ends the session if a
// transaction may be left open. The caller holds Ledger.writing.
type transactor struct {
	publisher   *publisher // with the producer session and the sequences of the ledger
	coordinator *client.Coordinator
	session     *ledgerSession
	topic       string // of the position
}

// part returns how many messages of the batch, which are those of whole events, go into the next
// transaction.
func (t *transactor) part(batch []sink.Message) int {
	t.publisher.mu.Lock()
	most := t.publisher.pace.Transaction
	t.publisher.mu.Unlock()
	size, whole, event := 0, 0, ""
	for i := range batch {
		if id := batch[i].Position.EventID; id != event || i == 0 {
			whole, event = i, id
		}
		if size += messageSize(&batch[i], i); size > most && whole > 0 {
			return whole
		}
	}
	return len(batch)
}

// store stores the messages, the position last, in one transaction, and returns the position's
// offset.
func (t *transactor) store(ctx context.Context, messages []sink.Message) (int64, error) {
	t.publisher.mu.Lock()
	defer t.publisher.mu.Unlock()
	if len(messages) > 1 {
		if err := t.awaitLeaders(ctx); err != nil {
			return 0, err
		}
	}
	limit := min(t.publisher.cfg.TransactionTimeout, t.publisher.bounds.begin)
	bounded, stop := client.WithAllowance(ctx, limit, t.outOfTime(limit))
	defer stop()
	started := time.Now()
	offset, err := t.run(bounded, messages)
	size := 0
	for i := range messages {
		size += messageSize(&messages[i], i)
	}
	pace, now := t.publisher.pace, time.Now()
	switch {
	case err == nil:
		pace.Committed(size, now.Sub(started)+pace.PausedFor(now))
	case errors.Is(err, sink.ErrTimeout), errors.Is(ctx.Err(), context.DeadlineExceeded):
		pace.NotCommitted(size)
	}
	return offset, err
}

// outOfTime is the error of a transaction that took as long as it may.
func (t *transactor) outOfTime(limit time.Duration) error {
	setting, value := "transaction_timeout", t.publisher.cfg.TransactionTimeout
	if limit < value {
		setting, value = "request_timeout", t.publisher.cfg.RequestTimeout
	}
	return tooSlow(setting, value, fmt.Errorf("not done within %s (%s is %s): %w", limit, setting, value, context.DeadlineExceeded))
}

// awaitLeaders waits for leaders that throttle relay, before a transaction is open.
func (t *transactor) awaitLeaders(ctx context.Context) error {
	wait := t.publisher.pace.PausedFor(time.Now())
	if wait > t.publisher.bounds.begin {
		return errThrottledLeader(wait)
	}
	if wait > 0 && retry.Sleep(ctx, wait) != nil {
		return fmt.Errorf("committing to kafka: %w; %w", context.Cause(ctx), errThrottledLeader(wait))
	}
	return nil
}

func (t *transactor) run(ctx context.Context, messages []sink.Message) (int64, error) {
	d := newDelivery(ctx, t.publisher, messages)
	// P5: the record of the position is in the transaction of its events.
	txn := &transaction{coordinator: t.coordinator, session: t.publisher.session, positionTopic: t.topic, position: -1}
	d.txn = txn
	if err := d.run(); err != nil {
		if txn.begun {
			t.session.end()
		}
		return 0, t.explain(err)
	}
	if tries, err := t.coordinator.Commit(ctx, txn.session); err != nil {
		t.session.end()
		switch {
		case client.IsFenced(err) && tries == 1:
			return 0, txn.fenced(err)
		case client.IsUnsupported(err):
			return 0, noTransactions(err)
		}
		return 0, t.explain(err)
	}
	if txn.position < 0 {
		t.session.end()
		return 0, fmt.Errorf("the position was committed to kafka topic %s, but the broker did not say at which offset", t.topic)
	}
	return txn.position, nil
}

// explain returns an error of a transaction behind what it most likely means. It is a
// *sink.FatalError if only an operator can resolve it.
func (t *transactor) explain(err error) error {
	var fatal *sink.FatalError
	var rejected *sink.RejectedError
	switch {
	case errors.As(err, &fatal), errors.As(err, &rejected):
		return err
	case client.IsUnsupported(err):
		return noTransactions(err)
	case errors.Is(err, kafkago.TransactionalIDAuthorizationFailed):
		return &sink.FatalError{Err: fmt.Errorf("relay may not use the transactional id %s; grant it by %s: %w",
			t.coordinator.ID, t.publisher.transactionalACL(t.coordinator.ID), err)}
	case errors.Is(err, kafkago.InvalidTransactionTimeout):
		return &sink.FatalError{Err: fmt.Errorf("the brokers refuse transaction_timeout %s: it is more than their transaction.max.timeout.ms, or less than the service allows; change transaction_timeout: %w",
			t.publisher.cfg.TransactionTimeout, err)}
	case errors.Is(err, kafkago.GroupCoordinatorNotAvailable):
		return fmt.Errorf("no broker coordinates transactions now; if this does not pass, the cluster has fewer brokers than "+
			"transaction.state.log.replication.factor or transaction.state.log.min.isr asks for: %w", err)
	}
	return t.publisher.explain(err)
}
