package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/app"
	"workos-relay/internal/hint"
	"workos-relay/internal/manual"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

type checkCmd struct {
	JSON    bool          `help:"As a JSON object."`
	Timeout time.Duration `help:"How long to wait for the API and for each sink." default:"15s"`
}

// Run looks at everything and changes nothing.
func (c *checkCmd) Run(ctx context.Context, env *environment) error {
	cfg, err := env.loadConfig()
	if err != nil {
		return err
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	report := &report{env: env, quiet: c.JSON, Findings: []checkFinding{}}
	client, unusable := app.NewClient(cfg)
	for _, l := range lanes {
		report.checkSource(ctx, c.Timeout, client, unusable, l)
		report.checkLane(ctx, c.Timeout, l)
	}
	if c.JSON {
		if err := printJSON(env.stdout, report); err != nil {
			return err
		}
	}
	if report.Faults > 0 {
		return fmt.Errorf("%d faults found", report.Faults)
	}
	report.printf("\nNo fault found.")
	return nil
}

// report prints findings as they come, or collects them, and counts faults.
type report struct {
	Faults   int            `json:"faults"`
	Findings []checkFinding `json:"findings"`

	env   *environment
	quiet bool
	about string   // as checkFinding.About
	asked []string // filters that were already checked, so that lanes with the same filter ask once
}

// checkFinding is one line of the report.
type checkFinding struct {
	About string     `json:"about"` // source, or sink and its name
	Level checkLevel `json:"level"`
	Topic string     `json:"topic,omitempty"`
	Text  string     `json:"text"`
	Code  string     `json:"code,omitempty"` // of Text in docs/troubleshoot.md, of a fault or a warning
}

// checkLevel is the severity of a finding.
type checkLevel string

const (
	levelOK      checkLevel = "ok"
	levelCreates checkLevel = "creates" // relay creates what is missing
	levelChanges checkLevel = "changes" // relay changes what differs from the configuration
	levelWarning checkLevel = "warning"
	levelFault   checkLevel = "fault"
)

func (r *report) printf(format string, args ...any) {
	if !r.quiet {
		fmt.Fprintf(r.env.stdout, format+"\n", args...)
	}
}

// begin sets the subject of the findings that follow.
func (r *report) begin(about, format string, args ...any) {
	r.about = about
	r.printf(format, args...)
}

func (r *report) good(text string) { r.note(levelOK, "", text, "") }

func (r *report) say(level checkLevel, format string, args ...any) {
	r.note(level, "", fmt.Sprintf(format, args...), "")
}

func (r *report) fault(format string, args ...any) { r.say(levelFault, format, args...) }

// note records a finding. If it is about a topic, line is what is printed.
func (r *report) note(level checkLevel, topic, text, line string) {
	if level == levelFault {
		r.Faults++
	}
	code := ""
	if level == levelFault || level == levelWarning {
		code = manual.Code(text)
	}
	r.Findings = append(r.Findings, checkFinding{About: r.about, Level: level, Topic: topic, Text: text, Code: code})
	word := string(level)
	if level == levelFault {
		word = "FAULT"
	}
	if line == "" {
		line = text
	}
	r.printf("  %-7s  %s", word, manual.Mark(line, code))
}

// checkSource reports whether the Events API can be read. unusable is why there is no client.
func (r *report) checkSource(ctx context.Context, timeout time.Duration, client *source.Client, unusable error, l *app.Lane) {
	key := strings.Join(l.Types, ",")
	if slices.Contains(r.asked, key) {
		return
	}
	r.asked = append(r.asked, key)
	r.begin("source", "source %s, %d event types", l.Config.Source.Endpoint, len(l.Types))
	if unusable != nil {
		r.fault("%v", unusable)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := client.Reach(ctx, l.Types, l.Config.Source.OrganizationID)
	var refused *source.RefusedTypesError
	switch {
	case err == nil:
		r.good("reached" + client.ProxyInUse(ctx) + ", the key is good, every type is accepted")
	case errors.As(err, &refused):
		for _, t := range refused.Types {
			r.say(levelWarning, "the API refuses the type %s; relay leaves it out and asks again, after an hour at most", t)
		}
	default:
		r.fault("%v", err)
	}
}

func (r *report) checkLane(ctx context.Context, timeout time.Duration, l *app.Lane) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r.begin("sink "+l.Sink.Name, "\nsink %s (%s)", l.Sink.Name, l.Sink.Type)
	if server := l.Embedded(); server != nil {
		r.good("embedded " + server.Name + ", started by `relay run`; its " + server.Holds + " is created there")
		r.differences(l.Settings(ctx)) // if relay runs
		return
	}
	b, err := l.Open(ctx)
	if err != nil {
		r.fault("%v", err)
		return
	}
	defer func() {
		if err := b.Close(); err != nil {
			r.fault("closing: %v", err)
		}
	}()
	topics, mode, err := r.inspect(ctx, l, b)
	if err != nil {
		r.fault("%v", err)
		return
	}
	if err := l.StillHolds(ctx, b, mode); operator.Required(err) {
		r.fault("%v", err)
	}
	byTopic := map[string][]string{}
	for _, t := range l.Types {
		if topic, dropped := l.Router.Resolve(t); !dropped {
			byTopic[topic] = append(byTopic[topic], t)
		}
	}
	r.weighDeadLetters(l.Router.DeadLetterTopic(), topics)
	for _, t := range topics {
		from := strings.Join(byTopic[t.Topic], ", ")
		switch {
		case from != "":
		case slices.Contains(l.Topics, t.Topic):
			from = "dead letters"
		default:
			from = "the position"
		}
		r.topic(t, from)
	}
	r.settings(ctx, l, b, mode)
	r.advice(ctx, l, b, mode)
}

// advice prints what the bus says about itself as a whole.
func (r *report) advice(ctx context.Context, l *app.Lane, b *app.Bus, mode checkpoint.Mode) {
	adviser, ok := b.Sink.(sink.Adviser)
	if ledger, is := b.Ledger.(sink.Adviser); is && mode == checkpoint.ExactlyOnce {
		adviser, ok = ledger, true
	}
	if !ok {
		return
	}
	a, err := adviser.Advice(ctx, l.Topics)
	if err != nil {
		r.fault("%v", err)
	}
	for _, text := range a.Facts {
		r.good(text)
	}
	for _, text := range a.Warnings {
		r.say(levelWarning, "%s", text)
	}
	for _, text := range a.Faults {
		r.fault("%s", text)
	}
}

// settings prints the settings of the destination that differ from the configuration, and what
// relay does about them.
func (r *report) settings(ctx context.Context, l *app.Lane, b *app.Bus, mode checkpoint.Mode) {
	found, err := b.Settings(ctx, l, mode, false)
	if err != nil {
		r.say(levelWarning, "the settings of the destination cannot be compared with the configuration: %v", err)
	}
	r.differences(found)
}

func (r *report) differences(found []sink.Setting) {
	for _, s := range found {
		level := levelWarning
		if s.Outcome == sink.Changes || s.Outcome == sink.Waits {
			level = levelChanges
		}
		r.say(level, "%s", s)
	}
}

// shortLetter is the maximum size in bytes of a dead letter without its event.
const shortLetter = 8 << 10

// weighDeadLetters adds a warning to the dead letter topic if its limit is smaller than dead
// letters may need.
func (r *report) weighDeadLetters(name string, topics []sink.TopicStatus) {
	i := slices.IndexFunc(topics, func(t sink.TopicStatus) bool { return t.Topic == name })
	if i < 0 || topics[i].MaxMessage == 0 {
		return
	}
	dead := &topics[i]
	largest := dead
	for j := range topics {
		if topics[j].MaxMessage > largest.MaxMessage {
			largest = &topics[j]
		}
	}
	switch {
	case dead.MaxMessage < shortLetter:
		dead.Warnings = append(dead.Warnings, fmt.Sprintf("a dead letter may not fit: the topic takes messages of up to %d bytes, and a dead letter "+
			"without its event has up to %d. The lane stops at an event whose dead letter does not fit; raise the topic's limit", dead.MaxMessage, shortLetter))
	case dead.MaxMessage < largest.MaxMessage:
		dead.Warnings = append(dead.Warnings, fmt.Sprintf("a dead letter may not fit with its event: the topic takes messages of up to %d bytes, and %s "+
			"up to %d. It is then published without the event; raise the topic's limit to keep it", dead.MaxMessage, largest.Topic, largest.MaxMessage))
	}
}

// inspect prints the mode of delivery that the lane would run in, and returns its topics as they
// are in that mode. It finds the mode by the same function as a start.
func (r *report) inspect(ctx context.Context, l *app.Lane, b *app.Bus) ([]sink.TopicStatus, checkpoint.Mode, error) {
	if b.Ledger == nil {
		if checkpoint.Mode(l.Sink.Delivery) == checkpoint.ExactlyOnce {
			r.fault("delivery: a sink of type %s cannot do exactly_once", l.Sink.Type)
		}
		r.good("delivery: at_least_once")
		topics, err := b.Inspect(ctx, l.Topics)
		return topics, checkpoint.AtLeastOnce, err
	}
	var topics []sink.TopicStatus // with the position's
	var asked, unfit error        // of the ledger
	look := func(ctx context.Context) error {
		if topics, asked = b.Ledger.Inspect(ctx, l.Topics); asked != nil {
			return asked
		}
		for _, t := range topics {
			unfit = errors.Join(unfit, t.Unfit)
		}
		return unfit
	}
	mode, err := l.ModeFinder(b, look).Find(ctx)
	if err == nil && mode == checkpoint.ExactlyOnce && topics == nil { // as recorded
		err = look(ctx)
	}
	switch {
	case asked != nil && !l.Incapable(asked):
		return nil, "", asked
	case err != nil:
		topics, inspectErr := b.Inspect(ctx, l.Topics)
		if inspectErr != nil { // usually the same: the bus does not answer
			return nil, "", err
		}
		r.fault("delivery: %s", strings.TrimPrefix(hint.Text(l.Sink.Name, err), "delivery: "))
		return topics, checkpoint.Mode(l.Sink.Delivery), nil
	case mode == checkpoint.ExactlyOnce:
		r.good("delivery: exactly_once")
		return topics, mode, nil
	case asked != nil || unfit != nil:
		r.say(levelWarning, "%s", pipeline.WithoutExactlyOnce(errors.Join(asked, unfit)))
	case checkpoint.Mode(l.Sink.Delivery) == pipeline.Auto:
		r.good("delivery: at_least_once, as the checkpoint records it")
	default:
		r.good("delivery: at_least_once")
	}
	topics, err = b.Inspect(ctx, l.Topics)
	return topics, checkpoint.AtLeastOnce, err
}

func (r *report) topic(t sink.TopicStatus, from string) {
	level, line := levelOK, fmt.Sprintf("%s  <- %s  %s", t.Topic, from, t.Detail)
	switch {
	case len(t.Problems) > 0:
		r.printf("  FAULT    %s", line) // what it is follows
		level = ""
	case t.Creates:
		level = levelCreates
	}
	if level != "" {
		r.note(level, t.Topic, strings.TrimSpace("from "+from+"; "+t.Detail), line)
	}
	for _, p := range t.Problems {
		r.note(levelFault, t.Topic, p, t.Topic+": "+p)
	}
	for _, w := range t.Warnings {
		r.note(levelWarning, t.Topic, w, t.Topic+": "+w)
	}
}
