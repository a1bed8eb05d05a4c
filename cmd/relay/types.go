package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"workos-relay/internal/app"
	"workos-relay/internal/catalogue"
	"workos-relay/source"
)

type typesCmd struct {
	JSON     bool   `help:"As a JSON array." xor:"form"`
	AsyncAPI bool   `name:"asyncapi" help:"As an AsyncAPI 3 document of the topics, their messages, headers and keys." xor:"form"`
	Schema   string `help:"Print the JSON Schema of the events of one type." placeholder:"TYPE" xor:"form"`
}

// typeRow is one line of `relay types`.
type typeRow struct {
	Type       string            `json:"type"`
	Domain     string            `json:"domain"`
	Default    bool              `json:"default"`
	Deprecated bool              `json:"deprecated,omitempty"`
	Successor  string            `json:"successor,omitempty"` // the type that replaces it
	Topics     map[string]string `json:"topics"`              // by lane; absent if the lane does not carry the type, empty if it drops it; see topicText
}

// Run lists the event types of the catalogue with their topics in this configuration.
func (c *typesCmd) Run(env *environment) error {
	if c.Schema != "" {
		return printSchema(env, c.Schema)
	}
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return err
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	if c.AsyncAPI {
		return printAsyncAPI(env, cfg, lanes)
	}
	var rows []typeRow
	for _, t := range source.Catalogue() {
		row := typeRow{Type: t.Name, Domain: t.Domain, Default: t.Default, Deprecated: t.Deprecated, Successor: t.Successor, Topics: map[string]string{}}
		for _, l := range lanes {
			if topics, dropped, carries := l.TopicsOf(t.Name); carries {
				row.Topics[l.Sink.Name] = topicText(l, topics, dropped)
			}
		}
		rows = append(rows, row)
	}
	if c.JSON {
		enc := json.NewEncoder(env.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	}
	return printTypes(env, lanes, rows)
}

// topicText names the topics that events of a type can go to. It is empty if all are dropped.
func topicText(l *app.Lane, topics []string, dropped bool) string {
	var texts []string
	for _, t := range topics {
		texts = append(texts, l.Router.Text(t))
	}
	if dropped && len(texts) > 0 {
		texts = append(texts, "(dropped)")
	}
	return strings.Join(texts, " or ")
}

// printSchema prints the JSON Schema of an event type. It needs no configuration.
func printSchema(env *environment, name string) error {
	t, ok := catalogue.Lookup(name)
	if !ok {
		_, err := source.Expand([]string{name})
		return app.Usage(fmt.Errorf("relay has no schema for %q: %w", name, err))
	}
	if t.Schema == nil {
		return app.Usage(fmt.Errorf("relay has no schema for %q: WorkOS no longer sends this type", name))
	}
	enc := json.NewEncoder(env.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(t.EventSchema())
}

func printTypes(env *environment, lanes []*app.Lane, rows []typeRow) error {
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "TYPE\tSET")
	for _, l := range lanes {
		fmt.Fprintf(w, "\tTOPIC IN %s", l.Sink.Name)
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		set := "opt-in"
		switch {
		case r.Deprecated:
			set = "deprecated"
		case r.Default:
			set = "default"
		}
		if r.Successor != "" {
			set += ", see " + r.Successor
		}
		fmt.Fprintf(w, "%s\t%s", r.Type, set)
		for _, l := range lanes {
			topic, carries := r.Topics[l.Sink.Name]
			switch {
			case !carries:
				topic = "-"
			case topic == "":
				topic = "(dropped)"
			}
			fmt.Fprintf(w, "\t%s", topic)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
