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

	"workos-relay/source"
)

// samples are the blocks of docs/messages.md, in the order of the page: a message in each encoding
// on each bus.
func samples(t *testing.T) []string {
	t.Helper()
	data := `{"object":"directory_group","id":"directory_group_01K6YV","idp_id":"00g1e2","directory_id":"directory_01K6YT",` +
		`"organization_id":"org_01K6YS","name":"Engineering","created_at":"2026-11-02T09:15:00.120Z","updated_at":"2026-11-02T09:15:00.120Z"}`
	raw := `{"object":"event","id":"event_01K92B","event":"dsync.group.created","data":` + data +
		`,"created_at":"2026-11-02T09:15:00.431Z","context":{"actor":{"id":"user_01K6YR","source":"dashboard","name":"Ada"}}}`
	require.True(t, json.Valid([]byte(raw)))
	e := &source.Event{
		ID: "event_01K92B", Event: "dsync.group.created", Data: json.RawMessage(data), Raw: json.RawMessage(raw),
		CreatedAt: time.Date(2026, 11, 2, 9, 15, 0, 431e6, time.UTC),
	}
	var blocks []string
	for _, encoding := range []Encoding{Raw, CloudEvents, CloudEventsStructured} {
		for _, binding := range []Binding{NATS, Kafka} {
			m := routeOne(t, newRouter(t, Config{Relay: "workos", Encoding: encoding, Binding: binding}), e)
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
			blocks = append(blocks, b.String())
		}
	}
	return blocks
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
