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
	"workos-relay/internal/config"
	"workos-relay/internal/hint"
	"workos-relay/internal/manual"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

type checkCmd struct {
	JSON    bool          `help:"As a JSON object."`
	Lane    string        `help:"Look at this lane alone." placeholder:"SINK" predictor:"lane"`
	Verbose bool          `help:"Show each topic, and not only what topics have in common."`
	Timeout time.Duration `help:"How long to wait, in all, for the API and the sinks." default:"15s"`
}

// Run looks at everything and changes nothing. It looks at the API and at all sinks at once.
func (c *checkCmd) Run(ctx context.Context, env *environment) error {
	cfg, err := env.loadConfig()
	if err != nil {
		return err
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	if lanes, err = onlyLane(lanes, c.Lane); err != nil {
		return err
	}
	if c.Timeout <= 0 {
		return app.Usage(errors.New("--timeout must be positive"))
	}
	timed, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	client, unusable := app.NewClient(cfg)
	machine := app.Rehearse(timed, cfg, lanes, env.log)
	k := &checking{timeout: c.Timeout, verbose: c.Verbose, client: client, machine: machine, asked: map[string]*reached{}}
	k.show(func(s *section) { k.machineFound(s, cfg) })
	for _, l := range lanes {
		k.checkSource(timed, unusable, l)
	}
	for _, l := range lanes {
		k.show(func(s *section) { k.checkLane(timed, s, l) })
	}
	report := k.report(env, c.JSON)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.JSON {
		if err := printJSON(env.stdout, report); err != nil {
			return err
		}
	}
	if report.Faults > 0 {
		return operator.Require(fmt.Errorf("%s found", amount(report.Faults, "fault")), k.question())
	}
	if !c.JSON {
		fmt.Fprintln(env.stdout, "\nNo fault found.")
	}
	return nil
}

// checking is one run of `relay check`.
type checking struct {
	timeout  time.Duration
	verbose  bool
	client   *source.Client
	machine  *app.Rehearsal
	asked    map[string]*reached // by filter, so that lanes with the same filter ask once
	sections []*section
}

// show begins a section that look fills in its own goroutine.
func (k *checking) show(look func(*section)) {
	s := &section{verbose: k.verbose, done: make(chan struct{})}
	k.sections = append(k.sections, s)
	go func() {
		defer close(s.done)
		look(s)
	}()
}

// report waits for every section, and prints each as soon as those before it are complete, unless
// quiet is set.
func (k *checking) report(env *environment, quiet bool) *report {
	r := &report{Findings: []checkFinding{}}
	for i, s := range k.sections {
		<-s.done
		if i > 0 && !quiet {
			fmt.Fprintln(env.stdout)
		}
		if !quiet {
			fmt.Fprint(env.stdout, s.text.String())
		}
		for _, f := range s.findings {
			if f.Level == levelFault {
				r.Faults++
			}
		}
		r.Findings = append(r.Findings, s.findings...)
	}
	return r
}

// question is what an operator has to decide before lanes can go on; empty if nothing.
func (k *checking) question() string {
	var all []string
	for _, s := range k.sections {
		if s.question != "" && !slices.Contains(all, s.question) {
			all = append(all, s.question)
		}
	}
	return strings.Join(all, "; ")
}

// report is what `relay check --json` prints.
type report struct {
	Faults   int            `json:"faults"`
	Findings []checkFinding `json:"findings"`
}

// section is a part of the report. One goroutine fills it.
type section struct {
	verbose  bool
	about    string // as checkFinding.About
	text     strings.Builder
	findings []checkFinding
	question string // what an operator has to decide
	done     chan struct{}
}

// checkFinding is one line of the report.
type checkFinding struct {
	About string     `json:"about"` // relay, source, or sink and its name
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

// begin sets the subject of the findings that follow.
func (s *section) begin(about, format string, args ...any) {
	s.about = about
	fmt.Fprintf(&s.text, format+"\n", args...)
}

func (s *section) good(text string) { s.note(levelOK, "", text, "") }

func (s *section) say(level checkLevel, format string, args ...any) {
	s.note(level, "", fmt.Sprintf(format, args...), "")
}

func (s *section) fault(format string, args ...any) { s.say(levelFault, format, args...) }

// note records a finding. If it is about a topic, line is what is printed.
func (s *section) note(level checkLevel, topic, text, line string) {
	code := s.record(level, topic, text)
	if line == "" {
		line = text
	}
	s.print(level, manual.Mark(line, code))
}

// record adds a finding and returns its code; empty if there is none.
func (s *section) record(level checkLevel, topic, text string) (code string) {
	if level == levelFault || level == levelWarning {
		code = manual.Code(text)
	}
	s.findings = append(s.findings, checkFinding{About: s.about, Level: level, Topic: topic, Text: text, Code: code})
	return code
}

func (s *section) print(level checkLevel, line string) {
	word := string(level)
	if level == levelFault {
		word = "FAULT"
	}
	fmt.Fprintf(&s.text, "  %-7s  %s\n", word, line)
}

// failed records an error of a question to system, and whether there was time to answer.
func (k *checking) failed(ctx context.Context, s *section, system string, err error) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.fault("%s did not answer within %s (--timeout): %v", system, k.timeout, err)
		return
	}
	s.fault("%v", err)
}

