package sinktest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

// soon is how long Publish and Close may take to return once they were told to stop.
const soon = 30 * time.Second

func (k *kit) cancelledBefore() {
	topics := k.topics(1)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 10)
	ctx, cancel := context.WithCancel(k.ctx)
	cancel()
	err := s.Publish(ctx, batch)
	k.checkError(err, len(batch))
	require.ErrorIs(k, err, context.Canceled)
	require.Zero(k, sink.Durable(err, len(batch)))
	require.Empty(k, k.Read(k.T, topics), "sent although the context had ended")

	k.store(s, batch) // the sink is usable afterwards
	k.requireExactly(topics, batch)
}

// cancelledDuring ends the context during Publish, at a growing number of looks at it and after
// growing delays: what is reported durable is stored, and publishing the rest keeps the order. A
// machine that is busy may be late with every delay.
func (k *kit) cancelledDuring() {
	topics := k.topics(2)
	s := k.preparedSink(topics)
	var sent []sink.Message
	publish := func(ctx context.Context) error {
		batch := k.batch(topics, 400)
		err := s.Publish(ctx, batch)
		if err != nil {
			k.checkError(err, len(batch))
			if !k.Elections {
				require.ErrorIs(k, err, ctx.Err())
			}
			k.requireHas(topics, batch[:sink.Durable(err, len(batch))])
			k.publish(s, batch[sink.Durable(err, len(batch)):])
		}
		sent = append(sent, batch...)
		return err
	}
	cancelled := 0
	for _, n := range []int{1, 3, 9, 27, 81, 243} {
		looked := endingAt(k.ctx, n)
		if err := publish(looked); err != nil {
			cancelled++
		}
		looked.cancel()
		timed, cancel := context.WithTimeout(k.ctx, time.Duration(n)*50*time.Microsecond)
		_ = publish(timed)
		cancel()
	}
	require.Positive(k, cancelled, "nobody looks at the context")
	k.requireInOrder(topics, sent)
}

// endingContext ends by itself when it is looked at.
type endingContext struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int64
}

// endingAt returns a context that ends at the n-th look.
func endingAt(parent context.Context, n int) *endingContext {
	c := &endingContext{}
	c.Context, c.cancel = context.WithCancel(parent)
	c.left.Store(int64(n))
	return c
}

func (c *endingContext) look() {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
}

// Done implements context.Context.
func (c *endingContext) Done() <-chan struct{} {
	c.look()
	return c.Context.Done()
}

// Err implements context.Context.
func (c *endingContext) Err() error {
	c.look()
	return c.Context.Err()
}

func (k *kit) closeDuringPublish() {
	for range 3 {
		topics := k.topics(1)
		s := k.New(k.T)
		k.prepare(s, topics)
		type result struct {
			sent    []sink.Message
			durable int
			err     error
		}
		done := make(chan result, 1)
		started := make(chan struct{})
		batch := k.batch(topics, 8000)
		go func() {
			close(started)
			err := s.Publish(k.ctx, batch)
			done <- result{batch, sink.Durable(err, len(batch)), err}
		}()
		<-started
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		for range 2 {
			select {
			case err := <-closed:
				require.NoError(k, err)
			case r := <-done:
				if r.err != nil {
					k.checkError(r.err, len(r.sent))
				}
				k.requireHas(topics, r.sent[:r.durable])
			case <-time.After(2 * soon):
				require.Fail(k, "Publish or Close hangs")
			}
		}
	}
}

func (k *kit) concurrentClose() {
	s := k.preparedSink(k.topics(1))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { _ = s.Close() })
	}
	finished := make(chan struct{})
	go func() { group.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(2 * soon):
		require.Fail(k, "Close hangs")
	}
}

func (k *kit) publishAfterClose() {
	topics := k.topics(1)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 3)
	k.store(s, batch[:1])
	require.NoError(k, s.Close())
	err := s.Publish(k.ctx, batch[1:])
	k.checkError(err, 2)
	require.Zero(k, sink.Durable(err, 2))
	k.requireExactly(topics, batch[:1])
}

// disturbed publishes while the broker moves its leaders.
func (k *kit) disturbed() {
	topics := k.topics(2)
	s := k.preparedSink(topics)
	k.publishWhile(s, topics, func() {
		for range 3 {
			k.Disturb(k.T)
		}
	})
}

// restart takes the broker down and up again in the middle of the flow.
func (k *kit) restart() {
	topics := k.topics(2)
	s := k.preparedSink(topics)
	k.publishWhile(s, topics, func() {
		for range 2 {
			k.Stop(k.T)
			k.Start(k.T)
		}
	})
}

// publishWhile publishes batch after batch until trouble has returned and a few more are through:
// everything is stored at least once, in order.
func (k *kit) publishWhile(s sink.Sink, topics []string, trouble func()) {
	over := make(chan struct{})
	first := make(chan struct{})
	go func() {
		defer close(over)
		<-first
		trouble()
	}()
	var sent []sink.Message
	failures, after := 0, 0
	for after < 3 {
		batch := k.batch(topics, 200)
		failures += k.publish(s, batch)
		sent = append(sent, batch...)
		if len(sent) == len(batch) {
			close(first)
		}
		select {
		case <-over:
			after++
		default:
		}
	}
	extra := k.requireInOrder(topics, sent)
	k.Logf("%d messages, %d failed calls of Publish, %d copies too many", len(sent), failures, extra)
}

// cancelledWhileDown checks that Publish ends with its context while the broker is away, and that
// nothing is buffered behind the caller's back.
func (k *kit) cancelledWhileDown() {
	topics := k.topics(1)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 30)
	k.store(s, batch[:10])
	k.Stop(k.T)
	ctx, cancel := context.WithTimeout(k.ctx, 300*time.Millisecond)
	defer cancel()
	started := time.Now()
	err := s.Publish(ctx, batch[10:])
	took := time.Since(started)
	k.Start(k.T)
	k.checkError(err, 20)
	require.Less(k, took, soon)
	durable := 10 + sink.Durable(err, 20)
	k.publish(s, batch[durable:])
	k.requireInOrder(topics, batch)
}

// returnsWhileDown checks that Publish gives up by itself while the broker is away, says what is
// durable, and loses nothing and stores nothing twice afterwards.
func (k *kit) returnsWhileDown() {
	topics := k.topics(2)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 40)
	k.store(s, batch[:10])
	k.Stop(k.T)
	durable := 10
	for range 3 {
		started := time.Now()
		err := s.Publish(k.ctx, batch[durable:])
		took := time.Since(started)
		k.checkError(err, len(batch)-durable)
		require.NoError(k, k.ctx.Err(), "Publish returned only with its context")
		var (
			rejected *sink.RejectedError
			fatal    *sink.FatalError
		)
		require.NotErrorAs(k, err, &rejected)
		require.NotErrorAs(k, err, &fatal)
		require.Less(k, took, soon, "Publish holds on to a broker that is away")
		durable += sink.Durable(err, len(batch)-durable)
	}
	k.Start(k.T)
	k.publish(s, batch[durable:])
	k.requireInOrder(topics, batch)
}
