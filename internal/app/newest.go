package app

import (
	"context"
	"time"

	"workos-relay/internal/config"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
)

const (
	// newestTime bounds how long newest reads, and newestMessages how many messages it reads
	// together.
	newestTime     = 10 * time.Second
	newestMessages = 2000
	// newestLeast is how many messages it reads at the end of each log at least: in Kafka the last
	// offsets may be those of transactions and hold none.
	newestLeast = 8
)

// newest returns the newest event among the last messages of the lane's topics, nil if it finds
// none. Only messages count that the lane itself would have published: of a type that it carries,
// on the topic of that type, with the headers of relay, and neither by `relay replay` or `relay
// verify --repair`, which may be ahead of the lane, nor late. If time runs out, the result may be
// older than the newest one.
func (l *Lane) newest(ctx context.Context, b *Bus) *pipeline.FoundEvent {
	scanner, ok := b.Sink.(sink.Scanner)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, newestTime)
	defer cancel()
	logs, err := scanner.Logs(ctx, l.EventTopics, time.Time{})
	if err != nil || len(logs) == 0 {
		return nil
	}
	most := int64(max(newestLeast, newestMessages/len(logs)))
	var newest *pipeline.FoundEvent
	for _, log := range logs {
		log.From = max(log.From, log.End-most)
		// A log that cannot be read to its end leaves what was found so far.
		_ = scanner.Scan(ctx, log, func(m *sink.Stored) error {
			if e := l.published(m); e != nil && (newest == nil || e.CreatedAt.After(newest.CreatedAt)) {
				newest = e
			}
			return nil
		})
	}
	return newest
}

// published returns the event of a message that the lane has published in its order, else nil.
func (l *Lane) published(m *sink.Stored) *pipeline.FoundEvent {
	for _, mark := range []string{router.HeaderReplay, router.HeaderRepair, router.HeaderLate} {
		if m.Header(mark) != "" {
			return nil
		}
	}
	e := &pipeline.FoundEvent{ID: m.Header(router.HeaderID), Type: m.Header(router.HeaderType)}
	var start config.Start
	if start.UnmarshalText([]byte(e.ID)) != nil || start.From.EventID != e.ID {
		return nil
	}
	if topics, _, _ := l.TopicsOf(e.Type); !sink.HasTopic(topics, m.Topic) {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header(router.HeaderCreatedAt))
	if err != nil || at.IsZero() {
		return nil
	}
	e.CreatedAt = at
	return e
}
