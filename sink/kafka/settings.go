package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/alterpartitionreassignments"
	"github.com/segmentio/kafka-go/protocol/incrementalalterconfigs"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"go.uber.org/zap"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// The keys of the configuration that relay compares with topics that exist.
const (
	keyPartitions  = "create.partitions"
	keyReplication = "create.replication_factor"
	keyConfig      = "create.config." // the name of a topic setting follows
)

const (
	minInSyncReplicas = "min.insync.replicas"
	retentionTime     = "retention.ms"
	retentionBytes    = "retention.bytes"
)

// shownTopics is how many topics a Setting names before it counts the rest.
const shownTopics = 4

// comparison compares topics that exist with the configuration.
type comparison struct {
	*common
	memory       *topicMemory
	spec         Create
	onePartition bool // for any number in spec

	brokers []metadata.ResponseBroker
	owned   map[string]string // ids of topics that relay remembers to have created
	ids     map[string]string // of topics that exist now, as far as the cluster tells them
	found   []topicDifference
}

// topicDifference is one setting of one topic.
type topicDifference struct {
	topic string
	sink.Setting

	replicas [][]int32 // of keyReplication: those of each partition
}

// run compares the topics, makes the changes that it can make if apply is set, and returns what
// differs.
func (c *comparison) run(ctx context.Context, topics []string, apply bool) ([]sink.Setting, error) {
	if err := c.compare(ctx, topics); err != nil {
		return nil, c.explain(err)
	}
	if apply {
		c.apply(ctx)
	}
	return c.settings(), nil
}

func (c *comparison) compare(ctx context.Context, topics []string) error {
	names := slices.Sorted(maps.Keys(c.spec.Config))
	if len(names) == 0 && !c.spec.Has("partitions", c.spec.Partitions != 0) && !c.spec.Has("replication_factor", c.spec.ReplicationFactor != 0) {
		return nil
	}
	legal := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return illegalTopicName(t) != "" })
	c.cluster.Refresh()
	answer, err := c.cluster.Describe(ctx, legal)
	if err != nil {
		return err
	}
	c.brokers = answer.Brokers
	if c.owned, err = c.memory.owned.of(answer.ClusterID); err != nil {
		return err
	}
	var existing []string
	for _, t := range answer.Topics {
		if t.ErrorCode == 0 {
			existing = append(existing, t.Name)
		}
	}
	if len(existing) == 0 {
		return nil
	}
	if c.ids, _, err = c.cluster.TopicIDs(ctx, existing); err != nil {
		return err
	}
	settings := map[string]client.TopicSettings{}
	if len(names) > 0 {
		if settings, err = c.cluster.Settings(ctx, existing, names...); err != nil {
			return err
		}
	}
	empty := c.empty(ctx, answer)
	for _, t := range answer.Topics {
		if t.ErrorCode == 0 {
			c.topic(t, settings[t.Name], names, empty[t.Name])
		}
	}
	return nil
}

// empty returns the topics that hold nothing, as far as that can be found out now.
func (c *comparison) empty(ctx context.Context, answer *metadata.Response) map[string]bool {
	byLeader := map[int32][]client.Partition{}
	empty := map[string]bool{}
	for _, t := range answer.Topics {
		empty[t.Name] = t.ErrorCode == 0
		for _, p := range t.Partitions {
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], client.Partition{Topic: t.Name, Number: p.PartitionIndex})
		}
	}
	for _, partitions := range byLeader {
		first, err := (&topicReader{c.common}).offsets(ctx, partitions, client.EarliestOffset)
		var end map[client.Partition]int64
		if err == nil {
			end, err = (&topicReader{c.common}).offsets(ctx, partitions, client.LatestOffset)
		}
		for _, p := range partitions {
			if err != nil || first[p] != end[p] {
				empty[p.Topic] = false
			}
		}
	}
	return empty
}

