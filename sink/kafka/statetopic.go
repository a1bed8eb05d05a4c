package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// ofEvents are the settings of a topic that bound how long events are kept. They mean nothing for a
// topic that is only compacted.
var ofEvents = []string{retentionTime, retentionBytes}

// isState reports whether a topic keeps the newest version of each object.
func (c *Config) isState(topic string) bool { return c.entityOf(topic) != "" }

// entityOf returns the entity whose objects a topic keeps; empty if it keeps none.
func (c *Config) entityOf(topic string) string {
	for _, s := range c.State {
		if s.Topic == topic {
			return s.Entity
		}
	}
	return ""
}

// creationOf says how a topic is created: as spec says, and a state topic with compaction alone,
// which keeps the newest record of each key for ever.
func (c *Config) creationOf(topic string, spec Create) Create {
	if !c.isState(topic) {
		return spec
	}
	spec.Config = maps.Clone(spec.Config)
	if spec.Config == nil {
		spec.Config = make(map[string]string)
	}
	for _, name := range ofEvents {
		delete(spec.Config, name)
	}
	spec.Config[cleanupPolicy] = compact
	return spec
}

// checkState adds the state topics to found that would not keep their objects. A cleanup.policy
// that relay cannot see does not keep the lane from starting: Inspect warns of it.
func (a *topicAdmin) checkState(ctx context.Context, topics []string, found *faults) error {
	var own []string
	for _, t := range topics {
		if a.cfg.isState(t) {
			own = append(own, t)
		}
	}
	if len(own) == 0 || found.any() {
		return nil
	}
	settings, err := a.settingsOfState(ctx, own)
	if err != nil {
		return err
	}
	for _, t := range own {
		if policy, shown := settings[t].Values[cleanupPolicy]; shown && policy != compact {
			found.add(t, a.notCompacted(policy))
		}
	}
	return nil
}

// settingsOfState asks for the settings of topics that exist. A broker hears of a new topic in its
// own time; until then relay would take a topic for one whose settings it may not see.
func (a *topicAdmin) settingsOfState(ctx context.Context, topics []string) (map[string]client.TopicSettings, error) {
	for try := 0; ; try++ {
		settings, err := a.cluster.Settings(ctx, topics, cleanupPolicy)
		if err != nil {
			return nil, err
		}
		var unheard error
		for _, t := range topics {
			if err := settings[t].Err; errors.Is(err, kafkago.UnknownTopicOrPartition) {
				unheard = fmt.Errorf("asking for the settings of state topic %s: %w", t, err)
			}
		}
		const tries = 10
		if unheard == nil || try == tries {
			return settings, unheard
		}
		if err := retry.Sleep(ctx, client.Retries.After(min(try+1, 4))); err != nil {
			return nil, errors.Join(unheard, err)
		}
	}
}

// notCompacted says what is wrong with the cleanup.policy of a state topic.
func (a *topicAdmin) notCompacted(policy string) string {
	return fmt.Sprintf("its %s is %q, so the state of objects that do not change would be deleted one day; set it by kafka-configs --bootstrap-server %s "+
		"--alter --entity-type topics --entity-name <topic> --add-config %s=%s", cleanupPolicy, policy, a.cfg.Brokers[0], cleanupPolicy, compact)
}

// inspectState adds to st what is to be said of the cleanup.policy of a state topic.
func (a *topicAdmin) inspectState(st *sink.TopicStatus, policy string, shown bool) {
	switch {
	case !shown:
		st.Warnings = append(st.Warnings, fmt.Sprintf("relay cannot see its %s; it must be %s, or the state of objects that do not change is deleted one day", cleanupPolicy, compact))
	case policy != compact:
		st.Problems = append(st.Problems, a.notCompacted(policy))
	default:
		st.Detail += ", " + cleanupPolicy + " " + compact
	}
}
