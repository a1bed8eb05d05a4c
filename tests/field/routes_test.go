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
	var out []string
	for _, m := range storedIn(ctx, t, js) {
		line := m.Subject + " " + m.Header.Get("event-id")
		for _, h := range headers {
			line += " " + m.Header.Get(h)
		}
		out = append(out, line)
	}
	return out
}

// storedIn returns the messages of the stream in their order, without those that hold positions.
func storedIn(ctx context.Context, t testing.TB, js jetstream.JetStream) (all []*jetstream.RawStreamMsg) {
	t.Helper()
	s, err := js.Stream(ctx, stream)
	require.NoError(t, err)
	info, err := s.Info(ctx)
	require.NoError(t, err)
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err == nil && !strings.HasPrefix(m.Subject, "relay.position.") {
			all = append(all, m)
		}
	}
	return all
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
	code, _, errs := mistaken.Check(t)
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
	code, out, errs = r.Check(t)
	require.Equal(t, exitDone, code, out+errs)
	code, out, errs = r.Run(t, "replay", "--since", "earliest", "--until", "latest")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, errs, "the routes drop 2 more")
	r.verify(t, exitDone)
	require.Equal(t, exitDone, r.Stop(t))
}

// hostileValues lead nowhere but to the dead letters.
var hostileValues = []string{"a.b", "*", ">", "a b", "none", "a\r\nb", "ä", "../x", strings.Repeat("x", 200)}

const byOrganization = `
dead_letter: {topic: relay.dead_letter}
routes:
  - events: ["session.*", "user.*"]
    topic: "workos.{organization_id:none}.{type}"
`

// TestTopicsFromTheEventOnNATS: the stream binds a wildcard, events go to the subject that their
// organization makes, hostile values to the dead letters, and every command that looks at topics
// works with that. The stream that is deleted stops relay.
func TestTopicsFromTheEventOnNATS(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	first := appendRouted(t, api, routed{"session.created", `{"id":"s","organization_id":"org_1"}`}, routed{"user.created", `{"id":"u"}`},
		routed{"dsync.user.created", `{"id":"du","organization_id":"org_1"}`})
	bus := newNATS(t, nil)
	js := bus.connect(t)
	config := byOrganization + natsConfig(api.URL(), bus.URL)
	r := newRelay(t, "relay", config)
	code, out, errs := r.Check(t)
	require.Equal(t, exitDone, code, out+errs)
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("nats").Position.EventID == first[2] }, "every event is settled")
	want := []string{"workos.org_1.session.created " + first[0], "workos.none.user.created " + first[1], "dsync.user.created " + first[2]}
	require.Equal(t, want, storedOn(t, js))

	var hostile []routed
	for _, v := range hostileValues {
		hostile = append(hostile, routed{"session.created", fmt.Sprintf(`{"id":"s","organization_id":%q}`, v)})
	}
	more := appendRouted(t, api, hostile...)
	r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("nats").Position.EventID == more[len(more)-1] }, "every event is settled")
	for _, id := range more {
		want = append(want, "relay.dead_letter "+id)
	}
	require.Equal(t, want, storedOn(t, js))
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	subjects := s.CachedInfo().Config.Subjects
	require.Contains(t, subjects, "workos.*.>")
	require.NotContains(t, subjects, "session.created")

	code, out, errs = r.Check(t, "--verbose")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "workos.*.>")
	code, out, errs = r.Run(t, "types")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "workos.{organization_id:none}.{type}")
	code, out, errs = r.Run(t, "types", "--asyncapi")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "address: workos.{organization_id}.{type}")
	code, out, errs = r.Run(t, "replay", "--since", "earliest", "--until", "latest", "--dry-run")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "workos.org_1.session.created")
	v := r.verify(t, exitDone)
	require.Equal(t, len(hostileValues), v.Parked)
	require.Equal(t, 3+len(hostileValues), v.Events)

	require.Equal(t, exitDone, r.Stop(t))
	r.Start(t)
	last := appendRouted(t, api, routed{"session.created", `{"id":"s","organization_id":"org_2"}`})
	r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("nats").Position.EventID == last[0] }, "relay goes on from its position")
	require.Equal(t, append(want, "workos.org_2.session.created "+last[0]), storedOn(t, js))
	require.Equal(t, exitDone, r.Stop(t))

	require.NoError(t, js.DeleteStream(t.Context(), stream))
	r.Start(t)
	require.Equal(t, exitDecides, r.Wait(t), "relay remembers what it wrote to")
}

// TestATopicGetsPlaceholders: the stream that relay made for topics by type is changed for those
// that the routes make now, also if one of these takes the place of another.
func TestATopicGetsPlaceholders(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := appendRouted(t, api, routed{"session.created", `{"id":"s","organization_id":"org_1"}`})
	bus := newNATS(t, nil)
	js := bus.connect(t)
	route := func(topic string) string {
		return fmt.Sprintf("routes: [{events: [\"session.*\"], topic: %q}]\n", topic) + natsConfig(api.URL(), bus.URL)
	}
	fixed := newRelay(t, "fixed", route("workos.sessions"))
	fixed.Start(t)
	fixed.Await(t, func() bool { return fixed.Lane("nats").AtTip }, "the event is settled")
	require.Equal(t, exitDone, fixed.Stop(t))

	r := newRelay(t, "relay", route("workos.{organization_id}"))
	r.Start(t)
	more := appendRouted(t, api, routed{"session.created", `{"id":"s","organization_id":"org_1"}`})
	r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("nats").Position.EventID == more[0] }, "the event is settled")
	require.Equal(t, []string{"workos.sessions " + ids[0], "workos.org_1 " + more[0]}, storedOn(t, js))
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	require.NotContains(t, s.CachedInfo().Config.Subjects, "workos.sessions", "the wildcard has taken its place")
	require.Equal(t, exitDone, r.Stop(t))

	unlike := newRelay(t, "unlike", route("{organization_id}.x"))
	code, _, errs := unlike.Check(t)
	require.Equal(t, exitUsage, code, errs)
	require.Contains(t, errs, "it begins with a placeholder")
}