// asks records an error that asks an operator where the lane is to go on, in the words of
// `relay run`.
func (s *section) asks(lane string, err error) {
	s.fault("%s", hint.Text(lane, err))
	if action := hint.Action(lane, err); s.question == "" {
		s.question = action
	}
}

// machineFound reports what `relay run` needs of this machine.
func (k *checking) machineFound(s *section, cfg *config.Config) {
	s.begin("relay", "relay %s", cfg.ID)
	if k.machine.Running != "" {
		s.good(k.machine.Running)
	}
	for _, fact := range k.machine.Facts {
		s.good(fact)
	}
	for _, err := range k.machine.Faults {
		s.fault("%s", hint.Text("", err))
	}
}

// reached is closed once it is known whether the Events API can be read with a filter.
type reached struct {
	done chan struct{}
	good bool
}

// checkSource begins a section on whether the Events API can be read with the filter of a lane.
// unusable is why there is no client.
func (k *checking) checkSource(ctx context.Context, unusable error, l *app.Lane) {
	key := strings.Join(l.Types, ",")
	if k.asked[key] != nil {
		return
	}
	r := &reached{done: make(chan struct{})}
	k.asked[key] = r
	k.show(func(s *section) {
		defer close(r.done)
		s.begin("source", "source %s, %s", l.Config.Source.Endpoint, amount(len(l.Types), "event type"))
		if unusable != nil {
			s.fault("%v", unusable)
			return
		}
		r.good = k.reach(ctx, s, l)
	})
}

func (k *checking) reach(ctx context.Context, s *section, l *app.Lane) (good bool) {
	err := k.client.Reach(ctx, l.Types, l.Config.Source.OrganizationID)
	var refused *source.RefusedTypesError
	switch {
	case err == nil:
		s.good("reached" + k.client.ProxyInUse(ctx) + ", the key is good, every type is accepted")
	case errors.As(err, &refused):
		for _, t := range refused.Types {
			s.say(levelWarning, "the API refuses the type %s; relay leaves it out and asks again, after an hour at most", t)
		}
		if len(refused.Types) == len(l.Types) {
			s.fault("%v", source.ErrAllRefused)
			return false
		}
	default:
		k.failed(ctx, s, "the Events API at "+l.Config.Source.Endpoint, err)
		return false
	}
	return true
}

// checkLane reports whether the lane can run, and at which event it would begin or go on.
func (k *checking) checkLane(ctx context.Context, s *section, l *app.Lane) {
	s.begin("sink "+l.Sink.Name, "sink %s (%s)", l.Sink.Name, l.Sink.Type)
	running := k.machine.Running != ""
	if server := l.Embedded(); server != nil && !running {
		k.embedded(ctx, s, l, server)
		return
	}
	l = l.FromOutside()
	b, err := l.Open(ctx)
	if err != nil {
		s.fault("%v", l.ExplainFromOutside(err))
		return
	}
	defer func() { closeSoon(ctx, b) }()
	topics, finder, err := k.inspect(ctx, s, l, b)
	if err != nil {
		k.failed(ctx, s, systemOf(l), err)
		return
	}
	k.weighTopics(s, l, topics)
	if finder != nil {
		out, err := l.Outlook(ctx, finder)
		k.outlook(ctx, s, l, out, err)
		if err == nil {
			s.state(l, &out)
		}
	}
	mode := checkpoint.Mode(l.Sink.Delivery)
	if finder != nil {
		mode = finder.Mode()
	}
	s.settings(ctx, l, b, mode)
	s.advice(ctx, l, b, mode)
}

