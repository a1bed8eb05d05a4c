package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

const (
	defaultMaxTopics = 500 // Create.MaxTopics if it is not set
	mostTopics       = 2000

	// partitionsAtOnce bounds the partitions of the topics in one request to create topics, so that
	// a cluster finishes it in time and each attempt gets on.
	partitionsAtOnce = 300
)

// maxTopics returns how many topics the patterns of a lane may have.
func (c Create) maxTopics() int {
	if c.MaxTopics == 0 {
		return defaultMaxTopics
	}
	return c.MaxTopics
}

// onDemand creates the topics of patterns: each one before the first message that goes there. It is
// safe for concurrent use, but ready is for one goroutine at a time.
type onDemand struct {
	admin *topicAdmin

	mu       sync.Mutex // guards what follows
	patterns []string   // of the last Prepare
	known    map[string]bool
	note     func(ctx context.Context, topics []string) error // may be nil
}

// divide returns the patterns among topics, and the other ones.
func divide(topics []string) (patterns, literal []string) {
	for _, t := range topics {
		if sink.IsPattern(t) {
			patterns = append(patterns, t)
		} else {
			literal = append(literal, t)
		}
	}
	return patterns, literal
}

// names returns every topic of the cluster that relay may see.
func (c *common) names(ctx context.Context) ([]string, error) {
	names, err := c.cluster.TopicNames(ctx)
	if errors.Is(err, client.ErrNoTopicNames) {
		return nil, &sink.FatalError{Err: fmt.Errorf("topics with placeholders are not possible on this cluster: %w", err), Action: "upgrade the cluster, or give the routes topics without placeholders"}
	}
	return names, err
}

// matching returns those of names that a pattern stands for.
func matching(patterns, names []string) []string {
	var found []string
	for _, name := range names {
		if sink.HasTopic(patterns, name) {
			found = append(found, name)
		}
	}
	return found
}

// resolve returns topics with those that exist in place of each pattern, which are then sorted and
// each once. Without a pattern it returns topics as they are.
func (c *common) resolve(ctx context.Context, topics []string) ([]string, error) {
	patterns, literal := divide(topics)
	if len(patterns) == 0 {
		return topics, nil
	}
	names, err := c.names(ctx)
	if err != nil {
		return nil, c.explain(err)
	}
	literal = append(literal, matching(patterns, names)...)
	slices.Sort(literal)
	return slices.Compact(literal), nil
}

// exampleOf returns a topic that a pattern stands for and that no event makes, to ask whether relay
// may create such topics.
func exampleOf(pattern string) string {
	tokens := strings.Split(pattern, ".")
	for i, t := range tokens {
		if t == "*" || t == ">" {
			tokens[i] = "relay-check"
		}
	}
	return strings.Join(tokens, ".")
}

