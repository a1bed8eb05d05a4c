//go:build unix

package field

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/source/sourcetest"
)

// onBus is a message of either kind of bus, without its place.
type onBus struct {
	topic   string // without the prefix
	headers map[string]string
	body    string
}

// letterBus is a bus whose limit on messages can be raised.
type letterBus struct {
	config string
	read   func() []onBus // every message, in its order if the bus has one
	raise  func()
	add    func(topic, body string) // a message that relay did not write, by a clock that is a day behind if the bus allows it
}

// natsLetters is a bus that refuses events over 8 KB on every subject.
func natsLetters(t *testing.T, api *sourcetest.Server) letterBus {
	bus := newNATS(t, nil)
	js := bus.connect(t)
	limit := func(n int32) {
		s, err := js.Stream(t.Context(), stream)
		require.NoError(t, err)
		conf := s.CachedInfo().Config
		conf.MaxMsgSize = n
		_, err = js.UpdateStream(t.Context(), conf)
		require.NoError(t, err)
	}
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: stream, Subjects: []string{"user.>", "dsync.>", "relay.>", "organization.>"}, MaxMsgSize: 8 << 10,
		AllowAtomicPublish: true, AllowRollup: true, AllowMsgTTL: true,
	})
	require.NoError(t, err)
	return letterBus{
		config: strings.Replace(natsConfig(api.URL(), bus.URL), "}]", ", events: [\"user.*\", \"dsync.*\"]}]", 1),
		read: func() (all []onBus) {
			for _, m := range storedIn(t.Context(), t, js) {
				headers := map[string]string{}
				for k := range m.Header {
					headers[k] = m.Header.Get(k)
				}
				all = append(all, onBus{m.Subject, headers, string(m.Data)})
			}
			return all
		},
		raise: func() { limit(-1) },
		add: func(topic, body string) {
			_, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: topic, Data: []byte(body)})
			require.NoError(t, err)
		},
	}
}

// kafkaLetters is a bus that refuses events over 8 KB on one topic.
func kafkaLetters(t *testing.T, api *sourcetest.Server) letterBus {
	bus := newKfake(t)
	narrow := bus.Prefix + "dsync.group.created"
	_, err := bus.Admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": kadm.StringPtr("8192")}, narrow)
	require.NoError(t, err)
	return letterBus{
		config: bus.config(api.URL(), `, compression: none, events: ["user.*", "dsync.*"]`),
		read: func() (all []onBus) {
			for _, records := range bus.read(t) {
				for _, r := range records {
					headers := map[string]string{}
					for _, h := range r.Headers {
						headers[h.Key] = string(h.Value)
					}
					all = append(all, onBus{strings.TrimPrefix(r.Topic, bus.Prefix), headers, string(r.Value)})
				}
			}
			return all
		},
		raise: func() {
			_, err := bus.Admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: kadm.StringPtr("1000000")}}, narrow)
			require.NoError(t, err)
		},
		add: func(topic, body string) {
			require.NoError(t, bus.Client.ProduceSync(t.Context(), &kgo.Record{
				Topic: bus.Prefix + topic, Value: []byte(body), Timestamp: time.Now().AddDate(0, 0, -1),
			}).FirstErr())
		},
	}
}

const deadTopic = "relay.dead_letter"

// letterRow is what `relay deadletter list --json` says of one.
type letterRow struct {
	EventID  string `json:"event_id"`
	Type     string
	Topic    string
	Reason   string
	Carries  bool `json:"carries_event"`
	Event    json.RawMessage
	Replayed *struct{ Run string }
}

// letterIDs returns the ids of the events that `relay deadletter list` shows.
func letterIDs(t *testing.T, r *relay, args ...string) (ids []string) {
	t.Helper()
	code, out, errs := r.Run(t, append([]string{"deadletter", "list", "--json"}, args...)...)
	require.Equal(t, exitDone, code, out+errs)
	var rows []letterRow
	require.NoError(t, json.Unmarshal([]byte(out), &rows), out)
	for _, row := range rows {
		require.Equal(t, "dsync.group.created", row.Type)
		require.NotEmpty(t, row.Reason)
		ids = append(ids, row.EventID)
	}
	return ids
}