// closeSoon closes a bus that was only looked at. It does not wait for a bus that does not answer.
func closeSoon(ctx context.Context, b *app.Bus) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Close() // it was only to look
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// systemOf names the bus of a lane by its address.
func systemOf(l *app.Lane) string {
	if d, ok := l.Sink.Settings.(sink.Documented); ok {
		return l.Sink.Type + " at " + d.AsyncAPIServer().Host
	}
	return l.Sink.Settings.Identity()
}

// embedded reports on a lane whose server would be started by `relay run`.
func (k *checking) embedded(ctx context.Context, s *section, l *app.Lane, server *sink.EmbeddedServer) {
	s.good("embedded " + server.Name + ", started by `relay run`; its " + server.Holds + " is created there")
	found := k.machine.Servers[l]
	if found == nil { // the section on relay says why
		return
	}
	out, err := l.OutlookOffline(ctx, found)
	if out.Unknown {
		s.good("the embedded " + server.Name + " has a " + server.Holds + " already, which `relay run` looks into for the position")
		return
	}
	k.outlook(ctx, s, l, out, err)
}

// outlook reports at which event a start of the lane would begin or go on, or err, why it could
// not.
func (k *checking) outlook(ctx context.Context, s *section, l *app.Lane, out app.Outlook, err error) {
	switch {
	case operator.Required(err):
		s.asks(l.Sink.Name, err)
		return
	case err != nil:
		k.failed(ctx, s, systemOf(l), err)
		return
	}
	if out.Rival != "" && k.machine.Running == "" {
		s.good(fmt.Sprintf("another relay (holder %s) has moved the position last, at %s, and has not released it: `relay run` stands by until that is silent for %s",
			printable.Text(out.Rival), out.From.UpdatedAt.UTC().Format(time.RFC3339), l.Config.TakeoverAfter))
	}
	begins := "first start: begins"
	if !out.First {
		begins = "goes on after " + out.From.String()
	}
	if out.Latest {
		s.good("first start: begins with the first event that comes after the start (source.start: latest)")
		return
	}
	asked := k.asked[strings.Join(l.Types, ",")]
	<-asked.done
	if !asked.good {
		if !out.First {
			s.good(begins)
		}
		return
	}
	next, err := l.Next(ctx, k.client, out)
	switch {
	case err != nil && out.Remembered: // the record on the bus knows more of how to go on
		s.say(levelWarning, "%s, which the Events API does not do as relay remembers the position: %v", begins, err)
	case errors.Is(err, source.ErrCursorLost), errors.Is(err, source.ErrTooLarge):
		s.asks(l.Sink.Name, err)
	case err != nil:
		k.failed(ctx, s, "the Events API at "+l.Config.Source.Endpoint, err)
	case out.First && next.None:
		s.good(fmt.Sprintf("%s with the first event that comes: WorkOS has none yet (source.start: %s)", begins, l.Config.Source.Start))
	case out.First:
		s.good(fmt.Sprintf("%s with %s, about %s of events (source.start: %s)", begins, next.Position, app.Roughly(next.Age), l.Config.Source.Start))
	case next.None:
		s.good(begins + ", which is the newest event")
	default:
		s.good(fmt.Sprintf("%s with %s, about %s behind", begins, next.Position, app.Roughly(next.Age)))
	}
	if next.ClockOff != "" {
		s.say(levelWarning, "%s", next.ClockOff)
	}
}