// prepare takes the patterns of a lane and finds out whether topics of them can be created. It
// returns the other topics.
func (o *onDemand) prepare(ctx context.Context, topics []string) ([]string, error) {
	patterns, literal := divide(topics)
	known := map[string]bool{}
	if len(patterns) > 0 {
		if !o.admin.cfg.Create.Enabled {
			return nil, &sink.FatalError{Err: fmt.Errorf("kafka topics %s: %w", strings.Join(patterns, ", "), errNotCreated)}
		}
		existing, faults, err := o.look(ctx, patterns)
		if err != nil {
			return nil, err
		}
		if err := faults.fatal(); err != nil {
			return nil, err
		}
		for _, t := range existing {
			known[t] = true
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.patterns, o.known = patterns, known
	return literal, nil
}

// errNotCreated is why a lane cannot have topics that are patterns.
var errNotCreated = errors.New("create.enabled is false, so relay cannot create the topics that it makes; set it to true")

// look returns the topics of patterns that exist, and why no further ones can be created. It
// creates nothing.
func (o *onDemand) look(ctx context.Context, patterns []string) (existing []string, found *faults, err error) {
	names, err := o.admin.names(ctx)
	if err != nil {
		return nil, nil, err
	}
	existing = matching(patterns, names)
	var examples []string
	for _, p := range patterns {
		example := exampleOf(p)
		if reason := illegalTopicName(example); reason != "" {
			return nil, nil, &sink.FatalError{Err: fmt.Errorf("no kafka topic can be like %s: its name %s", p, reason)}
		}
		if !slices.Contains(names, example) {
			examples = append(examples, example)
		}
	}
	// After an answer that a topic is created, kafka-go waits until its metadata has the topic.
	o.admin.cluster.Watch(examples)
	found, err = o.admin.tryCreation(ctx, examples, o.admin.cfg.Create)
	return existing, found, err
}

// ready creates the topics of patterns that messages of the batch need and that do not exist. It
// returns how many of the first messages have their topics then, and why the next one has none: a
// *sink.RejectedError if that topic can never be created, a *sink.FatalError if an operator must
// act, and another error if a later attempt may succeed.
func (o *onDemand) ready(ctx context.Context, batch []sink.Message) (int, error) {
	needed, first := o.unknown(batch)
	if len(needed) == 0 {
		return len(batch), nil
	}
	names, err := o.admin.names(ctx)
	if err != nil {
		return first[needed[0]], o.admin.prepareError(ctx, err)
	}
	plan := o.plan(needed, names)
	size := max(1, partitionsAtOnce/max(1, o.admin.cfg.Create.Partitions))
	for at := 0; at < len(plan.topics); at += size {
		part := plan.topics[at:min(at+size, len(plan.topics))]
		failed := o.provide(ctx, part, plan.missing)
		for _, t := range part {
			if err := failed[t]; err != nil {
				return first[t], o.admin.prepareError(ctx, err)
			}
		}
	}
	if plan.err != nil {
		return first[needed[len(plan.topics)]], plan.err
	}
	return len(batch), nil
}

// unknown returns the topics of patterns in the batch that are not known to exist, in the order of
// their first messages, and where these are.
func (o *onDemand) unknown(batch []sink.Message) (needed []string, first map[string]int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.patterns) == 0 {
		return nil, nil
	}
	first = map[string]int{}
	for i := range batch {
		topic := batch[i].Topic
		if _, seen := first[topic]; seen || o.known[topic] || !sink.HasTopic(o.patterns, topic) {
			continue
		}
		first[topic] = i
		needed = append(needed, topic)
	}
	return needed, first
}

// plan says what is done about the topics that are needed.
type plan struct {
	topics  []string        // the first of them, which can be provided
	missing map[string]bool // those of topics that are created
	err     error           // why the one after topics cannot be; nil if topics are all of them
}

func (o *onDemand) plan(needed, names []string) plan {
	o.mu.Lock()
	existing := len(matching(o.patterns, names))
	o.mu.Unlock()
	exists, folded := make(map[string]bool, len(names)), make(map[string]string, len(names))
	for _, name := range names {
		exists[name], folded[fold(name)] = true, name
	}
	p := plan{missing: map[string]bool{}}
	for _, t := range needed {
		other, most := folded[fold(t)], o.admin.cfg.Create.maxTopics()
		switch {
		case exists[t]:
		case illegalTopicName(t) != "":
			p.err = &sink.RejectedError{Topic: t, Reason: fmt.Sprintf("the topic name %q %s", t, illegalTopicName(t))}
		case other != "":
			p.err = &sink.RejectedError{Topic: t, Reason: fmt.Sprintf("the topic cannot be created, because it differs from %s only by '.' and '_', and Kafka does not keep two such topics apart", other)}
		case existing >= most:
			key := o.admin.cfg.key("create.max_topics")
			p.err = &sink.FatalError{
				Err:    fmt.Errorf("kafka topic %s is not created: %s is %d, and the routes have made %s already", t, key, most, count(existing, "topic")),
				Action: fmt.Sprintf("raise %s, or change the routes so that they make fewer topics, and reload relay", key),
			}
		default:
			p.missing[t] = true
			existing++
			folded[fold(t)] = t
		}
		if p.err != nil {
			return p
		}
		p.topics = append(p.topics, t)
	}
	return p
}

// fold returns what Kafka's metrics call a topic.
func fold(topic string) string { return strings.ReplaceAll(topic, ".", "_") }

// provide makes topics ready: it creates those that are missing, waits for their leaders, and tells
// of them before anything is stored there. It returns why some are not ready.
func (o *onDemand) provide(ctx context.Context, topics []string, missing map[string]bool) map[string]error {
	failed := map[string]error{}
	var wanted []string
	for _, t := range topics {
		if missing[t] {
			wanted = append(wanted, t)
		}
	}
	if len(wanted) > 0 {
		failed = o.create(ctx, wanted)
	}
	made := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return failed[t] != nil })
	if len(made) == 0 {
		return failed
	}
	o.mu.Lock()
	note := o.note
	o.mu.Unlock()
	o.admin.memory.remember(ctx, nil) // what an attempt before this one had no time for
	err := o.admin.awaitLeaders(ctx, made)
	if err == nil && note != nil {
		err = note(ctx, made)
	}
	if err != nil {
		maps.Copy(failed, failOf(made, err))
		return failed
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range made {
		o.known[t] = true
	}
	return failed
}

// failOf returns err for each topic.
func failOf(topics []string, err error) map[string]error {
	failed := make(map[string]error, len(topics))
	for _, t := range topics {
		failed[t] = err
	}
	return failed
}

