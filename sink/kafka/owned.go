package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"workos-relay/checkpoint"

	"go.uber.org/zap"
)

// ownedTopics remembers in a file which topics relay has created, since Kafka keeps no mark with a
// topic. It is safe for concurrent use. The zero value, and one without a path, remembers nothing.
type ownedTopics struct {
	path string

	mu sync.Mutex
}

// maxOwned bounds what is read of the file, in bytes: some ten thousand topics.
const maxOwned = 4 << 20

// ownedFile is what the file holds.
type ownedFile struct {
	// Topics are the topics by cluster id and name. Their values are the ids of the topics, empty
	// if the cluster tells none.
	Topics map[string]map[string]string `json:"topics"`
}

func (o *ownedTopics) read() (ownedFile, error) {
	f := ownedFile{Topics: map[string]map[string]string{}}
	if o.path == "" {
		return f, nil
	}
	text, err := checkpoint.ReadOwn(o.path, maxOwned)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err != nil:
		return f, fmt.Errorf("reading which topics relay has created: %w", err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("reading which topics relay has created: %s: %w", o.path, err)
	}
	if f.Topics == nil {
		f.Topics = map[string]map[string]string{}
	}
	return f, nil
}

// of returns the topics of a cluster that relay has created, with their ids.
func (o *ownedTopics) of(cluster string) (map[string]string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f, err := o.read()
	return f.Topics[cluster], err
}

// add remembers topics, which are given with their ids. The file is replaced as a whole.
func (o *ownedTopics) add(cluster string, topics map[string]string) error {
	if o.path == "" || len(topics) == 0 {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	f, err := o.read()
	if err != nil {
		return err
	}
	if f.Topics[cluster] == nil {
		f.Topics[cluster] = map[string]string{}
	}
	for name, id := range topics {
		f.Topics[cluster][name] = id
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("writing which topics relay has created: %w", err)
	}
	if err := checkpoint.WriteOwn(o.path, text); err != nil {
		return fmt.Errorf("writing which topics relay has created: %w", err)
	}
	return nil
}

// topicMemory remembers what relay has done to topics: which it has created, in a file, and what it
// has set, as long as it runs. It is safe for concurrent use.
type topicMemory struct {
	*common
	owned ownedTopics

	mu      sync.Mutex        // guards what follows
	pending []string          // topics that relay has created and not remembered yet
	changed map[string]string // what relay has set, by topic and key of the configuration
}

func newTopicMemory(c *common) *topicMemory {
	return &topicMemory{common: c, owned: ownedTopics{path: c.cfg.OwnedFile}, changed: make(map[string]string)}
}

// remember keeps which topics relay has created, and those that it could not keep before. That it
// cannot be written holds up nothing.
func (m *topicMemory) remember(ctx context.Context, topics []string) {
	m.mu.Lock()
	topics = append(m.pending, topics...)
	m.pending = nil
	m.mu.Unlock()
	if len(topics) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := m.tryRemember(bounded, topics); err != nil {
		if ctx.Err() != nil { // the caller's time was over, and it comes again
			m.mu.Lock()
			m.pending = append(m.pending, topics...)
			m.mu.Unlock()
			return
		}
		m.log.Warn("cannot remember which topics relay has created; create.adopt stands in for that", zap.Strings("topics", topics), zap.Error(err))
	}
}

func (m *topicMemory) tryRemember(ctx context.Context, topics []string) error {
	answer, err := m.cluster.Describe(ctx, topics[:1])
	if err != nil {
		return err
	}
	known, _, err := m.cluster.TopicIDs(ctx, topics)
	if err != nil {
		return err
	}
	ids := map[string]string{}
	for _, t := range topics {
		ids[t] = known[t]
	}
	return m.owned.add(answer.ClusterID, ids)
}

func (m *topicMemory) hasChanged(d topicDifference) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed[d.topic+" "+d.Key] == d.Want
}

func (m *topicMemory) recordChange(d topicDifference) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed[d.topic+" "+d.Key] = d.Want
}
