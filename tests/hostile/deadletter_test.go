//go:build linux

package hostile

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"workos-relay/tests/testkit"
)

// TestADeadLetterShowsNothingThatIsHidden: the topic of dead letters holds an event with what a
// route takes out, as an older configuration left it there, one that is not what its dead letter
// says, and text that would control a terminal. Nothing of it is shown or published, and what is
// redacted already is not redacted twice.
//
// P11: dead letters that come back, on the built binary.
func TestADeadLetterShowsNothingThatIsHidden(t *testing.T) {
	t.Parallel()
	const hidden = "hunter2"
	// Events of this type are parked whole, since their topic would be that of a position.
	const odd = "relay.position.other"
	events := []hostileEvent{newEvent(0, "user.created", 60), newEvent(1, odd, 50), newEvent(2, odd, 40)}
	for i := range events {
		events[i].raw = strings.Replace(events[i].raw, `"id":"user_1"`, `"id":"user_1","name":"`+hidden+`","text":"\u001b[31m"`, 1)
	}
	events[2].raw = strings.Replace(events[2].raw, `\u001b`, "\u202e", 1)
	bus, js := newNATS(t)
	config := func(routes string) string {
		return fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms, unexpected: relay}\nsinks: [{name: nats, type: nats, url: %q}]\n"+
			"dead_letter: {}\nredaction: {key: 0123456789abcdef0123456789abcdef}\nroutes: [%s]\n", serveAnything(t, events, 0), apiKey, bus, routes)
	}
	r := testkit.NewRelay(t, relayBinary, "relay", config(`{events: ["*"], pseudonymize: [data.name]}`))
	r.Start(t)
	r.Await(t, func() bool { return subjects(js)["relay.dead_letter"] == 2 }, "two events are parked")
	require.Zero(t, r.Stop(t))

	parked := func(id string, event string, more string) {
		body := fmt.Sprintf(`{"reason":"too large \u001b[31m","event_id":%q,"type":%q,"created_at":"2026-11-01T00:00:00Z","topic":"x","size":1%s,"event":%s}`, id, odd, more, event)
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "relay.dead_letter", Data: []byte(body)})
		require.NoError(t, err)
	}
	parked("event_X", events[1].raw, `,"sha256":"00"`) // not the event that was parked
	parked("event_null", "null", "")
	for _, body := range []string{"", "[]", `{"event_id":7}`, "\x00\x1b", strings.Repeat("[", 100_000)} {
		_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "relay.dead_letter", Data: []byte(body)})
		require.NoError(t, err)
	}

	r.WriteConfig(t, config(`{events: ["*"], topic: people, pseudonymize: [data.name]}`)+
		fmt.Sprintf("checkpoint: {dir: %q}\nadmin: {listen: %q}\n", r.Dir, r.Admin))
	shown := ""
	run := func(code int, args ...string) string {
		t.Helper()
		got, out, errs := r.Run(t, append([]string{"deadletter"}, args...)...)
		require.Equal(t, code, got, out+errs)
		shown += out + errs
		return out
	}
	run(0, "list")
	var rows []any
	require.NoError(t, json.Unmarshal([]byte(run(0, "list", "--json")), &rows))
	require.Len(t, rows, 4)
	for _, e := range events[1:] {
		require.Contains(t, run(0, "show", e.id), "hmac-sha256:")
		require.Contains(t, run(0, "show", e.id, "--json"), "hmac-sha256:")
	}
	out := run(3, "replay", "--all")
	require.Contains(t, out, "published 2 events again")
	require.Equal(t, 2, strings.Count(out, "stays a dead letter"), out)
	require.NotContains(t, shown, hidden)
	require.NotContains(t, shown, "\x1b")
	require.NotContains(t, shown, "\u202e")
	require.Equal(t, uint64(2), subjects(js)["people"])

	s, err := js.Stream(t.Context(), "WORKOS")
	require.NoError(t, err)
	first, err := s.GetLastMsgForSubject(t.Context(), "user.created")
	require.NoError(t, err)
	again, err := s.GetLastMsgForSubject(t.Context(), "people")
	require.NoError(t, err)
	pseudonym := func(body []byte) string { _, rest, _ := strings.Cut(string(body), "hmac-sha256:"); return rest[:64] }
	require.Equal(t, pseudonym(first.Data), pseudonym(again.Data))
	require.Equal(t, events[2].id, again.Header.Get("event-id"))

	// The routes of now take out nothing, and choose by what was taken out.
	r.WriteConfig(t, config(`{events: ["*"], topic: named, where: 'has(data.name) && data.name == "`+hidden+`"'}`)+
		fmt.Sprintf("checkpoint: {dir: %q}\nadmin: {listen: %q}\n", r.Dir, r.Admin))
	code, text, errs := r.Run(t, "deadletter", "replay", "--again", events[1].id)
	require.Zero(t, code, text+errs)
	named, err := s.GetLastMsgForSubject(t.Context(), "named")
	require.NoError(t, err)
	require.Equal(t, events[1].id, named.Header.Get("event-id"))
	require.JSONEq(t, events[1].raw, string(named.Data))
}