// state reports what a snapshot has read, or will read, of the state of a lane.
func (s *section) state(l *app.Lane, out *app.Outlook) {
	if out.First && l.BeginsWithState() {
		if listed := l.Listed(); len(listed) > 0 {
			s.good("state: reads a snapshot of " + strings.Join(listed, ", ") + " before the first event")
		}
		return
	}
	var names []string
	for _, u := range l.Unread(out.From) {
		names = append(names, u.Entity)
	}
	switch {
	case len(names) == 0:
	case l.Sink.State.Snapshot == config.SnapshotNever:
		s.good("state: without a snapshot of " + strings.Join(names, ", ") + " (state.snapshot: never)")
	default:
		s.say(levelWarning, "state: not all objects of %s were read; `relay snapshot --lane %s --entities %s` reads them, and events wait for it",
			strings.Join(names, ", "), l.Sink.Name, strings.Join(names, ","))
	}
}

// advice prints what the bus says about itself as a whole.
func (s *section) advice(ctx context.Context, l *app.Lane, b *app.Bus, mode checkpoint.Mode) {
	adviser, ok := b.Sink.(sink.Adviser)
	if ledger, is := b.Ledger.(sink.Adviser); is && mode == checkpoint.ExactlyOnce {
		adviser, ok = ledger, true
	}
	if !ok {
		return
	}
	a, err := adviser.Advice(ctx, l.Topics)
	if err != nil {
		s.fault("%v", err)
	}
	for _, text := range a.Facts {
		s.good(text)
	}
	for _, text := range a.Warnings {
		s.say(levelWarning, "%s", text)
	}
	for _, text := range a.Faults {
		s.fault("%s", text)
	}
}

// settings prints the settings of the destination that differ from the configuration, and what
// relay does about them.
func (s *section) settings(ctx context.Context, l *app.Lane, b *app.Bus, mode checkpoint.Mode) {
	found, err := b.Settings(ctx, l, mode, false)
	if err != nil {
		s.say(levelWarning, "the settings of the destination cannot be compared with the configuration: %v", err)
	}
	s.differences(found)
}

func (s *section) differences(found []sink.Setting) {
	for _, f := range found {
		level := levelWarning
		if f.Outcome == sink.Changes || f.Outcome == sink.Waits {
			level = levelChanges
		}
		s.say(level, "%s", f)
	}
}

// shortLetter is the maximum size in bytes of a dead letter without its event.
const shortLetter = 8 << 10

