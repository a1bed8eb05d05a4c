//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

const (
	stream         = "WORKOS"
	positionTopics = "relay.position."

	duplicateWindow = 100 * time.Millisecond // as short as a server allows
)

// natsBus is a JetStream and the links to it: of each relay one to each server.
type natsBus struct {
	*cluster
	links [2][]*testkit.Link

	mu      sync.Mutex
	seen    map[testkit.Position]struct{}
	counted int
}

func newNATSBus(t *testing.T, size int) *natsBus {
	t.Helper()
	b := &natsBus{cluster: newCluster(t, size), seen: map[testkit.Position]struct{}{}}
	for i := range b.links {
		for _, port := range b.ports {
			b.links[i] = append(b.links[i], testkit.NewLink(t, testaddr.Free(t), testaddr.On(port)))
		}
	}
	return b
}

// sink is the configuration of relay i's sink.
func (b *natsBus) sink(i int) string {
	var urls []string
	for _, l := range b.links[i] {
		urls = append(urls, "nats://"+l.Address)
	}
	return fmt.Sprintf("{name: bus, type: nats, url: %q, duplicate_window: %v, ack_timeout: 2s, create: {replicas: %d}}", strings.Join(urls, ","), duplicateWindow, len(b.nodes))
}

func (b *natsBus) linksOf(i int) []*testkit.Link { return b.links[i] }

func (b *natsBus) early() bool { return true }

func (b *natsBus) servers() []busServer {
	var all []busServer
	for _, n := range b.nodes {
		all = append(all, n)
	}
	return all
}

// count returns how many messages the stream has taken; if nobody answers, what was said last
// stands.
func (b *natsBus) count() int {
	if info := b.info(); info != nil {
		b.counted = max(b.counted, int(info.State.LastSeq))
	}
	return b.counted
}

// watch reads the position again and again until ctx ends, as the first server that answers shows
// it.
func (b *natsBus) watch(ctx context.Context) {
	request, _ := json.Marshal(map[string]string{"last_by_subj": positionTopics + ">"})
	for ctx.Err() == nil {
		b.look(ctx, request)
		select {
		case <-ctx.Done():
		case <-time.After(often):
		}
	}
}

func (b *natsBus) look(ctx context.Context, request []byte) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	m, err := b.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, request)
	if err != nil {
		return
	}
	var answer struct {
		Message *struct {
			Sequence uint64 `json:"seq"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if json.Unmarshal(m.Data, &answer) != nil || answer.Message == nil {
		return
	}
	b.saw(answer.Message.Sequence, answer.Message.Data)
}

func (b *natsBus) saw(sequence uint64, data []byte) {
	p, err := testkit.ReadPosition(sequence, data)
	if err != nil {
		p = testkit.Position{Place: sequence, EventID: "unreadable: " + err.Error()}
	}
	b.mu.Lock()
	b.seen[p] = struct{}{}
	b.mu.Unlock()
}

// positions returns every position that was seen.
func (b *natsBus) positions(*testing.T) []testkit.Position {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []testkit.Position
	for p := range b.seen {
		all = append(all, p)
	}
	return all
}

// read gives the whole stream to the oracle, as an ordered consumer sees it.
func (b *natsBus) read(ctx context.Context, o *testkit.Oracle) error {
	info := b.info()
	if info == nil {
		return errors.New("the stream does not answer")
	}
	if info.State.Msgs == 0 {
		return nil
	}
	consumer, err := b.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for n := uint64(1); ; n++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("after %d of %d messages: %w", n-1, info.State.Msgs, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		last := meta.Sequence.Stream
		if strings.HasPrefix(m.Subject(), positionTopics) {
			b.saw(last, m.Data())
		} else {
			o.See(stream, last, m.Headers().Get("event-id"), m.Data())
		}
		if meta.NumPending == 0 {
			if n < info.State.Msgs {
				return fmt.Errorf("the reader ends after %d of %d messages", n, info.State.Msgs)
			}
			return nil
		}
	}
}
