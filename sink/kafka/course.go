package kafka

import (
	"context"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/contain"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// course is how a delivery goes: what its parts share. It belongs to the goroutine that calls
// delivery.run. What waits for brokers runs in goroutines that spawn starts; they report by a
// function on done.
type course struct {
	*batchState
	p   *publisher
	txn *transaction // nil: what is acknowledged is durable; else it is once the transaction is committed

	ctx     context.Context
	cancel  context.CancelFunc
	done    chan func()
	running int

	started  time.Time
	answers  int       // of the cluster, when the delivery started
	progress time.Time // when something was stored last, or began to be possible
	progressed,
	closing bool // no further request is sent
	late  bool  // an answer did not come in time
	ended error // why the context ended before the delivery did

	layout      *client.Layout
	locating    task // the layout
	fresh       bool // the layout must not come from the cache
	limitsSince time.Time

	trouble    error     // the last fault that was tried again
	troubled   time.Time // since when there are such faults
	complained time.Time
}

func newCourse(ctx context.Context, p *publisher, batch []sink.Message) *course {
	c := &course{batchState: newBatchState(batch), p: p, started: time.Now(), done: make(chan func()), answers: p.cluster.AnswerCount()}
	c.progress = c.started
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.locating.wanted = true
	return c
}

// spawn runs work in a goroutine; the function that it returns runs in the delivery's own. A panic
// of work is raised there too.
func (c *course) spawn(work func(ctx context.Context) func()) {
	c.running++
	go func() {
		var report func()
		if err := contain.Do(func() error { report = work(c.ctx); return nil }); err != nil {
			report = func() { panic(err) }
		}
		c.done <- report
	}()
}

// sendable returns where the messages end that may be sent now. A transaction sends none until all
// of them are known to fit, and none any more once one has failed.
func (c *course) sendable() int {
	if c.txn != nil && (!c.txn.enlisted || c.failure != nil) || c.closing {
		return 0
	}
	most := min(c.cut, c.held)
	if c.txn != nil {
		return min(most, len(c.batch))
	}
	return min(most, c.horizon(c.p.pace.Window))
}

// relocate asks for a layout that does not come from the cache.
func (c *course) relocate() { c.locating.wanted, c.fresh = true, true }

// locate fetches the layout of topics.
func (c *course) locate(topics []string) {
	if c.fresh {
		c.p.cluster.Refresh()
	}
	c.locating.busy, c.locating.wanted, c.fresh = true, false, false
	since := c.limitsSince
	c.spawn(func(ctx context.Context) func() {
		l, err := c.p.cluster.Locate(ctx, topics, since)
		return func() { c.located(l, err) }
	})
}

func (c *course) located(l *client.Layout, err error) {
	c.locating.busy = false
	if err != nil {
		c.locating.failed()
		c.relocate()
		c.complain(c.p.explain(err), "", -1)
		return
	}
	c.layout = l
	c.limitsSince, c.held = time.Time{}, len(c.batch)
	// A queue that still misses its leader asks again, at the pace of its failures.
	c.locating.failures++
	c.locating.notBefore = time.Now().Add(client.Retries.After(min(c.locating.failures, 6)))
}

// complain remembers a fault that is being retried, and logs it now and then once it does not pass
// by itself.
func (c *course) complain(err error, topic string, partition int32) {
	if c.ctx.Err() != nil {
		return // the fault is only that the context ended
	}
	now := time.Now()
	if c.trouble = err; c.troubled.IsZero() {
		c.troubled = now
	}
	if now.Sub(c.troubled) < complainAfter || now.Sub(c.complained) < complainEvery {
		return
	}
	c.complained = now
	fields := []zap.Field{zap.Error(err), zap.Duration("for", now.Sub(c.troubled).Round(time.Millisecond))}
	if topic != "" {
		fields = append(fields, zap.String("topic", topic))
	}
	if partition >= 0 {
		fields = append(fields, zap.Int32("partition", partition))
	}
	c.p.log.Warn("kafka does not take messages, trying again", fields...)
}

// task is something that the delivery needs from the cluster as a whole.
type task struct {
	wanted, busy bool
	backoff
}

func (t *task) due(now time.Time) bool { return t.wanted && !t.busy && !t.notBefore.After(now) }

// backoff spaces the tries at one thing.
type backoff struct {
	failures    int
	notBefore   time.Time
	deniedSince time.Time
}

// failed spaces the next try.
func (b *backoff) failed() {
	b.failures++
	b.notBefore = time.Now().Add(client.Retries.After(b.failures))
}

func (b *backoff) worked() { *b = backoff{} }

// denied reports whether a refused permission is final by now.
func (b *backoff) denied(grace time.Duration) bool {
	if b.deniedSince.IsZero() {
		b.deniedSince = time.Now()
	}
	return time.Since(b.deniedSince) >= grace
}