// weighDeadLetters adds a warning to the dead letter topic if its limit is smaller than dead
// letters may need.
func weighDeadLetters(name string, topics []sink.TopicStatus) {
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

// inspect reports the mode of delivery that the lane would run in, and returns its topics as they
// are in that mode, and what has found the mode. That is nil if the mode cannot be found; inspect
// has reported it then.
func (k *checking) inspect(ctx context.Context, s *section, l *app.Lane, b *app.Bus) ([]sink.TopicStatus, *pipeline.Delivery, error) {
	if b.Ledger == nil && checkpoint.Mode(l.Sink.Delivery) == checkpoint.ExactlyOnce {
		s.fault("delivery: a sink of type %s cannot do exactly_once", l.Sink.Type)
		topics, err := b.Inspect(ctx, l.Topics)
		return topics, nil, err
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
	finder := l.Finder(b, look)
	mode, err := finder.Find(ctx)
	if err == nil && mode == checkpoint.ExactlyOnce && topics == nil { // as recorded
		err = look(ctx)
	}
	switch {
	case asked != nil && !l.Incapable(asked):
		return nil, nil, asked
	case err != nil:
		topics, inspectErr := b.Inspect(ctx, l.Topics)
		if inspectErr != nil { // usually the same: the bus does not answer
			return nil, nil, err
		}
		if fatal := (*sink.FatalError)(nil); operator.Required(err) && !errors.As(err, &fatal) {
			s.asks(l.Sink.Name, err)
		} else {
			s.fault("delivery: %s", strings.TrimPrefix(hint.Text(l.Sink.Name, err), "delivery: "))
		}
		return topics, nil, nil
	case mode == checkpoint.ExactlyOnce:
		s.good("delivery: exactly_once")
		return topics, finder, nil
	case asked != nil || unfit != nil:
		s.say(levelWarning, "%s", pipeline.WithoutExactlyOnce(errors.Join(asked, unfit)))
	case checkpoint.Mode(l.Sink.Delivery) == pipeline.Auto && b.Ledger != nil:
		s.good("delivery: at_least_once, as the checkpoint records it")
	default:
		s.good("delivery: at_least_once")
	}
	topics, err = b.Inspect(ctx, l.Topics)
	return topics, finder, err
}

// weighTopics reports on the topics of a lane: each of them if the report is verbose, else what
// they have in common.
func (k *checking) weighTopics(s *section, l *app.Lane, topics []sink.TopicStatus) {
	types := map[string][]string{} // by topic
	for _, t := range l.Types {
		some, _ := l.Router.Resolve(t)
		for _, topic := range some {
			types[topic] = append(types[topic], t)
		}
	}
	entities := map[string]string{} // by topic
	for _, t := range l.Router.StateTopics() {
		entities[t.Topic] = t.Entity
	}
	weighDeadLetters(l.Router.DeadLetterTopic(), topics)
	var groups groups
	for _, t := range topics {
		from := strings.Join(types[t.Topic], ", ")
		switch {
		case from != "":
		case entities[t.Topic] != "":
			from = "the state of each " + entities[t.Topic]
		case slices.Contains(l.Topics, t.Topic):
			from = "dead letters"
		default:
			from = "the position"
		}
		s.topic(&groups, t, from)
	}
	for _, g := range groups {
		s.print(g.level, g.String())
	}
}

// topic records the findings about a topic. It prints them, or adds them to groups.
func (s *section) topic(groups *groups, t sink.TopicStatus, from string) {
	level := levelOK
	if t.Creates {
		level = levelCreates
	}
	line := fmt.Sprintf("%s  <- %s  %s", t.Topic, from, t.Detail)
	if len(t.Problems) > 0 {
		level = levelFault // what it is follows
	} else {
		groups.add(level, t.Topic, t.Detail, s.record(level, t.Topic, strings.TrimSpace("from "+from+"; "+t.Detail)))
	}
	if s.verbose {
		s.print(level, line)
	}
	add := func(level checkLevel, text string) {
		code := s.record(level, t.Topic, text)
		groups.add(level, t.Topic, text, code)
		if s.verbose {
			s.print(level, manual.Mark(t.Topic+": "+text, code))
		}
	}
	for _, p := range t.Problems {
		add(levelFault, p)
	}
	for _, w := range t.Warnings {
		add(levelWarning, w)
	}
	if s.verbose {
		*groups = nil
	}
}

// groups are findings about topics, each with the topics that it holds for, in the order in which
// they were found.
type groups []*group

type group struct {
	level  checkLevel
	text   string
	code   string // of the text
	topics []string
}

func (g *groups) add(level checkLevel, topic, text, code string) {
	text = strings.ReplaceAll(text, topic, "<topic>")
	at := slices.IndexFunc(*g, func(have *group) bool { return have.level == level && have.text == text })
	if at < 0 {
		at = len(*g)
		*g = append(*g, &group{level: level, text: text, code: code})
	}
	(*g)[at].topics = append((*g)[at].topics, topic)
}

// namedTopics is how many topics of a group are named.
const namedTopics = 3

// String returns the line of the group. A fault names topics; other lines count them, and name
// patterns, each of which stands for any number of topics.
func (g *group) String() string {
	what, text := g.count(), strings.ReplaceAll(g.text, "to be created: ", "")
	switch named := strings.Join(g.topics[:min(len(g.topics), namedTopics)], ", "); {
	case len(g.topics) == 1 && !sink.IsPattern(named):
		what, text = named, strings.ReplaceAll(text, "<topic>", named)
	case g.level != levelFault:
	case len(g.topics) > namedTopics:
		what = fmt.Sprintf("%s and %d more topics", named, len(g.topics)-namedTopics)
	default:
		what = named
	}
	if text == "" {
		return what
	}
	return manual.Mark(what+": "+text, g.code)
}

// count says how many topics the group has.
func (g *group) count() string {
	var parts []string
	topics := 0
	for _, t := range g.topics {
		if sink.IsPattern(t) {
			parts = append(parts, "each "+t)
		} else {
			topics++
		}
	}
	slices.Sort(parts)
	if topics > 0 {
		parts = slices.Insert(parts, 0, amount(topics, "topic"))
	}
	return either(parts, " and ")
}

// amount returns "1 fault" or "3 faults".
func amount(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
