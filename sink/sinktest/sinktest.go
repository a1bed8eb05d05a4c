// Package sinktest is the conformance kit that every sink passes, against a real broker: order,
// fidelity, the durable prefix under every failure, cancellation, closing, and what the sink says
// of its destination.
//
// What it does not prove: durability through a power failure, and behaviour beyond one process;
// crash tests do that.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

// Features says what the bus under test does; a case that needs what is missing is skipped.
type Features struct {
	Dedupe          bool // a second copy of a message with the same ID is stored once
	Partitions      bool // order holds per topic and key only, and keys are stored
	RejectsTooLarge bool // MaxMessage is set, and a larger message gives a RejectedError
	LegalTopics     bool // IllegalTopics are refused by Prepare and Publish
	CreatesTopics   bool // Prepare creates what is missing
	HoldsState      bool // Holds reports what is stored; without it, it always says false
	JSONBodies      bool // bodies are kept as JSON values: others are not sent, and blanks between tokens need not be kept
	AtomicPrefix    bool // after a rejected message nothing of the batch is stored; otherwise other partitions may be
}

// Harness connects the kit to one broker. All functions but New and Read may be nil; the cases that
// need them are skipped.
type Harness struct {
	Features      Features
	IllegalTopics []string // names the bus refuses
	MaxMessage    int      // largest message in bytes, headers included; the kit sends incompressible bodies well above it
	// Timeout bounds each case; zero means five minutes.
	Timeout time.Duration
	// New returns a sink on the broker, which may create topics if Features.CreatesTopics is set.
	// Every call returns another one on the same destination. The kit closes it.
	New func(t testing.TB) sink.Sink
	// NewStrict returns a sink that may create nothing.
	NewStrict func(t testing.TB) sink.Sink
	// Read returns every message stored on the topics, as a reader independent of the sink sees
	// them, in stored order (with partitions: in stored order per partition). A missing topic holds
	// nothing. Headers that the bus or the sink added for its own use may be present; Position and
	// ID need not be filled in.
	Read func(t testing.TB, topics []string) []sink.Message
	// Stop takes the broker down, without warning its clients; Start brings it back with what it
	// had stored. Both return when done.
	Stop, Start func(t testing.TB)
	// Elections says that the bus may be without a leader now and then by itself, as a
	// cluster is: a failed attempt is then made again in every case, from the durable prefix, and
	// may store again what it had stored; a question that failed is asked again. Elsewhere the
	// first one has to succeed.
	Elections bool
	// Disturb makes the broker move its leaders, or causes another disturbance, while messages
	// flow. It returns when done and is called several times.
	Disturb func(t testing.TB)
}

// Run runs every case of the kit as a subtest.
func Run(t *testing.T, h Harness) {
	require.NotNil(t, h.New, "Harness.New")
	require.NotNil(t, h.Read, "Harness.Read")
	for _, c := range []struct {
		name string
		skip bool
		run  func(k *kit)
	}{
		{"EmptyBatch", false, (*kit).emptyBatch},
		{"OrderOverBatches", false, (*kit).orderOverBatches},
		{"Fidelity", false, (*kit).fidelity},
		{"InputUntouched", false, (*kit).inputUntouched},
		{"Dedupe", !h.Features.Dedupe, (*kit).dedupe},
		{"NoIDNoDedupe", false, (*kit).noIDNoDedupe},
		{"PoisonTooLarge", !h.Features.RejectsTooLarge, (*kit).poisonTooLarge},
		{"PoisonTopic", !h.Features.LegalTopics, (*kit).poisonTopic},
		{"IllegalTopicsInPrepare", !h.Features.LegalTopics, (*kit).illegalTopicsInPrepare},
		{"CancelledBefore", false, (*kit).cancelledBefore},
		{"CancelledDuring", false, (*kit).cancelledDuring},
		{"CloseDuringPublish", false, (*kit).closeDuringPublish},
		{"ConcurrentClose", false, (*kit).concurrentClose},
		{"PublishAfterClose", false, (*kit).publishAfterClose},
		{"Identity", false, (*kit).identity},
		{"PrepareTwice", false, (*kit).prepareTwice},
		{"PrepareMoreTopics", !h.Features.CreatesTopics, (*kit).prepareMoreTopics},
		{"MissingTopicsRefused", h.NewStrict == nil, (*kit).missingTopicsRefused},
		{"Holds", !h.Features.HoldsState, (*kit).holds},
		{"Inspect", !h.Features.CreatesTopics, (*kit).inspect},
		{"Disturbed", h.Disturb == nil, (*kit).disturbed},
		{"Restart", h.Stop == nil || h.Start == nil, (*kit).restart},
		{"CancelledWhileDown", h.Stop == nil || h.Start == nil, (*kit).cancelledWhileDown},
		{"ReturnsWhileDown", h.Stop == nil || h.Start == nil, (*kit).returnsWhileDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.skip {
				t.Skip("the harness does not offer what this case needs")
			}
			timeout := h.Timeout
			if timeout == 0 {
				timeout = 5 * time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			c.run(&kit{T: t, Harness: h, ctx: ctx, scope: fmt.Sprintf("kit%d", scopes.Add(1))})
		})
	}
}