// TestDeadLettersComeBack: events that the bus refused are published again once it takes them, in
// the order of the source, marked and redacted, and once only. They are too large for their dead
// letters.
func TestDeadLettersComeBack(t *testing.T) {
	t.Parallel()
	for name, on := range map[string]func(*testing.T, *sourcetest.Server) letterBus{"nats": natsLetters, "kafka": kafkaLetters} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			var want []string // that become dead letters
			begin := time.Now().Add(-time.Minute)
			for i := range 12 {
				kind, pad := "user.created", 10
				if i%3 == 1 {
					kind, pad = "dsync.group.created", 10_000+i
				}
				id := fmt.Sprintf("event_%020d_%06d", begin.UnixNano(), i)
				require.NoError(t, api.Append(fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":{"id":"group_%d","organization_id":"org_%d","idp_id":"secret","esc":"\u001b[31m","pad":%q},"created_at":%q}`,
					id, kind, i, i%2, padding(i, pad), begin.Add(time.Duration(i)*time.Millisecond).UTC().Format("2006-01-02T15:04:05.000Z"))))
				if pad > 10 {
					want = append(want, id)
				}
			}
			bus := on(t, api)
			r := newRelay(t, "relay", bus.config+"dead_letter: {topic: relay.dead_letter}\nroutes: [{events: [\"*\"], pseudonymize: [data.idp_id]}]\nredaction: {key: 0123456789abcdef0123456789abcdef}\n")
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("").Events == 12 }, "all events are committed")
			position := r.Lane("").Position
			bus.add(deadTopic, "not of relay \x1b[31m")
			before := bus.read()
			require.Equal(t, want, letterIDs(t, r))

			code, out, errs := r.Run(t, "deadletter", "list")
			require.Equal(t, exitDone, code, errs)
			require.Contains(t, out, "4 dead letters of lane "+name+"; 1 message on the topic that relay did not write")
			code, shown, errs := r.Run(t, "deadletter", "show", want[1])
			require.Equal(t, exitDone, code, errs)
			require.Contains(t, shown, `"pad":"`+padding(4, 10_004)+`"`)
			code, shownJSON, errs := r.Run(t, "deadletter", "show", want[1], "--json")
			require.Equal(t, exitDone, code, errs)
			var row letterRow
			require.NoError(t, json.Unmarshal([]byte(shownJSON), &row))
			require.False(t, row.Carries)
			for _, text := range []string{out, shown, shownJSON} {
				require.NotContains(t, text, "\x1b")
				require.NotContains(t, text, `"secret"`)
			}
			require.Contains(t, shown, "hmac-sha256:")

			// The bus refuses them as before.
			code, out, errs = r.Run(t, "deadletter", "replay", "--all")
			require.Equal(t, exitDecides, code, out+errs)
			require.Contains(t, errs, "4 events stay dead letters")
			require.Equal(t, 4, strings.Count(out, "stays a dead letter: event event_"), out)
			require.Equal(t, want, letterIDs(t, r))
			require.Len(t, bus.read(), len(before), "nothing was published")

			bus.raise()
			code, out, errs = r.Run(t, "deadletter", "replay", want[2], want[1], "--json")
			require.Equal(t, exitDone, code, out+errs)
			var report struct {
				Run       string
				Published int
			}
			require.NoError(t, json.Unmarshal([]byte(out), &report))
			require.Equal(t, 2, report.Published)
			require.Equal(t, []string{want[0], want[3]}, letterIDs(t, r))
			require.Equal(t, want, letterIDs(t, r, "--all"))
			code, out, errs = r.Run(t, "deadletter", "replay", want[1])
			require.Equal(t, exitUsage, code, out+errs)
			require.Contains(t, errs, "--again")
			code, out, errs = r.Run(t, "deadletter", "replay", "--all")
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "published 2 events again")
			after := bus.read()
			code, out, errs = r.Run(t, "deadletter", "replay", "--all")
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "has no dead letter that was not published again")
			require.Empty(t, letterIDs(t, r))
			require.Len(t, bus.read(), len(after), "a second run repeats nothing")
			bus.add(deadTopic, after[slices.IndexFunc(after, func(m onBus) bool { return m.topic == deadTopic && m.headers["event-id"] == want[0] })].body)
			require.Equal(t, want[:1], letterIDs(t, r), "it became a dead letter once more")

			var again []string
			for _, m := range after {
				if m.topic == "dsync.group.created" {
					again = append(again, m.headers["event-id"])
					require.NotEmpty(t, m.headers["relay-replay"])
					require.Contains(t, m.body, "hmac-sha256:")
				}
			}
			require.Equal(t, []string{want[1], want[2], want[0], want[3]}, again, "each run in the order of the source")
			pseudonym := func(body string) string { _, rest, _ := strings.Cut(body, "hmac-sha256:"); return rest[:64] }
			values := map[string]bool{}
			for _, m := range after {
				if m.topic != deadTopic {
					values[pseudonym(m.body)] = true
				}
			}
			require.Len(t, values, 1, "what was redacted in the dead letter has the same pseudonym as in every other event")
			require.Equal(t, position, r.Lane("").Position)
			code, out, errs = r.Run(t, "verify", "--since", "earliest", "--until", "latest")
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "4 messages are dead letters")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestADeadLetterOfAnEventThatIsGone: neither the dead letter nor WorkOS has the event. The others
// are published, also beside an embedded server inside the running relay.
func TestADeadLetterOfAnEventThatIsGone(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := slices.Concat(appendEvents(t, api, "dsync.group.created", 1, 2<<20), appendEvents(t, api, "user.created", 3, 10), appendEvents(t, api, "dsync.group.created", 1, 2<<20))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL)+"dead_letter: {topic: relay.dead_letter}\n")
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("").Events == 5 }, "all events are committed")
	require.Equal(t, exitDone, r.Stop(t))
	require.True(t, api.Expire(ids[1]))
	bus.opts.MaxPayload = 8 << 20
	bus.restart(t)
	code, out, errs := r.Run(t, "deadletter", "show", ids[0])
	require.Equal(t, exitFailed, code, out)
	require.Contains(t, out, ids[0])
	require.Contains(t, errs, "the Events API does not list it")
	code, out, errs = r.Run(t, "deadletter", "replay", "--all")
	require.Equal(t, exitDecides, code, out+errs)
	require.Contains(t, out, "published 1 event again")
	require.Contains(t, out, "stays a dead letter: event "+ids[0])
	require.Contains(t, errs, "what WorkOS does not list any more does not come back")
	code, out, errs = r.Run(t, "deadletter", "list")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, ids[0])
	require.NotContains(t, out, ids[4])
	require.Equal(t, append(slices.Clone(ids), ids[4], ids[4]), eventIDs(t, js, stream))
}
