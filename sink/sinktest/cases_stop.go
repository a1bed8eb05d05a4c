package sinktest

import (
	"context"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

// soon is how long Publish and Close may take to return once they were told to stop.
const soon = 30 * time.Second

func (k *kit) cancelledBefore() {
	topics := k.topics(1)
	s := k.open(topics)
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

// cancelledDuring ends the context at growing delays, again and again until that came before the end of a Publish: what it
// reports durable is stored, and publishing the rest keeps the order.
func (k *kit) cancelledDuring() {
	topics := k.topics(2)
	s := k.open(topics)
	var sent []sink.Message
	cancelled := 0
	const rounds, atMost = 6, 120
	for attempt := 0; attempt < rounds || cancelled == 0 && attempt < atMost; attempt++ {
		delay := 50 * time.Microsecond
		for range attempt % rounds {
			delay *= 3
		}
		batch := k.batch(topics, 400)
		ctx, cancel := context.WithTimeout(k.ctx, delay)
		err := s.Publish(ctx, batch)
		cancel()
		if err != nil {
			cancelled++
			k.checkError(err, len(batch))
			if !k.Elections {
				require.ErrorIs(k, err, context.DeadlineExceeded)
			}
			k.requireHas(topics, batch[:sink.Durable(err, len(batch))])
			k.publish(s, batch[sink.Durable(err, len(batch)):])
		}
		sent = append(sent, batch...)
	}
	require.Positive(k, cancelled, "no attempt was cancelled in time")
	k.requireInOrder(topics, sent)
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
	s := k.open(k.topics(1))
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
	s := k.open(topics)
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
	s := k.open(topics)
	k.publishWhile(s, topics, func() {
		for range 3 {
			k.Disturb(k.T)
		}
	})
}

// restart takes the broker down and up again in the middle of the flow.
func (k *kit) restart() {
	topics := k.topics(2)
	s := k.open(topics)
	k.publishWhile(s, topics, func() {
		for range 2 {
			k.Stop(k.T)
			k.Start(k.T)
		}
	})
}

// publishWhile publishes batch after batch until trouble has returned and a few more are through: everything is stored at least
// once, in order.
func (k *kit) publishWhile(s Sink, topics []string, trouble func()) {
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

// cancelledWhileDown checks that Publish ends with its context while the broker is away, and that nothing is buffered behind
// the caller's back.
func (k *kit) cancelledWhileDown() {
	topics := k.topics(1)
	s := k.open(topics)
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
