//go:build unix

package field

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// startLog is what a start asked of a cluster.
type startLog struct {
	mu       sync.Mutex
	requests map[string]int // by name, of those that name the topics of relay or none
	foreign  int            // of requests that name topics of others, or ask for all
}

// watch notes requests from now on. prefix is that of the topics of others.
func (l *startLog) watch(c *kfake.Cluster, prefix string) {
	l.requests = map[string]int{}
	c.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		l.mu.Lock()
		defer l.mu.Unlock()
		name := kmsg.NameForKey(req.Key())
		switch req := req.(type) {
		case *kmsg.ApiVersionsRequest: // one for each connection
			return nil, nil, false
		case *kmsg.MetadataRequest:
			if req.Topics == nil {
				l.foreign++
			}
			for _, topic := range req.Topics {
				if topic.Topic != nil && strings.HasPrefix(*topic.Topic, prefix) {
					l.foreign++
				}
			}
		case *kmsg.CreateTopicsRequest:
			if req.ValidateOnly {
				name += " to validate"
			}
		}
		l.requests[name]++
		return nil, nil, false
	})
}

// take returns what was noted since the last call, and how many requests that is.
func (l *startLog) take() (requests map[string]int, all int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	requests, l.requests = l.requests, map[string]int{}
	for _, n := range requests {
		all += n
	}
	return requests, all
}

// TestRequestsOfAStartOnKafka counts what a start asks of a cluster that holds thousands of topics
// of others, at first and after that, with room for the renewals of a slow start. No start repeats
// a question to see whether the answer stays the same, and none asks for the topics of others.
func TestRequestsOfAStartOnKafka(t *testing.T) {
	t.Parallel()
	for delivery, most := range map[string][2]int{"at_least_once": {45, 35}, "exactly_once": {100, 80}} {
		t.Run(delivery, func(t *testing.T) {
			t.Parallel()
			k := newKfake(t, kfake.DefaultNumPartitions(1))
			for i := range 3000 {
				require.NoError(t, k.Fake.CreateTopic(fmt.Sprintf("other.%d", i), 1, nil))
			}
			api := newAPI(t)
			r := newRelay(t, "relay", k.config(api.URL(), ", create: {partitions: 1, replication_factor: 1}")+"delivery: "+delivery+"\n")
			var log startLog
			log.watch(k.Fake, "other.")
			for i, most := range most {
				r.Start(t)
				r.Await(t, func() bool { code, _ := r.Ready(); return code == 200 }, "ready")
				requests, all := log.take()
				t.Logf("start %d: %d requests: %v", i+1, all, requests)
				require.Zero(t, r.Stop(t))
				log.take()
				require.LessOrEqual(t, all, most, requests)
				require.Zero(t, log.foreign)
				if i == 0 || delivery == "at_least_once" { // there is no topic of the position
					require.Equal(t, 1, requests["CreateTopics to validate"])
				} else {
					require.Zero(t, requests["CreateTopics to validate"]+requests["CreateTopics"])
				}
			}
		})
	}
}
