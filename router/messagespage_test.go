package router

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

// sampleEvent is the event of the pages.
func sampleEvent(t *testing.T) *source.Event {
	t.Helper()
	data := `{"object":"directory_group","id":"directory_group_01K6YV","idp_id":"00g1e2","directory_id":"directory_01K6YT",` +
		`"organization_id":"org_01K6YS","name":"Engineering","created_at":"2026-11-02T09:15:00.120Z","updated_at":"2026-11-02T09:15:00.120Z"}`
	raw := `{"object":"event","id":"event_01K92B","event":"dsync.group.created","data":` + data +
		`,"created_at":"2026-11-02T09:15:00.431Z","context":{"actor":{"id":"user_01K6YR","source":"dashboard","name":"Ada"}}}`
	require.True(t, json.Valid([]byte(raw)))
	return &source.Event{
		ID: "event_01K92B", Event: "dsync.group.created", Data: json.RawMessage(data), Raw: json.RawMessage(raw),
		CreatedAt: time.Date(2026, 11, 2, 9, 15, 0, 431e6, time.UTC),
	}
}

// samples are the blocks of docs/messages.md, in the order of the page: a message in each encoding
// on each bus, a dead letter, and what is said of it once its event was published again.
func samples(t *testing.T) []string {
	t.Helper()
	e := sampleEvent(t)
	var blocks []string
	for _, encoding := range []Encoding{Raw, CloudEvents, CloudEventsStructured} {
		for _, binding := range []Binding{NATS, Kafka} {
			m := routeOne(t, newRouter(t, Config{Relay: "workos", Encoding: encoding, Binding: binding}), e)
			blocks = append(blocks, sample(&m, binding))
		}
	}
	r := newRouter(t, Config{Relay: "workos", DeadLetter: "relay.dead_letter"})
	letter, err := r.DeadLetter(e, e.Event, "body and headers of 662 bytes exceed max_payload 512 of nats://nats:4222", 662, 0)
	require.NoError(t, err)
	var body Letter
	require.NoError(t, json.Unmarshal(letter.Body, &body))
	replayed := r.ReplayedMessage(&Replayed{
		Run: "20261103T101500Z-1f2e3d4c", At: time.Date(2026, 11, 3, 10, 15, 2, 120e6, time.UTC), EventID: e.ID, Type: e.Event,
		Created: body.CreatedAt, SHA256: body.SHA256, Topic: e.Event, Letter: time.Date(2026, 11, 2, 9, 15, 1, 2e6, time.UTC),
		Letters: []LetterPlace{{Log: "relay.dead_letter/0", Offset: 17}},
	}, letter.Key, letter.Headers)
	replayed.Headers = append(replayed.Headers, sink.Header{Key: HeaderReplay, Value: "20261103T101500Z-1f2e3d4c"})
	return append(blocks, sample(&letter, Kafka), sample(&replayed, Kafka))
}

// sample is a message as the page shows it.
func sample(m *sink.Message, binding Binding) string {
	var b strings.Builder
	if binding == Kafka {
		fmt.Fprintf(&b, "topic: %s\nkey: %s\n", m.Topic, m.Key)
	} else {
		fmt.Fprintf(&b, "subject: %s\n", m.Topic)
	}
	for _, h := range m.Headers {
		fmt.Fprintf(&b, "%s: %s\n", h.Key, h.Value)
	}
	fmt.Fprintf(&b, "\n%s\n", m.Body)
	return b.String()
}

// TestMessagesPage compares docs/messages.md with what the router makes.
func TestMessagesPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "messages.md"))
	require.NoError(t, err)
	rest := string(page)
	for _, block := range samples(t) {
		_, after, found := strings.Cut(rest, "```text\n"+block+"```\n")
		require.True(t, found, "docs/messages.md lacks, in this place:\n%s", block)
		rest = after
	}
	require.NotContains(t, rest, "```text", "a block that no router makes")
}

// TestStateMessagesPage compares the messages of docs/state.md with what the router makes.
func TestStateMessagesPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "state.md"))
	require.NoError(t, err)
	r := keeping(t, Config{Binding: Kafka}, "directory_group")
	made := sampleEvent(t)
	deleted := *made
	deleted.ID, deleted.Event, deleted.CreatedAt = "event_01K92C", "dsync.group.deleted", time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)
	deleted.Raw = json.RawMessage(strings.NewReplacer(made.ID, deleted.ID, made.Event, deleted.Event, "2026-11-02T09:15:00.431Z", "2026-11-02T10:00:00Z").Replace(string(made.Raw)))
	change, ok := state.ChangeOf(made)
	require.True(t, ok)
	batch, err := r.AppendState(nil, made, nil)
	require.NoError(t, err)
	batch, err = r.AppendObject(batch, &change, "20261103T101500Z-1f2e3d4c")
	require.NoError(t, err)
	batch, err = r.AppendState(batch, &deleted, nil)
	require.NoError(t, err)
	require.Len(t, batch, 3)
	rest := string(page)
	for i := range batch {
		if batch[i].Removes() {
			batch[i].Body = []byte("null")
		}
		block := sample(&batch[i], Kafka)
		_, after, found := strings.Cut(rest, "```text\n"+block+"```\n")
		require.True(t, found, "docs/state.md lacks, in this place:\n%s", block)
		rest = after
	}
	require.NotContains(t, rest, "```text\ntopic:", "a message that no router makes")
}