func (c *comparison) topic(t metadata.ResponseTopic, settings client.TopicSettings, names []string, empty bool) {
	if c.cfg.isState(t.Name) { // compaction is what Prepare asks for
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == cleanupPolicy || slices.Contains(ofEvents, name) })
	}
	replicas, inSync, _ := replicaCounts(t)
	want := c.spec.ReplicationFactor
	if c.spec.Has("replication_factor", want != 0) && want > 0 && want != replicas {
		d := topicDifference{topic: t.Name, Setting: sink.Setting{Key: keyReplication, Have: strconv.Itoa(replicas), Want: strconv.Itoa(want), Outcome: sink.Changes}}
		switch {
		case want < replicas:
			d.Outcome, d.Why = sink.Unchanged, "relay takes no replicas away; use kafka-reassign-partitions"
		case want > len(c.brokers):
			d.Outcome, d.Why = sink.Unchanged, fmt.Sprintf("only %s up", count(len(c.brokers), "broker"))
		default:
			d.Why = "the brokers copy the partitions in the background"
			d.replicas = c.enlarge(t, want)
		}
		c.add(d)
	}
	if have, want := len(t.Partitions), c.spec.Partitions; !c.onePartition && c.spec.Has("partitions", want != 0) && want != have {
		why := fmt.Sprintf("more partitions send keys elsewhere and break the order of each key once; if that is acceptable, run kafka-topics --bootstrap-server %s --alter --topic %s --partitions %d",
			c.cfg.Brokers[0], t.Name, want)
		if want < have {
			why = "Kafka takes no partitions away"
		}
		c.add(topicDifference{topic: t.Name, Setting: sink.Setting{Key: keyPartitions, Have: strconv.Itoa(have), Want: strconv.Itoa(want), Outcome: sink.Unchanged, Why: why}})
	}
	for _, name := range names {
		have, known := settings.Values[name]
		d := topicDifference{topic: t.Name, Setting: sink.Setting{Key: keyConfig + name, Have: have, Want: c.spec.Config[name], Outcome: sink.Changes}}
		switch {
		case settings.Err != nil:
			d.Have, d.Outcome = "not known", sink.Unchanged
			d.Why = fmt.Sprintf("relay cannot read the settings of the topic: %v", settings.Err)
			if client.IsDenied(settings.Err) {
				d.Why = fmt.Sprintf("relay may not read the settings of the topic; grant it by %s: %v", c.topicACL("<topic>", "DescribeConfigs"), settings.Err)
			}
		case known && sameValue(have, d.Want):
			continue
		case !known:
			d.Have = "not set"
		}
		if d.Outcome == sink.Changes {
			c.assess(&d, name, replicas, inSync, empty)
		}
		c.add(d)
	}
}

// assess finds out whether a topic setting can be changed now.
func (c *comparison) assess(d *topicDifference, name string, replicas, inSync int, empty bool) {
	switch {
	case name == minInSyncReplicas:
		if n, err := strconv.Atoi(d.Want); err == nil && n > inSync {
			d.Outcome = sink.Waits
			d.Why = fmt.Sprintf("only %s in sync, so nothing could be published", count(inSync, "replica"))
			if n > replicas && !c.raises(n) {
				d.Outcome, d.Why = sink.Unchanged, fmt.Sprintf("the topic has %s, so nothing could be published; raise %s", count(replicas, "replica"), keyReplication)
			}
		}
	case empty || !deletes(name, d.Have, d.Want):
	case c.spec.AllowDeletion:
		d.Why = "this deletes stored messages, as create.allow_deletion allows"
	default:
		d.Outcome, d.Why = sink.HeldBack, "this would delete stored messages; set create.allow_deletion: true to confirm it, then reload relay"
	}
}

// raises reports whether the configuration asks for at least n replicas.
func (c *comparison) raises(n int) bool {
	return c.spec.Has("replication_factor", c.spec.ReplicationFactor != 0) && c.spec.ReplicationFactor >= n && len(c.brokers) >= n
}

// deletes reports whether a change of a topic setting lets Kafka delete messages that it would keep
// otherwise.
func deletes(name, have, want string) bool {
	switch name {
	case cleanupPolicy:
		return true
	case retentionTime, retentionBytes:
		before, err1 := strconv.ParseInt(have, 10, 64)
		after, err2 := strconv.ParseInt(want, 10, 64)
		if err1 != nil || err2 != nil {
			return true
		}
		return after >= 0 && (before < 0 || after < before) // -1 is not a limit
	default:
		return false
	}
}

// sameValue compares lists without regard to their order, and numbers by their value.
func sameValue(a, b string) bool {
	list := func(s string) []string {
		var items []string
		for item := range strings.SplitSeq(s, ",") {
			items = append(items, strings.TrimSpace(item))
		}
		slices.Sort(items)
		return items
	}
	x, err1 := strconv.ParseFloat(strings.TrimSpace(a), 64)
	y, err2 := strconv.ParseFloat(strings.TrimSpace(b), 64)
	return err1 == nil && err2 == nil && x == y || slices.Equal(list(a), list(b))
}

