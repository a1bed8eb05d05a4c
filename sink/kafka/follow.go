package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// followPause is the time between two looks at how far the partitions go.
const followPause = 250 * time.Millisecond

// listPause is the time between two looks at which topics of patterns exist.
const listPause = 2 * time.Second

// Follow implements sink.Followable. It reads the partitions of o.Topics without a consumer group,
// and calls fn for what is committed. Messages of one partition come in their order; those of
// different partitions come as they are found. It holds one answer of a broker at a time. A cluster
// that cannot be reached is asked again for ever once it has answered.
func (c Config) Follow(ctx context.Context, o sink.FollowOptions, fn func(sink.Message) error) (err error) {
	if o.Address != "" {
		c.Brokers = strings.Split(strings.TrimPrefix(o.Address, "kafka://"), ",")
	}
	c.Logger, c.RelayID, c.Lane, c.Files, c.State = o.Logger, o.RelayID, o.Lane, o.Files, o.State
	if err := c.secrets(o.OpenOptions); err != nil {
		return err
	}
	chosen, err := newSelection(o.Topics, c.TopicPrefix, o.Patterns)
	if err != nil {
		return &sink.SettingsError{Err: err}
	}
	s, err := New(c) //nolint:contextcheck // closed below
	if err != nil {
		return &sink.SettingsError{Err: err}
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	f := &follower{topicReader: s.reader, selection: chosen, next: make(map[client.Partition]int64), fromStart: o.FromStart, fn: fn}
	err = f.run(ctx)
	if ctx.Err() != nil && f.refused == nil {
		return nil //nolint:nilerr // the caller has had enough
	}
	return err
}

// selection says which topics are followed.
type selection struct {
	topics   []string // sorted
	patterns []string // of topics, which may come to exist later
	prefix   string   // of all of them
	filters  []string // that a topic of patterns must match without its prefix; none for all
}

// newSelection returns those of the topics that a filter matches. Each filter must match one, or
// one that may come to exist.
func newSelection(topics []string, prefix string, filters []string) (selection, error) {
	patterns, literal := divide(topics)
	c := selection{patterns: patterns, prefix: prefix, filters: filters}
	for _, f := range filters {
		is := func(t string) bool { return c.matches(f, t) }
		may := func(p string) bool { return sink.Overlap(endless(f), strings.TrimPrefix(p, prefix)) }
		if !slices.ContainsFunc(literal, is) && !slices.ContainsFunc(patterns, may) {
			return c, fmt.Errorf("no topic of this sink matches %q: name a topic as the routes have it, or a pattern such as dsync.*", f)
		}
	}
	for _, t := range literal {
		if illegalTopicName(t) == "" && c.wants(t) {
			c.topics = append(c.topics, t)
		}
	}
	slices.Sort(c.topics)
	c.topics = slices.Compact(c.topics)
	return c, nil
}

// endless writes a filter as sink.IsPattern has it: its * at the end stands for one or more words.
func endless(filter string) string {
	if filter == "*" || strings.HasSuffix(filter, ".*") {
		return strings.TrimSuffix(filter, "*") + ">"
	}
	return filter
}

func (c *selection) matches(filter, topic string) bool {
	rest, ok := strings.CutPrefix(topic, c.prefix)
	return ok && matchesTopic(filter, rest)
}

// wants reports whether the filters let a topic pass.
func (c *selection) wants(topic string) bool {
	return len(c.filters) == 0 || slices.ContainsFunc(c.filters, func(f string) bool { return c.matches(f, topic) })
}

// add adds those of names that a pattern stands for.
func (c *selection) add(names []string) {
	for _, t := range matching(c.patterns, names) {
		if at, found := slices.BinarySearch(c.topics, t); !found && c.wants(t) {
			c.topics = slices.Insert(c.topics, at, t)
		}
	}
}

// matchesTopic reports whether a pattern of event types, or a subject filter as NATS has it,
// matches a topic: a * stands for a word, at the end for one or more, as > does.
func matchesTopic(pattern, topic string) bool {
	words, of := strings.Split(pattern, "."), strings.Split(topic, ".")
	for i, w := range words {
		last := i == len(words)-1
		switch {
		case i >= len(of):
			return false
		case last && (w == "*" || w == ">"):
			return true
		case w != "*" && w != of[i]:
			return false
		}
	}
	return len(words) == len(of)
}

// follower reads partitions as they grow. It is used from one goroutine.
type follower struct {
	*topicReader
	selection
	listed    time.Time // when the topics of the cluster were looked at last
	fromStart bool
	fn        func(sink.Message) error

	looked  bool                       // at every partition, at least once
	next    map[client.Partition]int64 // offset to read next; absent if the partition is new
	refused error                      // what fn returned
}

// run follows until ctx ends or fn returns an error. Before the first look has succeeded, every
// error ends it.
func (f *follower) run(ctx context.Context) error {
	f.cluster.Watch(f.topics)
	f.cluster.Refresh()
	for failures := 0; ; {
		err := f.round(ctx)
		switch {
		case f.refused != nil:
			return f.refused
		case err == nil:
			failures = 0
			if err := retry.Sleep(ctx, followPause); err != nil {
				return err
			}
			continue
		case !f.looked || ctx.Err() != nil:
			return err
		}
		if failures++; failures == 1 {
			f.log.Warn("cannot read from Kafka; trying again until it works", zap.Error(err))
		}
		f.cluster.Refresh()
		if err := retry.Sleep(ctx, client.Retries.After(min(failures, 4))); err != nil {
			return err
		}
	}
}

// round asks how far the partitions go, and reads those that go on.
func (f *follower) round(ctx context.Context) error {
	var bounds map[client.Partition]sink.Log
	var all []client.Partition
	err := f.retryTransient(ctx, func(ctx context.Context) (err error) {
		if err = f.list(ctx); err == nil {
			all, bounds, err = f.allBounds(ctx, f.topics, time.Time{})
		}
		return err
	})
	if err != nil {
		return err
	}
	begin := !f.looked && !f.fromStart
	for _, p := range all {
		l := bounds[p]
		next, known := f.next[p]
		switch {
		case begin:
			f.next[p] = l.End
			continue
		case !known, next < l.From, next > l.End: // new, cut off by retention, or made again
			f.next[p] = l.From
		}
	}
	f.looked = true
	for _, p := range all {
		l := bounds[p]
		if l.From = f.next[p]; l.From >= l.End {
			continue
		}
		if err := f.read(ctx, p, l); err != nil {
			return err
		}
	}
	return nil
}

// list looks for topics of patterns if that was a while ago.
func (f *follower) list(ctx context.Context) error {
	if len(f.patterns) == 0 || time.Since(f.listed) < listPause {
		return nil
	}
	names, err := f.names(ctx)
	if err != nil {
		return f.explain(err)
	}
	f.add(names)
	f.listed = time.Now()
	return nil
}

// read passes on what the log holds.
func (f *follower) read(ctx context.Context, p client.Partition, l sink.Log) error {
	err := f.scan(ctx, l, func(m *sink.Stored) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.refused = f.fn(sink.Message{Topic: m.Topic, Key: m.Key, Headers: m.Headers, Body: m.Body, Entity: f.cfg.entityOf(m.Topic)}); f.refused != nil {
			return f.refused
		}
		f.next[p] = m.Offset + 1
		return nil
	})
	if err == nil {
		f.next[p] = l.End // behind the last message there are only ends of transactions
	}
	return err
}
