package router

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
)

type letter struct {
	Reason    string          `json:"reason"`
	EventID   string          `json:"event_id"`
	Type      string          `json:"type"`
	CreatedAt string          `json:"created_at"`
	Topic     string          `json:"topic"`
	Size      int             `json:"size"`
	SHA256    string          `json:"sha256"`
	Redaction string          `json:"redaction"`
	Event     json.RawMessage `json:"event"`
}

func deadLetter(t testing.TB, e *source.Event, reason string, size, limit int) (sink.Message, letter) {
	t.Helper()
	r := newRouter(t, Config{Relay: "workos", Prefix: "p.", DeadLetter: "relay.dead_letter", Encoding: CloudEvents})
	m, err := r.DeadLetter(e, "p.user.created", reason, size, limit)
	require.NoError(t, err)
	require.True(t, json.Valid(m.Body), "%q", m.Body)
	require.True(t, utf8.Valid(m.Body))
	var l letter
	require.NoError(t, json.Unmarshal(m.Body, &l))
	want := "" // of an event without bytes
	if len(e.Raw) > 0 {
		sum := sha256.Sum256(e.Raw)
		want = hex.EncodeToString(sum[:])
	}
	require.Equal(t, want, l.SHA256)
	return m, l
}

// messageSize is what a bus counts at most.
func messageSize(m sink.Message) int {
	n := len(m.Topic) + len(m.Key) + len(m.ID) + len(m.Body) + 100
	for _, h := range m.Headers {
		n += len(h.Key) + len(h.Value) + 16
	}
	return n
}

func TestDeadLetter(t *testing.T) {
	e := newEvent(t, "user.created", `{"id":"user_1","organization_id":"org_1"}`)
	m, l := deadLetter(t, e, `too "large" <1203311>`, 1203311, 0)
	require.Equal(t, "p.relay.dead_letter", m.Topic)
	require.Equal(t, "org_1", string(m.Key))
	require.Equal(t, "dead_letter.event_01H", m.ID)
	require.Equal(t, checkpoint.Position{EventID: "event_01H", CreatedAt: e.CreatedAt}, m.Position)
	require.Equal(t, routeOne(t, newRouter(t, Config{}), e).Headers, m.Headers, "a dead letter is not a CloudEvent")
	l.SHA256 = ""
	require.Equal(t, letter{
		Reason: `too "large" <1203311>`, EventID: "event_01H", Type: "user.created", CreatedAt: "2026-11-23T10:20:30.120Z",
		Topic: "p.user.created", Size: 1203311, Redaction: "none", Event: e.Raw,
	}, l)

	_, l = deadLetter(t, e, "illegal", 0, 0)
	require.Equal(t, len(e.Raw), l.Size, "without a size it is the event's")

	_, err := newRouter(t, Config{}).DeadLetter(e, "user.created", "too large", 0, 0)
	require.ErrorIs(t, err, ErrNoDeadLetter)
	require.ErrorContains(t, err, "event_01H")
}

// TestDeadLetterBytes holds the body of a dead letter byte for byte: the order of its members, what
// is escaped, and the event as it was received.
func TestDeadLetterBytes(t *testing.T) {
	t.Parallel()
	const raw = `{ "id" : "event_01H", "text": "<&> é \u2028", "n": 1.0 }`
	e := &source.Event{ID: "event_01H", Event: "user.<created>\n\t\u2028", Raw: []byte(raw)}
	m, err := newRouter(t, Config{DeadLetter: "dead"}).DeadLetter(e, "topic & more", "too \"large\" <b> é 😀", 7, 0)
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(raw))
	require.Equal(t, `{"reason":"too \"large\" \u003cb\u003e é 😀","event_id":"event_01H","type":"user.\u003ccreated\u003e\n\t\u2028",`+
		`"created_at":"","topic":"topic \u0026 more","size":7,"sha256":"`+hex.EncodeToString(sum[:])+`","redaction":"none","event":`+raw+`}`, string(m.Body))
}

func TestDeadLetterFits(t *testing.T) {
	withSize := func(n int) *source.Event {
		return newEvent(t, "user.created", `{"x":"`+strings.Repeat("x", n)+`"}`)
	}
	had := map[bool]int{}
	for _, limit := range []int{2 << 10, 5000} {
		for n := limit - 2000; n < limit+100; n += 9 {
			m, l := deadLetter(t, withSize(n), "too large", 0, limit)
			require.LessOrEqual(t, messageSize(m), limit)
			had[l.Event != nil]++
		}
	}
	require.Greater(t, had[true], 100)
	require.Greater(t, had[false], 100)

	_, l := deadLetter(t, withSize(500<<10), "too large", 0, 0)
	require.NotNil(t, l.Event)
	_, l = deadLetter(t, withSize(512<<10), "too large", 0, 0)
	require.Nil(t, l.Event, "where the limit is not known, half of what buses take by default")
	_, l = deadLetter(t, withSize(2<<20), "too large", 0, 4<<20)
	require.NotNil(t, l.Event)
}

// However odd the event, its dead letter is small and legal.
func TestDeadLetterOfAnOddEvent(t *testing.T) {
	long := strings.Repeat("é\r\n\x00", 200_000)
	e := &source.Event{
		ID: long, Event: "\xff" + long, Raw: []byte("{\xff" + long),
		Data: json.RawMessage(`{"organization_id":"` + strings.Repeat("o", 100_000) + `"}`),
	}
	m, l := deadLetter(t, e, long, 0, 64<<10)
	require.Less(t, messageSize(m), 32<<10)
	require.Nil(t, l.Event)
	require.True(t, strings.HasSuffix(l.EventID, "..."))
	for _, h := range m.Headers {
		require.NotContains(t, h.Value, "\n")
	}
	other := *e
	other.Raw = []byte("{")
	o, _ := deadLetter(t, &other, long, 0, 64<<10)
	require.NotEqual(t, m.ID, o.ID)

	broken := newEvent(t, "user.created", `{}`)
	broken.Raw = append(json.RawMessage(nil), broken.Raw[:10]...)
	_, l = deadLetter(t, broken, "r", 0, 0)
	require.Nil(t, l.Event)
}

func FuzzDeadLetter(f *testing.F) {
	f.Add("event_1", "user.created", "too large", []byte(`{"data":{"id":"x"}}`), 1<<20)
	f.Add("", "\xff\n", strings.Repeat("é", 5000), []byte("{\"a\":\"\xff\"}"), 0)
	f.Add("event_1", "user.created", "no bytes", []byte{}, 1<<20)
	f.Add(strings.Repeat("x", 300), "\u2028", "\x00", []byte(`{`), -1)
	f.Fuzz(func(t *testing.T, id, eventType, reason string, raw []byte, limit int) {
		_, l := deadLetter(t, &source.Event{ID: id, Event: eventType, Raw: raw, Data: raw}, reason, 0, limit)
		if l.Event != nil {
			require.Equal(t, strings.TrimSpace(string(raw)), string(l.Event))
		}
	})
}