// create creates topics and returns why some could not be.
func (o *onDemand) create(ctx context.Context, topics []string) map[string]error {
	failed, found, spec := map[string]error{}, newFaults(), o.admin.cfg.Create
	o.admin.cluster.Watch(topics) // see look
	res, err := o.admin.cluster.AskOrMissing(ctx, o.admin.creationRequest(topics, spec))
	switch {
	case client.IsNoRequest(err):
		found.addCause(topics[0], cannotBeCreated(err), err)
		return failOf(topics, found.fatal())
	case err != nil:
		return failOf(topics, fmt.Errorf("creating kafka topics: %w", err))
	}
	answer := res.(*createtopics.Response)
	answer.Topics = slices.DeleteFunc(answer.Topics, func(t createtopics.ResponseTopic) bool { return !slices.Contains(topics, t.Name) })
	_ = o.admin.created(ctx, answer, spec, found) // each topic has its own error below
	answered := map[string]bool{}
	for _, t := range answer.Topics {
		answered[t.Name] = true
		err := client.BrokerError(t.ErrorCode, t.ErrorMessage)
		switch code := kafkago.Error(t.ErrorCode); code {
		case 0:
		case kafkago.TopicAlreadyExists, kafkago.TopicAuthorizationFailed:
			failed[t.Name] = o.hidden(ctx, t.Name)
			if failed[t.Name] == nil && code != kafkago.TopicAlreadyExists {
				failed[t.Name] = found.of(t.Name)
			}
		case kafkago.InvalidTopic:
			failed[t.Name] = &sink.RejectedError{Topic: t.Name, Reason: o.admin.explainTopic(err, t.Name).Error()}
		default:
			if failed[t.Name] = found.of(t.Name); failed[t.Name] == nil {
				failed[t.Name] = fmt.Errorf("creating kafka topic %s: %w", t.Name, err)
			}
		}
	}
	for _, t := range topics {
		if !answered[t] {
			failed[t] = fmt.Errorf("creating kafka topic %s: the broker's answer leaves it out", t)
		}
	}
	return failed
}

// hidden returns why relay cannot use a topic that may exist although the cluster does not list it;
// nil if it may see the topic.
func (o *onDemand) hidden(ctx context.Context, topic string) error {
	found := newFaults()
	if _, err := o.admin.missing(ctx, []string{topic}, found); err != nil {
		return err
	}
	return found.fatal()
}

// OnTopics implements sink.TopicMaker.
func (s *Sink) OnTopics(note func(ctx context.Context, topics []string) error) {
	s.demand.mu.Lock()
	defer s.demand.mu.Unlock()
	s.demand.note = note
}

// OnTopics implements sink.TopicMaker.
func (l *Ledger) OnTopics(note func(ctx context.Context, topics []string) error) {
	l.sink.OnTopics(note)
}

// TakesPatterns implements sink.PatternSettings.
func (c Config) TakesPatterns() error {
	if !c.Create.Enabled {
		return errNotCreated
	}
	return nil
}

// inspect is Sink.Inspect: a pattern has one line, which stands for its topics that exist and for
// those to come.
func (s *Sink) inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	patterns, literal := divide(topics)
	status, err := s.admin.inspectAll(ctx, literal, s.cfg.Create)
	if err != nil || len(patterns) == 0 {
		return status, err
	}
	of := map[string]sink.TopicStatus{}
	for _, st := range status {
		of[st.Topic] = st
	}
	existing := 0
	for _, p := range patterns {
		st, n, err := s.demand.inspect(ctx, p)
		if err != nil {
			return nil, s.explain(err)
		}
		of[p], existing = st, existing+n
	}
	if most := s.cfg.Create.maxTopics(); existing >= most {
		st := of[patterns[0]]
		st.Warnings = append(st.Warnings, fmt.Sprintf("%s of placeholders, and create.max_topics is %d: an event that needs another topic will be held back, with those behind it; raise create.max_topics", count(existing, "topic"), most))
		of[patterns[0]] = st
	}
	status = status[:0]
	for _, t := range topics {
		status = append(status, of[t])
	}
	return status, nil
}

// inspect says what is known of the topics of a pattern, and how many exist.
func (o *onDemand) inspect(ctx context.Context, pattern string) (st sink.TopicStatus, n int, err error) {
	spec := o.admin.cfg.Create
	st = sink.TopicStatus{Topic: pattern, MaxMessage: spec.maxMessage()}
	existing, found, err := o.look(ctx, []string{pattern})
	if err != nil {
		return st, 0, err
	}
	st.Detail = fmt.Sprintf("%s of at most %d (create.max_topics), others are created when an event needs them: %s, replication %s",
		count(len(existing), "topic"), spec.maxTopics(), count(spec.Partitions, "partition"), replication(spec.ReplicationFactor))
	o.admin.weigh(&st, spec.ReplicationFactor, spec.Config[minInSyncReplicas])
	for reason := range found.topics {
		st.Problems = append(st.Problems, "its topics cannot be created, such as "+found.topics[reason][0]+": "+reason)
	}
	if len(existing) > 0 {
		each, err := o.admin.inspectAll(ctx, existing, spec)
		if err != nil {
			return st, 0, err
		}
		for _, t := range each {
			for _, problem := range t.Problems {
				st.Warnings = append(st.Warnings, t.Topic+": "+problem)
			}
			if t.MaxMessage > 0 {
				st.MaxMessage = min(st.MaxMessage, t.MaxMessage)
			}
		}
	}
	slices.Sort(st.Problems)
	st.Exists = len(st.Problems) == 0
	return st, len(existing), nil
}