// add adds what holds for every setting: relay leaves topics alone that it does not know to be its
// own, and does not change a setting a second time.
func (c *comparison) add(d topicDifference) {
	id, own := c.owned[d.topic]
	if now := c.ids[d.topic]; id != "" && now != "" && id != now { // it was deleted, and another made in its place
		own = false
	}
	switch {
	case !c.spec.Enabled:
		d.Outcome, d.Why = sink.Unchanged, "create.enabled is false, so relay leaves the topic as it is"
	case !own && !c.spec.Adopt:
		d.Outcome, d.Why = sink.Unchanged, "relay does not remember creating the topic and leaves it as it is; if the topic is relay's, set create.adopt: true"
	case d.Outcome == sink.Changes && d.Key == keyReplication && c.memory.hasChanged(d):
		d.Outcome, d.Why = sink.Waits, "relay has asked the cluster for it; kafka-reassign-partitions --list shows how far it is"
	case d.Outcome == sink.Changes && c.memory.hasChanged(d):
		d.Outcome, d.Why = sink.Unchanged, "relay has changed it already, and another program has changed it back, perhaps a relay with another configuration; make them agree, then restart relay"
	}
	c.found = append(c.found, d)
}

// enlarge adds brokers to the replicas of each partition: those with the fewest replicas of the
// topic, in racks without one first.
func (c *comparison) enlarge(t metadata.ResponseTopic, want int) [][]int32 {
	load, rack := map[int32]int{}, map[int32]string{}
	for _, b := range c.brokers {
		rack[b.NodeID] = b.Rack
	}
	for _, p := range t.Partitions {
		for _, id := range p.ReplicaNodes {
			load[id]++
		}
	}
	replicas := make([][]int32, len(t.Partitions))
	for _, p := range t.Partitions {
		chosen, used := slices.Clone(p.ReplicaNodes), map[string]bool{}
		for _, id := range chosen {
			used[rack[id]] = true
		}
		for len(chosen) < want {
			var best *metadata.ResponseBroker
			for i := range c.brokers {
				b := &c.brokers[i]
				if !slices.Contains(chosen, b.NodeID) && (best == nil || cmp.Or(
					compareBool(used[b.Rack], used[best.Rack]), cmp.Compare(load[b.NodeID], load[best.NodeID]), cmp.Compare(b.NodeID, best.NodeID)) < 0) {
					best = b
				}
			}
			if best == nil {
				break
			}
			chosen = append(chosen, best.NodeID)
			used[best.Rack] = true
			load[best.NodeID]++
		}
		if int(p.PartitionIndex) < len(replicas) {
			replicas[p.PartitionIndex] = chosen
		}
	}
	return replicas
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// apply makes the changes that can be made: replicas first, then one setting after the other for
// all topics.
func (c *comparison) apply(ctx context.Context) {
	byKey := map[string][]*topicDifference{}
	for i := range c.found {
		if d := &c.found[i]; d.Outcome == sink.Changes {
			byKey[d.Key] = append(byKey[d.Key], d)
		}
	}
	if ds := byKey[keyReplication]; ds != nil {
		c.done(ds, c.reassign(ctx, ds))
		delete(byKey, keyReplication)
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		c.done(byKey[key], c.alter(ctx, strings.TrimPrefix(key, keyConfig), byKey[key]))
	}
}

// done notes how changes went. errs has an error for each topic that was refused.
func (c *comparison) done(ds []*topicDifference, errs map[string]error) {
	var changed []string
	for _, d := range ds {
		if err := errs[d.topic]; err != nil {
			d.Outcome, d.Why = sink.Unchanged, "the cluster refuses the change: "+err.Error()
			c.log.Warn("cannot change a setting of a kafka topic", zap.String("topic", d.topic), zap.String("setting", d.Key),
				zap.String("from", d.Have), zap.String("to", d.Want), zap.Error(err))
			continue
		}
		d.Outcome = sink.Changed
		c.memory.recordChange(*d)
		changed = append(changed, d.topic)
	}
	if len(changed) > 0 {
		first := ds[slices.IndexFunc(ds, func(d *topicDifference) bool { return d.Outcome == sink.Changed })]
		c.log.Info("changed a setting of kafka topics", zap.Strings("topics", changed), zap.String("setting", first.Key),
			zap.String("from", first.Have), zap.String("to", first.Want))
	}
}

const incrementalSet = 0 // https://kafka.apache.org/protocol: the operations of IncrementalAlterConfigs

// alter sets one topic setting of several topics.
func (c *comparison) alter(ctx context.Context, name string, ds []*topicDifference) map[string]error {
	req := &incrementalalterconfigs.Request{}
	for _, d := range ds {
		req.Resources = append(req.Resources, incrementalalterconfigs.RequestResource{
			ResourceType: client.ResourceTypeTopic, ResourceName: d.topic,
			Configs: []incrementalalterconfigs.RequestConfig{{Name: name, ConfigOperation: incrementalSet, Value: d.Want}},
		})
	}
	res, err := c.cluster.RoundTrip(ctx, req)
	if err != nil {
		return allRefused(ds, c.explain(err))
	}
	errs := map[string]error{}
	for _, r := range res.(*incrementalalterconfigs.Response).Responses {
		if r.ErrorCode != 0 {
			errs[r.ResourceName] = c.refusal(client.BrokerError(r.ErrorCode, r.ErrorMessage), "AlterConfigs")
		}
		c.cluster.ForgetLimit(r.ResourceName)
	}
	return errs
}

// reassign adds replicas to the partitions of topics.
func (c *comparison) reassign(ctx context.Context, ds []*topicDifference) map[string]error {
	req := &alterpartitionreassignments.Request{TimeoutMs: int32((c.cfg.RequestTimeout / 10 * 9).Milliseconds())} //nolint:gosec // at most minutes
	for _, d := range ds {
		t := alterpartitionreassignments.RequestTopic{Name: d.topic}
		for i, replicas := range d.replicas {
			t.Partitions = append(t.Partitions, alterpartitionreassignments.RequestPartition{PartitionIndex: int32(i), Replicas: replicas}) //nolint:gosec // few
		}
		req.Topics = append(req.Topics, t)
	}
	res, err := c.cluster.RoundTrip(ctx, req)
	if err != nil {
		return allRefused(ds, c.explain(err))
	}
	r := res.(*alterpartitionreassignments.Response)
	if r.ErrorCode != 0 {
		return allRefused(ds, c.refusal(client.BrokerError(r.ErrorCode, r.ErrorMessage), "Alter"))
	}
	errs := map[string]error{}
	for _, t := range r.Results {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				errs[t.Name] = c.refusal(client.BrokerError(p.ErrorCode, p.ErrorMessage), "Alter")
			}
		}
	}
	return errs
}

