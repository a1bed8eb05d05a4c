package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/journal"
	"workos-relay/internal/manual"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
)

// What the lists show at most.
const (
	shownTypes  = 12
	shownErrors = 20
	shownEvents = 25
)

// title begins with what matters in a row of tabs.
func title(s *admin.Status) string {
	switch s.Health {
	case admin.ActionNeeded:
		return "!! relay " + s.ID + ": " + s.Health.String()
	case admin.Degraded:
		return "! relay " + s.ID + ": " + s.Health.String()
	default:
		return "relay " + s.ID
	}
}

// verdict is the whole relay in a sentence. It changes only when the sentence does.
type verdict struct{ Tone, Text string }

func verdictOf(s *admin.Status) verdict {
	worst := 0 // how many lanes are as bad as the whole
	for i := range s.Lanes {
		if s.Lanes[i].Health == s.Health {
			worst++
		}
	}
	var text string
	switch n := len(s.Lanes); {
	case n == 0:
		text = "There is no lane"
	case s.Health == admin.Healthy && n == 1:
		text = "The lane is healthy"
	case s.Health == admin.Healthy:
		text = "All lanes are healthy"
	case s.Health == admin.ActionNeeded && n == 1:
		text = "Action needed"
	case s.Health == admin.ActionNeeded:
		text = fmt.Sprintf("Action needed on %d of %d lanes", worst, n)
	case n == 1:
		text = "The lane is degraded"
	default:
		text = fmt.Sprintf("%d of %d lanes degraded", worst, n)
	}
	return verdict{healthTone(s.Health), text}
}

// healthTone is how a health is coloured.
func healthTone(h admin.Health) string {
	switch h {
	case admin.ActionNeeded:
		return "bad"
	case admin.Degraded:
		return "warn"
	default:
		return "good"
	}
}

type clock struct {
	Now             *stamp
	Version, Uptime string
}

func clockOf(s *admin.Status) clock {
	now := s.Now
	return clock{Now: stampOf(&now, now), Version: s.Version, Uptime: span(s.Now.Sub(s.Started).Truncate(time.Second))}
}

// requests are those to WorkOS, of all lanes together.
type requests struct {
	PerSecond, Limit string
	Limited          string // how many answers 429 there were; empty if none
	Last             *stamp // of them
	Until            *stamp // a lane waits until then because of one
}

func requestsOf(s *admin.Status) *requests {
	r := s.Requests
	if r == nil {
		return nil
	}
	out := &requests{PerSecond: perSecond(r.PerSecond), Limit: strings.Replace(perSecond(r.Limit), ".0/", "/", 1), Until: stampOf(r.WaitingUntil, s.Now)}
	if r.RateLimited > 0 {
		out.Limited, out.Last = printable.Count(r.RateLimited, "answer")+" 429", stampOf(r.RateLimitedAt, s.Now)
	}
	return out
}

// tone is how a state is coloured.
func tone(l *admin.LaneStatus) string {
	switch {
	case l.State == pipeline.Stopped:
		return "bad"
	case l.Health != admin.Healthy:
		return healthTone(l.Health)
	case l.State == pipeline.Retrying: // only just
		return "warn"
	case l.State == pipeline.Running:
		return "good"
	default:
		return "calm"
	}
}

type laneState struct{ Health, State, Tone, For, Type, Mode string }

// laneRow is a row of the overview.
type laneRow struct {
	Index                     int // of the lane's card
	Name, Health, State, Tone string
	Lag, Rate, Destination    string
	Since                     *stamp
}

// overviewOf returns the rows of all lanes, the worst first. Lanes that are as bad as each other
// stay in the order of the configuration, so that rows move only if a state does.
func overviewOf(s *admin.Status) []laneRow {
	order := make([]int, len(s.Lanes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rank(&s.Lanes[b]), rank(&s.Lanes[a])) })
	rows := make([]laneRow, 0, len(order))
	for _, i := range order {
		l := &s.Lanes[i]
		to := l.Destination
		if to == "" {
			to = l.Type
		}
		rows = append(rows, laneRow{
			Index: i, Name: l.Name, Health: l.Health.String(), State: string(l.State), Tone: tone(l), Lag: lagOf(l), Rate: perSecond(l.Rate),
			Destination: to, Since: stampOf(l.Since, s.Now),
		})
	}
	return rows
}

