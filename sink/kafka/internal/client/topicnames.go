package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrNoTopicNames means that the brokers are too old to name the topics of the cluster to this
// client.
var ErrNoTopicNames = errors.New("the cluster does not know the request Metadata in version 10 (Kafka 2.8), by which relay lists topics")

// TopicNames returns the names of every topic of the cluster that the client may see, sorted. A
// cluster leaves out those on which the client has no permission. It returns ErrNoTopicNames if the
// brokers know no ids of topics.
func (c *Cluster) TopicNames(ctx context.Context) ([]string, error) {
	known, err := c.knowsTopicIDs(ctx)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, ErrNoTopicNames
	}
	res, err := c.RoundTrip(ctx, &metadataWithIDs{clientID: c.ClientID, every: true})
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for the names of its topics: %w", err)
	}
	return res.(*metadataWithIDs).names(), nil
}

// names returns the topics that exist. One without an id is one of a cluster that still speaks the
// protocol of older brokers among its own.
func (m *metadataWithIDs) names() []string {
	var names []string
	for name, gone := range m.gone {
		if !gone {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
