package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"workos-relay/internal/app"
	"workos-relay/internal/printable"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/state"
)

// objects is the state of one entity on the bus of a lane.
type objects struct {
	*app.Objects
	lane  *app.Lane
	bus   *app.Bus
	topic sink.StateTopic
}

// openState opens the bus of a lane to read the state of an entity. The caller closes the bus.
func (env *environment) openState(ctx context.Context, lane, entity string) (*objects, error) {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return nil, err
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return nil, err
	}
	l, err := app.ChooseLane(lanes, lane)
	if err != nil {
		return nil, err
	}
	topics := l.Router.StateTopics()
	at := slices.IndexFunc(topics, func(t sink.StateTopic) bool { return t.Entity == entity })
	switch {
	case len(topics) == 0:
		return nil, app.KeepsNoState(l.Sink.Name)
	case at < 0:
		var kept []string
		for _, t := range topics {
			kept = append(kept, t.Entity)
		}
		if _, known := state.Lookup(entity); !known {
			return nil, app.Usage(fmt.Errorf("%q is not a kind of object; lane %s keeps %s", printable.Text(entity), l.Sink.Name, strings.Join(kept, ", ")))
		}
		return nil, app.Usage(fmt.Errorf("lane %s does not keep the state of each %s; it keeps %s: add it to state.entities of the sink", l.Sink.Name, entity, strings.Join(kept, ", ")))
	}
	x := &objects{lane: l.FromOutside(), topic: topics[at]}
	if x.bus, err = x.lane.OpenFromOutside(ctx); err != nil {
		return nil, err
	}
	if x.Objects = x.lane.Objects(x.bus.Sink); x.Objects == nil {
		return nil, errors.Join(x.lane.CannotReadBack(), x.bus.Close())
	}
	return x, nil
}

// object returns the JSON of an object that the bus holds.
func (x *objects) object(m *sink.Stored) json.RawMessage { return x.lane.Router.ObjectIn(m.Body) }

// objectRow is what `relay get --json` and `relay list --json` print of an object.
type objectRow struct {
	Entity         string          `json:"entity"`
	Key            string          `json:"key"`
	OrganizationID string          `json:"organization_id"`
	StoredAt       time.Time       `json:"stored_at"`
	Event          *eventRow       `json:"event"`    // that made the change; null if a snapshot did
	Snapshot       string          `json:"snapshot"` // the run of the snapshot; empty if an event made the change
	Object         json.RawMessage `json:"object"`
}

type eventRow struct {
	ID        string `json:"id"`
	Type      string `json:"type"`
	CreatedAt string `json:"created_at"`
}

func (x *objects) row(m *sink.Stored) objectRow {
	row := objectRow{
		Entity: x.topic.Entity, Key: string(m.Key), OrganizationID: x.organization(m), StoredAt: m.Time.UTC(),
		Snapshot: m.Header(router.HeaderSnapshot), Object: x.object(m),
	}
	if id := m.Header(router.HeaderID); id != "" {
		row.Event = &eventRow{ID: id, Type: m.Header(router.HeaderType), CreatedAt: m.Header(router.HeaderCreatedAt)}
	}
	if !json.Valid(row.Object) {
		row.Object, _ = json.Marshal(string(row.Object)) // a string can always be encoded
	}
	return row
}

// organization returns the id of the organization that an object names; empty if it names none.
func (x *objects) organization(m *sink.Stored) string {
	if id := m.Header(router.HeaderOrganization); id != "" {
		return id
	}
	id := gjson.GetBytes(x.object(m), "organization_id")
	if x.topic.Entity == "organization" {
		id = gjson.GetBytes(x.object(m), "id")
	}
	if id.Type != gjson.String {
		return ""
	}
	return id.Str
}

type getCmd struct {
	laneFlag
	Entity string `arg:"" help:"Kind of object, such as user." predictor:"entity"`
	Key    string `arg:"" help:"Its key: the id, or what docs/state.md says. relay list shows the keys."`
	JSON   bool   `help:"As a JSON object, with the event that made the last change."`
}

// Run prints one object.
func (c *getCmd) Run(ctx context.Context, env *environment) (err error) {
	if strings.TrimSpace(c.Key) == "" {
		return app.Usage(fmt.Errorf("the key of the object is empty: write its id; `relay list %s` shows the keys", c.Entity))
	}
	x, err := env.openState(ctx, c.Lane, c.Entity)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.bus.Close()) }()
	m, err := x.One(ctx, x.topic, c.Key)
	switch {
	case err != nil:
		return x.lane.ExplainFromOutside(err)
	case m == nil:
		return fmt.Errorf("there is no %s %s in the state of lane %s", c.Entity, printable.Text(c.Key), x.lane.Sink.Name)
	case c.JSON:
		return printJSON(env.stdout, x.row(m))
	}
	_, err = fmt.Fprintf(env.stdout, "%s\n", x.object(m))
	return err
}

type listCmd struct {
	laneFlag
	Entity       string `arg:"" help:"Kind of object, such as directory_user." predictor:"entity"`
	Organization string `help:"Only objects that name this organization." placeholder:"ID"`
	JSON         bool   `help:"One JSON object per line, with the object and the event that made the last change."`
}

// Run prints the objects of an entity, in the order in which the bus has them; of very many, a part
// after the other.
func (c *listCmd) Run(ctx context.Context, env *environment) (err error) {
	x, err := env.openState(ctx, c.Lane, c.Entity)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.bus.Close()) }()
	ctx, cancel := env.whileRead(ctx)
	defer cancel()
	listed, all, err := c.print(ctx, env.stdout, x)
	if err != nil {
		if unlessDone(ctx, err) == nil {
			return nil
		}
		return x.lane.ExplainFromOutside(err)
	}
	if c.Organization != "" && listed == 0 && all > 0 {
		fmt.Fprintf(env.stderr, "none of %s names organization %s\n", counted(all, c.Entity+" object"), printable.Text(c.Organization))
	}
	return nil
}

// print prints the objects, and returns how many those are and how many there are in all.
func (c *listCmd) print(ctx context.Context, out io.Writer, x *objects) (listed, all int, err error) {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	err = x.Newest(ctx, x.topic, func(m *sink.Stored) error {
		if all++; all == 1 && !c.JSON {
			if err := c.line(out, "KEY", "ORGANIZATION", "UPDATED", "NAME"); err != nil {
				return err
			}
		}
		if c.Organization != "" && x.organization(m) != c.Organization {
			return nil
		}
		listed++
		if c.JSON {
			return enc.Encode(x.row(m))
		}
		object := x.object(m)
		return c.line(out, string(m.Key), x.organization(m), gjson.GetBytes(object, "updated_at").Str, called(object))
	})
	return listed, all, err
}

func (c *listCmd) line(out io.Writer, key, organization, updated, name string) error {
	_, err := fmt.Fprintf(out, "%-42s  %-32s  %-24s  %s\n", printable.Text(key), orDash(printable.Text(organization)), orDash(printable.Text(updated)), orDash(printable.Text(name)))
	return err
}

// called returns what an operator knows an object by.
func called(object []byte) string {
	for _, path := range []string{"name", "email", "username", "slug", "domain", "user.email", "state"} {
		if v := gjson.GetBytes(object, path); v.Type == gjson.String && v.Str != "" {
			return v.Str
		}
	}
	return ""
}