// rank is higher for a lane that is worse: by its health, then by its state.
func rank(l *admin.LaneStatus) int {
	const states = 10
	health := slices.Index(admin.Healths(), l.Health)
	state := slices.Index([]pipeline.State{pipeline.Running, pipeline.Standby, pipeline.Starting, pipeline.Paused, pipeline.Retrying, pipeline.Stopped}, l.State)
	return states*health + state
}

// lagOf writes the lag of a lane as `relay status` does: unknown if it is not known.
func lagOf(l *admin.LaneStatus) string {
	if l.LagSeconds == nil {
		return "unknown"
	}
	return span(seconds(*l.LagSeconds))
}

// card is what the page itself, beside its fragments, shows of a lane. An update brings it too.
type card struct {
	State  string `json:"state"`
	Health string `json:"health"`
	// Toggle is what the first button does: pause, resume, or nothing if neither has an effect.
	Toggle string `json:"toggle"`
	Poll   bool   `json:"poll"`  // the lane polls at once if it is asked to
	Folds  bool   `json:"folds"` // the details can be folded away, as they are of a healthy lane
}

// Folded reports whether the details are folded until somebody unfolds them.
func (c card) Folded() bool { return c.Folds && c.Health == string(admin.Healthy) }

func cardOf(l *admin.LaneStatus, several bool) card {
	c := card{State: string(l.State), Health: string(l.Health), Toggle: "pause", Poll: l.State == pipeline.Running, Folds: several}
	switch l.State { //nolint:exhaustive // the others can be paused
	case pipeline.Paused:
		c.Toggle = "resume"
	case pipeline.Stopped:
		c.Toggle = ""
	}
	return c
}

type laneFacts struct {
	Tone      string
	Reasons   []string
	Notes     []string // settings of the destination that differ, and event types that WorkOS refuses
	Lag       string
	AtTip     bool
	Rate      string
	Events    string
	EventID   string
	CreatedAt *stamp
	Position  string // if there is no event id yet
	LastPoll  bool
	PollAgo   string
	Unacked   string
	Holder    string // who else is at work; empty if it is this process

	Destination     string // without an address
	Topics          string // that events go to
	DeadLetterTopic string // empty if there is none

	Delivers    bool      // it does not stand by
	Delivery    *delivery // nil if no event was measured
	Window      string    // of Delivery
	DeadLetters string    // how many; empty if that is not known, or if there cannot be any
	Newest      *deadLetter
}

// delivery is how long events took lately.
type delivery struct{ P50, P99 string }

// deadLetter is the newest dead letter.
type deadLetter struct {
	EventID, Type, Reason string
	At                    *stamp
}

type lanePlots struct{ Plots []plot }

// laneParts is what the fragments of a lane are made of, by name.
func laneParts(l *admin.LaneStatus, now time.Time, points []journal.Point, w window) map[string]any {
	lag, rate := lagOf(l), perSecond(l.Rate)
	return map[string]any{
		"state": laneState{Health: l.Health.String(), State: string(l.State), Tone: tone(l), For: ago(l.Since, now), Type: l.Type, Mode: mode(l)},
		"facts": factsOf(l, now, lag, rate),
		"plots": lanePlots{[]plot{newPlot(lagSeries, l.Name, lag, points, now, w), newPlot(rateSeries, l.Name, rate, points, now, w)}},
	}
}

func mode(l *admin.LaneStatus) string { return strings.ReplaceAll(string(l.Mode), "_", " ") }

