package router

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func TestHeadersOfARoute(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxHeaderValue+1)
	e := newEvent(t, "user.created", `{"id":"user_1","organization_id":"org_1","count":12,"ok":true,"none":null,"object":{"a":1},"list":[{"v":"first"}],`+
		`"loud":"a\r\nb\u001b","long":"`+long+`","empty":""}`)
	for _, encoding := range []Encoding{Raw, CloudEvents, CloudEventsStructured} {
		r := newRouter(t, Config{Relay: "r", Encoding: encoding, Routes: []Route{{Events: []string{"user.*"}, Headers: map[string]string{
			"tenant": "data.organization_id", "org": "organization_id", "kind": "type", "count": "data.count", "ok": "data.ok", "none": "data.none", "object": "data.object",
			"first": "data.list.0.v", "loud": "data.loud", "long": "data.long", "empty": "data.empty", "missing": "data.missing", "at": "created_at",
		}}}})
		m := routeOne(t, r, e)
		own := m.Headers[len(m.Headers)-8:]
		require.Equal(t, []sink.Header{
			{Key: "at", Value: "2026-11-23T10:20:30.120Z"}, {Key: "count", Value: "12"}, {Key: "first", Value: "first"}, {Key: "kind", Value: "user.created"},
			{Key: "loud", Value: "a%0D%0Ab%1B"}, {Key: "ok", Value: "true"}, {Key: "org", Value: "org_1"}, {Key: "tenant", Value: "org_1"},
		}, own)
		m = routeOne(t, r, newEvent(t, "session.created", `{"organization_id":"org_1"}`))
		require.Empty(t, header(m, "tenant"), "another route")
	}
	r := newRouter(t, Config{RedactionKey: "0123456789abcdef", Routes: []Route{{
		Events: []string{"user.*"}, Pseudonymize: []string{"data.organization_id"}, Headers: map[string]string{"tenant": "data.organization_id"},
	}}})
	require.Contains(t, header(routeOne(t, r, e), "tenant"), pseudonymPrefix)
}

func TestHeadersThatARouteCannotSet(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "it is empty", "a b": "' ' is not allowed", "a:b": "':' is not allowed", "é": "'é' is not allowed", "a.b": "'.' is not allowed", "a\n": `'\n' is not allowed`,
		strings.Repeat("a", maxHeaderName+1): "it has 65 characters, and 64 are allowed",
		"event-id":                           "relay or the bus sets headers of that name", "Event-Type": "relay or the bus", "organization-id": "relay or the bus", "actor-id": "relay or the bus",
		"relay-replay": "relay or the bus", "Nats-Msg-Id": "relay or the bus", "nats-rollup": "relay or the bus", "KV-Operation": "relay or the bus", "ce_id": "relay or the bus",
		"ce-type": "relay or the bus", "Content-Type": "relay or the bus", "entity": "relay or the bus",
	} {
		_, err := New(Config{Routes: []Route{{Events: []string{"*"}, Headers: map[string]string{name: "data.id"}}}})
		require.ErrorContains(t, err, want, name)
		require.ErrorContains(t, err, "routes[0].headers."+name)
	}
	for path, want := range map[string]string{
		"": "it is empty", "data..id": "a name between dots is empty", "data.*": "'*' is not allowed", "data.#": "'#' is not allowed",
		"data.email": "is taken out by redact", "data.user.id": "lies inside a value that pseudonymize replaces",
	} {
		_, err := New(Config{RedactionKey: "0123456789abcdef", Routes: []Route{{
			Events: []string{"*"}, Redact: []string{"data.email"}, Pseudonymize: []string{"data.user"}, Headers: map[string]string{"x": path},
		}}})
		require.ErrorContains(t, err, want, path)
	}
	many := map[string]string{}
	for i := range maxRouteHeaders + 1 {
		many[fmt.Sprint("h", i)] = "data.id"
	}
	_, err := New(Config{Routes: []Route{{Events: []string{"*"}, Headers: many}}})
	require.ErrorContains(t, err, "has 17 entries, and 16 are allowed")
	_, err = New(Config{Routes: []Route{{Events: []string{"*"}, Drop: true, Headers: map[string]string{"x": "type"}}}})
	require.ErrorContains(t, err, "do not go together with drop")
	_, err = New(Config{Routes: []Route{{Events: []string{"*"}, Headers: map[string]string{"Tenant": "type", "tenant": "type"}}}})
	require.ErrorContains(t, err, "differs from Tenant in upper and lower case alone")
}
