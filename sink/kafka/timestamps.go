package kafka

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/sink"
)

// Values of Config.Timestamp.
const (
	timestampPublish = "publish"
	timestampEvent   = "event"
)

// The settings of a topic that decide about the time of a record.
const (
	timestampType       = "message.timestamp.type"
	timestampBefore     = "message.timestamp.before.max.ms"     // since Kafka 3.6
	timestampDifference = "message.timestamp.difference.max.ms" // until Kafka 3.9
)

// oldestEvent is the age of the oldest events that WorkOS still has.
const oldestEvent = 90 * 24 * time.Hour

// stamp returns the time of the record of m: that of its event if the configuration says so and m
// stands for the event. Dead letters and positions carry the time of publishing, so that retention
// counts from then.
func (c Config) stamp(m *sink.Message, published time.Time) time.Time {
	if c.Timestamp != timestampEvent || m.Created.IsZero() {
		return published
	}
	return m.Created
}

// warnTimestamps logs what happens to the time of old events in the topics, each text once.
func (s *Sink) warnTimestamps(ctx context.Context, topics []string) {
	said, err := s.admin.timestamps(ctx, topics, s.cfg.Create)
	if err != nil {
		return // Prepare has just worked, so it passes; the next one says it
	}
	for _, text := range said {
		s.warnOnce(text, text)
	}
}

// timestamps says what the settings of topics do to events that carry their own time: those that
// exist, and those that spec will create.
func (a *topicAdmin) timestamps(ctx context.Context, topics []string, spec Create) ([]string, error) {
	if a.cfg.Timestamp != timestampEvent {
		return nil, nil
	}
	patterns, _ := divide(topics)
	topics, err := a.resolve(ctx, topics)
	if err != nil {
		return nil, err
	}
	topics = slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return t == a.cfg.DeadLetter || t == a.position || illegalTopicName(t) != "" })
	if len(topics) == 0 && len(patterns) == 0 {
		return nil, nil
	}
	answer, err := a.cluster.Describe(ctx, topics)
	if err != nil {
		return nil, a.explain(err)
	}
	var existing []string
	found := map[string][]string{} // topics by what is said of them
	created := func(topic string) {
		spec := a.cfg.creationOf(topic, spec)
		for _, text := range judgeTimestamps(func(name string) string { return spec.Config[name] }) {
			found[text] = append(found[text], topic)
		}
		if spec.Config[retentionTime] == "" && !strings.Contains(spec.Config[cleanupPolicy], compact) {
			const text = "create.config has no retention.ms, so the cluster's default applies, which is mostly 7 days and counts from the time of the event: Kafka deletes older events soon after they are published; " +
				"set create.config: {retention.ms: ...}, or timestamp: publish"
			found[text] = append(found[text], topic)
		}
	}
	for _, t := range answer.Topics {
		switch {
		case t.ErrorCode == 0:
			existing = append(existing, t.Name)
		case kafkago.Error(t.ErrorCode) == kafkago.UnknownTopicOrPartition && spec.Enabled:
			created(t.Name)
		}
	}
	for _, p := range patterns {
		created(p)
	}
	if len(existing) > 0 {
		settings, err := a.cluster.Settings(ctx, existing, timestampType, timestampBefore, timestampDifference, retentionTime, cleanupPolicy)
		if err != nil {
			return nil, a.explain(err)
		}
		for _, t := range existing {
			if err := settings[t].Err; err != nil {
				text := fmt.Sprintf("relay cannot see what the topic's %s, %s and %s do to the time of old events: %v", retentionTime, timestampBefore, timestampType, err)
				found[text] = append(found[text], t)
				continue
			}
			for _, text := range judgeTimestamps(func(name string) string { return settings[t].Values[name] }) {
				found[text] = append(found[text], t)
			}
		}
	}
	said := make([]string, 0, len(found))
	for text, topics := range found {
		said = append(said, fmt.Sprintf("timestamp: event, %s: %s", topicsText(topics), text))
	}
	slices.Sort(said)
	return said, nil
}

// judgeTimestamps says what settings of a topic do to events that carry their own time. setting
// returns "" for one that the cluster does not know, or that is not set.
func judgeTimestamps(setting func(name string) string) (said []string) {
	if strings.EqualFold(setting(timestampType), "LogAppendTime") {
		return []string{timestampType + " is LogAppendTime, so the broker puts its own time in place of the event's; set it to CreateTime"}
	}
	// A broker that knows both uses the stricter one.
	limit, name := time.Duration(math.MaxInt64), ""
	for _, n := range []string{timestampBefore, timestampDifference} {
		if d, ok := milliseconds(setting(n)); ok && d < limit {
			limit, name = d, n
		}
	}
	if limit < oldestEvent {
		said = append(said, fmt.Sprintf("%s is %s, so the brokers refuse older events, and the lane stops at one; raise it above the %s that WorkOS keeps events", name, days(limit), days(oldestEvent)))
	}
	policy := cmp.Or(setting(cleanupPolicy), "delete")
	if d, ok := milliseconds(setting(retentionTime)); ok && d < oldestEvent && strings.Contains(policy, "delete") {
		said = append(said, fmt.Sprintf("%s is %s and counts from the time of the event: Kafka deletes older events soon after they are published; raise it, or set timestamp: publish", retentionTime, days(d)))
	}
	return said
}

// milliseconds reads a setting that is a limit; ok is false if it is none.
func milliseconds(text string) (limit time.Duration, ok bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/int64(time.Millisecond) {
		return 0, false
	}
	return time.Duration(n) * time.Millisecond, true
}

// days writes a long time in days.
func days(d time.Duration) string {
	if d >= 48*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.String()
}

// timestampHint says what to do about a topic that refuses the time of a record.
func (e *explainer) timestampHint(topic string) string {
	if e.cfg.Timestamp == timestampEvent && topic != e.cfg.DeadLetter {
		return fmt.Sprintf("kafka topic %s refuses the time of an event as too old or too new; raise %s of the topic (%s before Kafka 3.6), or set timestamp: publish for this sink",
			topic, timestampBefore, timestampDifference)
	}
	return fmt.Sprintf("kafka topic %s refuses the time at which relay publishes: the clocks of this machine and of the broker differ by more than message.timestamp.before.max.ms or message.timestamp.after.max.ms of the topic permits; "+
		"correct the clock that is wrong", topic)
}