func factsOf(l *admin.LaneStatus, now time.Time, lag, rate string) laneFacts {
	f := laneFacts{
		Tone: tone(l), Lag: lag, AtTip: l.AtTip, Rate: rate, Events: count(l.Events),
		EventID: l.Position.EventID, CreatedAt: stampOf(l.Position.CreatedAt, now),
		LastPoll: l.LastPoll != nil, PollAgo: ago(l.LastPoll, now),
		Destination: l.Destination, Topics: l.TopicsText(), DeadLetterTopic: l.DeadLetterTopic,
		Delivers: l.State != pipeline.Standby, Window: span(admin.DeliveryWindow),
	}
	if d := l.Delivery; d != nil {
		f.Delivery = &delivery{P50: latency(d.P50Seconds), P99: latency(d.P99Seconds)}
	}
	if d := l.DeadLetters; d != nil && (d.Events > 0 || l.DeadLetterTopic != "") {
		f.DeadLetters = count(d.Events)
		if n := d.Newest; n != nil {
			f.Newest = &deadLetter{EventID: n.EventID, Type: n.Type, Reason: n.Reason, At: dated(n.At)}
		}
	}
	switch {
	case l.HealthReason != "":
		f.Reasons = []string{manual.Mark(l.HealthReason, l.Code)}
	case l.Reason != "":
		f.Reasons = []string{manual.Mark(operator.Explain(l.Reason, l.Action), l.Code)}
	}
	for _, s := range l.Settings {
		f.Notes = append(f.Notes, "setting: "+s.String())
	}
	if text := l.SnapshotText(now); text != "" {
		f.Notes = append(f.Notes, text)
	}
	if text := l.StateText(); text != "" {
		f.Notes = append(f.Notes, text)
	}
	if text := l.VerifyText(now); text != "" {
		f.Notes = append(f.Notes, manual.Mark(text, l.VerifyCode()))
	}
	if len(l.RefusedTypes) > 0 {
		f.Notes = append(f.Notes, "refused by WorkOS: "+strings.Join(l.RefusedTypes, ", ")+"; relay asks again, and then publishes what came meanwhile")
	}
	if f.EventID == "" {
		f.Position = "the earliest event"
		if f.CreatedAt != nil {
			f.Position = "before the first event"
		}
	}
	if l.UnacknowledgedSeconds >= 1 {
		f.Unacked = span(seconds(l.UnacknowledgedSeconds).Truncate(time.Second))
	}
	if !l.Active && l.Holder != "" && l.Holder != l.Self {
		f.Holder = l.Holder
	}
	return f
}

// ago is how long ago t was; empty if it is not known.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return span(now.Sub(*t).Truncate(time.Second))
}

type typeRow struct {
	Name, Count string
	Width       string // of its bar, in hundredths of the largest
}

type typeTable struct {
	Rows []typeRow
	More int // types that are not shown
}

func typesOf(types []journal.TypeCount) typeTable {
	var t typeTable
	var most uint64
	for _, c := range types {
		most = max(most, c.Count)
	}
	for _, c := range types[:min(shownTypes, len(types))] {
		name := c.Type
		if name == "" {
			name = "(other types)"
		}
		t.Rows = append(t.Rows, typeRow{name, count(c.Count), fmt.Sprintf("%.1f", 100*float64(c.Count)/float64(most))})
	}
	t.More = len(types) - len(t.Rows)
	return t
}

type errorRow struct {
	Last, First *stamp // First if there were several
	Lane, Doing string
	Text        string
	RequestID   string
	Count       int
}

func errorsOf(errors []journal.Error) []errorRow {
	out := make([]errorRow, 0, len(errors))
	for i := range errors {
		e := &errors[i]
		row := errorRow{Last: dated(e.Last), Lane: e.Lane, Doing: e.Doing, Text: manual.Mark(e.Text, e.Code), RequestID: e.RequestID, Count: e.Count}
		if e.Count > 1 {
			row.First = dated(e.At)
		}
		out = append(out, row)
	}
	return out
}

type eventRow struct {
	CreatedAt                    *stamp
	Lane, Type, ID, Organization string
	Data                         string
	DataNote                     string // how much of it is shown, if not all is
}

func eventsOf(events []journal.Envelope) []eventRow {
	out := make([]eventRow, 0, len(events))
	for i := range events {
		e := &events[i]
		row := eventRow{CreatedAt: dated(e.CreatedAt), Lane: e.Lane, Type: e.Type, ID: e.ID, Organization: e.Organization, Data: e.Data}
		if e.DataSize > len(e.Data) {
			row.DataNote = "the beginning of " + count(uint64(e.DataSize)) + " bytes" //nolint:gosec // a size
		}
		out = append(out, row)
	}
	return out
}

// dated is t with its date, in a form that does not change as time passes.
func dated(t time.Time) *stamp {
	return stampOf(&t, time.Time{})
}
