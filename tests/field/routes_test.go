//go:build unix

package field

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// routed is an event of a type with this data.
type routed struct{ eventType, data string }

// appendRouted adds events of a minute ago at the end of the list and returns their ids.
func appendRouted(t testing.TB, api *sourcetest.Server, events ...routed) []string {
	t.Helper()
	ids := make([]string, len(events))
	begin := time.Now().Add(-time.Minute)
	for i, e := range events {
		ids[i] = fmt.Sprintf("event_%020d_%06d", begin.UnixNano(), i)
		at := begin.Add(time.Duration(i) * time.Millisecond).UTC().Format("2006-01-02T15:04:05.000Z")
		require.NoError(t, api.Append(fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":%s,"created_at":%q}`, ids[i], e.eventType, e.data, at)))
	}
	return ids
}

// storedOn returns the messages of the stream that are not a position: subject, event id and the
// values of some headers, separated by blanks.
func storedOn(t testing.TB, js jetstream.JetStream, headers ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	require.NoError(t, err)
	info, err := s.Info(ctx)
	require.NoError(t, err)
	var out []string
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil || strings.HasPrefix(m.Subject, "relay.position.") {
			continue
		}
		line := m.Subject + " " + m.Header.Get("event-id")
		for _, h := range headers {
			line += " " + m.Header.Get(h)
		}
		out = append(out, line)
	}
	return out
}

// TestRoutesByContent: a test organization is dropped, an event that lacks a field goes to the next
// route and is counted, and a route sets headers. A mistake in an expression stops relay with its
// place.
func TestRoutesByContent(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := appendRouted(t, api,
		routed{"dsync.user.created", `{"id":"u1","organization_id":"org_1","directory_id":"d1","state":"active"}`},
		routed{"dsync.user.created", `{"id":"u2","organization_id":"org_test","directory_id":"d2","state":"active"}`},
		routed{"dsync.user.updated", `{"id":"u3","organization_id":"org_1","directory_id":"d1"}`},
		routed{"user.created", `{"id":"u4","email":"hidden@example.com"}`},
		routed{"session.created", `{"id":"s5","organization_id":"org_test"}`},
	)
	bus := newNATS(t, nil)
	js := bus.connect(t)
	config := `
routes:
  - events: ["*"]
    where: organization_id == "org_test"
    drop: true
  - events: ["dsync.user.*"]
    where: data.state == "active"
    topic: actives
    headers: {tenant: data.organization_id, directory: data.directory_id, kind: type}
  - events: ["user.*"]
    where: data.state == "active"
    redact: [data.email]
dead_letter: {topic: relay.dead_letter}
` + natsConfig(api.URL(), bus.URL)
	mistaken := newRelay(t, "mistaken", strings.Replace(config, `data.state == "active"`, "data.state = 1", 1))
	code, _, errs := mistaken.Run(t, "check")
	require.Equal(t, exitUsage, code, errs)
	require.Contains(t, errs, "routes[1].where: is not a valid expression: line 1, column 12: Syntax error")

	r := newRelay(t, "relay", config)
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("nats").Position.EventID == ids[4] }, "every event is settled")
	require.Equal(t, []string{
		"actives " + ids[0] + " org_1 d1 dsync.user.created",
		"dsync.user.updated " + ids[2] + "   ",
		"relay.dead_letter " + ids[3] + "   ",
	}, storedOn(t, js, "tenant", "directory", "kind"))
	require.Contains(t, r.Metrics(), `relay_where_failures_total{lane="nats"} 1`)
	require.Contains(t, r.Metrics(), `relay_dropped_events_total{lane="nats"} 2`)
	r.Says(t, "the where of a route cannot be evaluated for an event")
	require.NotContains(t, r.Output(), "hidden@")
	code, out, errs := r.Run(t, "types")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "actives or dsync.user.created or (dropped)")
	code, out, errs = r.Run(t, "check")
	require.Equal(t, exitDone, code, out+errs)
	code, out, errs = r.Run(t, "replay", "--since", "earliest", "--until", "latest")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, errs, "the routes drop 2 more")
	r.verify(t, exitDone)
	require.Equal(t, exitDone, r.Stop(t))
}
