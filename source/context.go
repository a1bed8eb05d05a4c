package source

import (
	"encoding/json"

	"github.com/tidwall/gjson"
)

// Context is what an event says about who or what caused it. It holds personal data. Its fields are
// those of the context schema that WorkOS publishes with its clients; each may be missing.
type Context struct {
	Actor              Actor
	ClientID           string
	PreviousAttributes json.RawMessage // aliases the event; nil if there are none
}

// Actor is who or what caused an event.
type Actor struct {
	ID     string
	Name   string
	Source string // api, dashboard, admin_portal, system, or a value that is new
}

// Context returns the typed view of the event's context, and whether it has one. It reads Raw, so
// it is for events of a Stream.
func (e *Event) Context() (Context, bool) {
	found := gjson.GetBytes(e.Raw, "context")
	if !found.IsObject() {
		return Context{}, false
	}
	c := Context{
		Actor: Actor{
			ID:     textAt(found, "actor.id"),
			Name:   textAt(found, "actor.name"),
			Source: textAt(found, "actor.source"),
		},
		ClientID: textAt(found, "client_id"),
	}
	if p := found.Get("previous_attributes"); p.IsObject() {
		c.PreviousAttributes = json.RawMessage(p.Raw)
	}
	return c, true
}

// textAt returns the string at a path, and "" for every other value.
func textAt(in gjson.Result, path string) string {
	if v := in.Get(path); v.Type == gjson.String {
		return v.Str
	}
	return ""
}