func allRefused(ds []*topicDifference, err error) map[string]error {
	errs := map[string]error{}
	for _, d := range ds {
		errs[d.topic] = err
	}
	return errs
}

// refusal adds which permission is missing.
func (c *comparison) refusal(err error, operation string) error {
	switch {
	case errors.Is(err, kafkago.TopicAuthorizationFailed):
		return fmt.Errorf("grant it by %s: %w", c.topicACL("<topic>", operation), err)
	case errors.Is(err, kafkago.ClusterAuthorizationFailed):
		return fmt.Errorf("it takes the operation %s on the cluster: %w", operation, err)
	default:
		return err
	}
}

// settings returns what was found, with topics that are the same in everything taken together.
func (c *comparison) settings() []sink.Setting {
	var out []sink.Setting
	topics := map[sink.Setting][]string{}
	for _, d := range c.found {
		s := d.Setting
		s.Why = strings.ReplaceAll(s.Why, "--topic "+d.topic+" ", "--topic <topic> ")
		if topics[s] == nil {
			out = append(out, s)
		}
		topics[s] = append(topics[s], d.topic)
	}
	for i := range out {
		out[i].Of = topicsText(topics[out[i]])
	}
	return out
}

func topicsText(topics []string) string {
	slices.Sort(topics)
	switch n := len(topics); {
	case n == 1:
		return "topic " + topics[0]
	case n <= shownTopics:
		return "topics " + strings.Join(topics, ", ")
	default:
		return fmt.Sprintf("topics %s and %d more", strings.Join(topics[:shownTopics-1], ", "), n-shownTopics+1)
	}
}
