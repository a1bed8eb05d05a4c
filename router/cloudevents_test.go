package router

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/source"
)

// decodeBinary reads a message as a receiver of the binding does that knows the specification and
// nothing of relay.
func decodeBinary(t *testing.T, b Binding, m sink.Message) ce.Event {
	t.Helper()
	prefix, contentType, structured := "ce_", "", false
	if b == NATS {
		prefix = "ce-"
	}
	attributes := map[string]string{}
	for _, h := range m.Headers {
		key := strings.ToLower(h.Key)
		if key == "content-type" {
			contentType, structured = h.Value, strings.HasPrefix(strings.ToLower(h.Value), "application/cloudevents")
		}
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		require.NotContains(t, attributes, name, "an attribute stands twice")
		value := h.Value
		if b == NATS {
			for _, c := range []byte(value) {
				require.True(t, c > 0x20 && c < 0x7f && c != '"', "%q in the value of %s", c, h.Key)
			}
			var err error
			value, err = url.PathUnescape(value)
			require.NoError(t, err)
		}
		require.True(t, utf8.ValidString(value))
		attributes[name] = value
	}
	require.False(t, structured, "this is structured mode")
	if b == NATS {
		require.Empty(t, contentType, "in NATS datacontenttype is an attribute like others")
		contentType = attributes["datacontenttype"]
	} else {
		require.NotContains(t, attributes, "datacontenttype", "in Kafka it is content-type")
	}
	out := ce.New(attributes["specversion"])
	out.SetID(attributes["id"])
	out.SetSource(attributes["source"])
	out.SetType(attributes["type"])
	out.SetSubject(attributes["subject"])
	if at, ok := attributes["time"]; ok {
		parsed, err := time.Parse(time.RFC3339Nano, at)
		require.NoError(t, err)
		out.SetTime(parsed)
	}
	for name := range attributes {
		require.Contains(t, []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype"}, name)
	}
	require.NoError(t, out.SetData(contentType, m.Body))
	return out
}

func decodeStructured(t *testing.T, b Binding, m sink.Message) ce.Event {
	t.Helper()
	if b == Kafka {
		require.Equal(t, "application/cloudevents+json; charset=UTF-8", header(m, "content-type"))
	} else {
		require.Equal(t, "application/cloudevents+json", header(m, "Content-Type"))
	}
	var out ce.Event
	require.NoError(t, json.Unmarshal(m.Body, &out))
	return out
}

func TestCloudEvents(t *testing.T) {
	subjectless := newEvent(t, "user.created", `{"n":12345678901234567890}`)
	subjectless.CreatedAt = time.Time{}
	odd := newEvent(t, "odd type", `{"id":"a \"b\" 100% \u00e9😀\u0001<&>"}`)
	odd.ID = `évent "1" 100%`
	for name, tt := range map[string]struct {
		event   *source.Event
		id      string
		subject string
	}{
		"usual":   {newEvent(t, "dsync.user.created", `{"id":"directory_user_1","organization_id":"org_1"}`), "event_01H", "directory_user_1"},
		"id last": {newEvent(t, "user.created", `{"organization_id":"org_1","sso":{},"id":"user_1","object":"user"}`), "event_01H", "user_1"},
		"sparse":  {subjectless, "event_01H", ""},
		"unusual": {odd, odd.ID, "a \"b\" 100% é😀\x01<&>"},
	} {
		for _, b := range []Binding{NATS, Kafka} {
			for _, encoding := range []Encoding{CloudEvents, CloudEventsStructured} {
				t.Run(name+"/"+string(b)+"/"+string(encoding), func(t *testing.T) {
					r := newRouter(t, Config{Relay: "work os/ä", Binding: b, Encoding: encoding})
					m := routeOne(t, r, tt.event)
					var have ce.Event
					if encoding == CloudEvents {
						have = decodeBinary(t, b, m)
						require.Equal(t, []byte(tt.event.Raw), m.Body)
					} else {
						have = decodeStructured(t, b, m)
						require.True(t, bytes.Contains(m.Body, tt.event.Raw), "the event does not stand in it byte for byte")
					}
					subject := tt.subject
					if b == Kafka && encoding == CloudEvents {
						subject = strings.ReplaceAll(subject, "\x01", "%01") // no attribute may hold a control character
					}
					require.NoError(t, have.Validate())
					require.Equal(t, "1.0", have.SpecVersion())
					require.Equal(t, tt.id, have.ID())
					require.Equal(t, "relay/work%20os%2F%C3%A4", have.Source())
					require.Equal(t, "com.workos."+tt.event.Event, have.Type())
					require.Equal(t, subject, have.Subject())
					require.True(t, tt.event.CreatedAt.Equal(have.Time()), "%v", have.Time())
					require.Equal(t, "application/json", have.DataContentType())
					require.JSONEq(t, string(tt.event.Raw), string(have.Data()))
					require.Empty(t, have.Extensions())

					// What the raw encoding says is said first here too, and the key and the topic
					// are the same.
					raw := routeOne(t, newRouter(t, Config{}), tt.event)
					require.Equal(t, raw.Headers, m.Headers[:len(raw.Headers)])
					require.Equal(t, raw.Key, m.Key)
					require.Equal(t, raw.Topic, m.Topic)
				})
			}
		}
	}
}

func TestBinaryHeadersAsTheBindingsShowThem(t *testing.T) {
	e := newEvent(t, "user.created", `{"id":"Euro € 😀"}`)
	for b, want := range map[Binding][]sink.Header{
		NATS: {
			{Key: "ce-specversion", Value: "1.0"}, {Key: "ce-id", Value: "event_01H"}, {Key: "ce-source", Value: "relay/workos"},
			{Key: "ce-type", Value: "com.workos.user.created"}, {Key: "ce-subject", Value: "Euro%20%E2%82%AC%20%F0%9F%98%80"},
			{Key: "ce-time", Value: "2026-11-23T10:20:30.120Z"}, {Key: "ce-datacontenttype", Value: "application/json"},
		},
		Kafka: {
			{Key: "ce_specversion", Value: "1.0"}, {Key: "ce_id", Value: "event_01H"}, {Key: "ce_source", Value: "relay/workos"},
			{Key: "ce_type", Value: "com.workos.user.created"}, {Key: "ce_subject", Value: "Euro € 😀"},
			{Key: "ce_time", Value: "2026-11-23T10:20:30.120Z"}, {Key: "content-type", Value: "application/json"},
		},
	} {
		m := routeOne(t, newRouter(t, Config{Relay: "workos", Binding: b, Encoding: CloudEvents}), e)
		require.Equal(t, want, m.Headers[3:], b)
	}
}