// scopes numbers the cases of a process, so that each has its own topics on a shared broker.
var scopes atomic.Int64

// kit is one case under way.
type kit struct {
	*testing.T
	Harness
	ctx   context.Context
	scope string
	sent  int  // messages made so far: their numbers go on over batches
	again bool // an attempt was made again, so that what it had stored may be there twice
}

// topics returns n topics that no other case uses.
func (k *kit) topics(n int) []string {
	topics := make([]string, n)
	for i := range topics {
		topics[i] = fmt.Sprintf("%s.topic-%d", k.scope, i)
	}
	return topics
}

// preparedSink returns a sink prepared for topics.
func (k *kit) preparedSink(topics []string) sink.Sink {
	k.Helper()
	s := k.New(k.T)
	k.Cleanup(func() { _ = s.Close() })
	k.prepare(s, topics)
	return s
}

// prepare calls Prepare until it succeeds: a broker that has just started may need a moment.
func (k *kit) prepare(s sink.Sink, topics []string) {
	k.Helper()
	for {
		err := s.Prepare(k.ctx, topics)
		if err == nil {
			return
		}
		var fatal *sink.FatalError
		require.NotErrorAs(k, err, &fatal)
		k.waitToRetry("Prepare", err)
	}
}

// waitToRetry waits before another attempt, or fails the case if its time is up.
func (k *kit) waitToRetry(what string, err error) {
	k.Helper()
	select {
	case <-time.After(20 * time.Millisecond):
	case <-k.ctx.Done():
		require.NoError(k, err, "%s did not succeed in time", what)
	}
}

// untilAnswered puts a question to the destination once, or with Elections until it is answered or
// the answer is final.
func (k *kit) untilAnswered(what string, question func() error) error {
	k.Helper()
	for {
		err := question()
		var fatal *sink.FatalError
		if err == nil || !k.Elections || k.ctx.Err() != nil || errors.As(err, &fatal) {
			return err
		}
		k.waitToRetry(what, err)
	}
}

// attempt publishes batch once, or with Elections until it is stored, or can never be. It returns
// how many messages are durable.
func (k *kit) attempt(s sink.Sink, batch []sink.Message) (durable int, err error) {
	k.Helper()
	for {
		err := s.Publish(k.ctx, batch[durable:])
		durable += sink.Durable(err, len(batch)-durable)
		var (
			rejected *sink.RejectedError
			fatal    *sink.FatalError
		)
		if err == nil || !k.Elections || k.ctx.Err() != nil || errors.As(err, &rejected) || errors.As(err, &fatal) {
			return durable, err
		}
		k.again = true
		k.waitToRetry("Publish", err)
	}
}

// store publishes batch while nothing is disturbed.
func (k *kit) store(s sink.Sink, batch []sink.Message) {
	k.Helper()
	_, err := k.attempt(s, batch)
	require.NoError(k, err)
}

// publish publishes batch to its end the way the pipeline does: after a failure it goes on from the
// durable prefix.
func (k *kit) publish(s sink.Sink, batch []sink.Message) (failures int) {
	k.Helper()
	for {
		err := s.Publish(k.ctx, batch)
		if err == nil {
			return failures
		}
		var (
			rejected *sink.RejectedError
			fatal    *sink.FatalError
		)
		require.NotErrorAs(k, err, &rejected)
		require.NotErrorAs(k, err, &fatal)
		require.NoError(k, k.ctx.Err(), "publishing did not succeed in time: %v", err)
		k.checkError(err, len(batch))
		batch = batch[sink.Durable(err, len(batch)):]
		failures++
		k.waitToRetry("Publish", err)
	}
}

// checkError holds an error of Publish against the contract.
func (k *kit) checkError(err error, n int) {
	k.Helper()
	var pe *sink.PublishError
	require.ErrorAs(k, err, &pe)
	require.GreaterOrEqual(k, pe.Durable, 0)
	require.Less(k, pe.Durable, n, "an error although the whole batch is durable")
	require.Error(k, pe.Err)
}
