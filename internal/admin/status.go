package admin

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/journal"
	"workos-relay/internal/manual"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// Status is the answer of GET /api/v1/status: the whole relay at one moment. Every time in it is
// UTC and by the clock of the machine that answers, except created_at, which is WorkOS's. Fields
// are added in later versions and never change their meaning.
type Status struct {
	Version string    `json:"version"`
	ID      string    `json:"id"`      // of the configuration
	Started time.Time `json:"started"` // when this process began
	Now     time.Time `json:"now"`     // when this was said
	// Health is the worst of the lanes: healthy, degraded or action_needed.
	Health  Health   `json:"health"`
	Ready   bool     `json:"ready"`   // as /readyz has it
	Reasons []string `json:"reasons"` // why not, of all lanes, each with the lane's name before it; never null
	// Writable: the client may also pause, resume, poll, reload and move checkpoints.
	Writable bool         `json:"writable"`
	Lanes    []LaneStatus `json:"lanes"` // in the order of the configuration; never null
	// Requests are those to WorkOS, of all lanes together; null if they are not known, because no
	// relay runs.
	Requests *Requests `json:"requests"`
	// Unasked are the event types that WorkOS's webhooks name and that relay does not ask for;
	// never null.
	Unasked []UnaskedType `json:"unasked_event_types"`
}

// UnaskedType is an event type that WorkOS sends webhooks of and that relay does not ask for, so
// that its events are not published.
type UnaskedType struct {
	Type     string    `json:"type"`
	Add      string    `json:"add"` // what adds it to source.events
	Webhooks int       `json:"webhooks"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// Requests are what this process asks of WorkOS. The rate limit of the key is also used by your own
// application and by other commands of relay, which are not counted here.
type Requests struct {
	PerSecond float64 `json:"per_second"` // sent, over the last 10 seconds
	Limit     float64 `json:"limit"`      // source.rate_limit: the most per second that relay sends
	// RateLimited is how many requests WorkOS has answered 429, since this process began.
	RateLimited   uint64     `json:"rate_limited"`
	RateLimitedAt *time.Time `json:"rate_limited_at"` // the last of them; null if there was none
	// WaitingUntil is when the last lane that waits because of such an answer asks again; null if
	// none waits.
	WaitingUntil *time.Time `json:"waiting_until"`
}

// LaneStatus is one lane.
type LaneStatus struct {
	Name string `json:"name"`
	Type string `json:"type"` // of its sink: nats, kafka, stdout
	Outlet
	Activity
	State pipeline.State `json:"state"`
	Since *time.Time     `json:"since"` // of state; null if not known
	// Health is healthy, degraded or action_needed, and HealthReason is why it is not healthy: the
	// last error, for how long and how often, and what an operator has to do.
	Health       Health `json:"health"`
	HealthReason string `json:"health_reason"`
	// Code is that of Reason and HealthReason in docs/troubleshoot.md, such as R1104. It is empty
	// if the lane is healthy and nothing fails.
	Code string `json:"code"`
	// Failures is how often what Reason tells of has failed since Since, of a lane that is
	// retrying; else 0.
	Failures int    `json:"failures"`
	Reason   string `json:"reason"` // of retrying, stopped, standby and paused: the last error or what it waits for
	// Action is what an operator has to do about Reason. It is empty if nothing: what is retried
	// without it may pass.
	Action string `json:"action"`
	// Mode is exactly_once or at_least_once; empty while not known.
	Mode checkpoint.Mode `json:"mode"`
	// Holder is who moved the position last, empty while not known; Self is this process, in the
	// same words. Active: they are the same, so that it is this process that carries the lane's
	// events.
	Holder string `json:"holder"`
	Self   string `json:"self"`
	Active bool   `json:"active"`

	Position Position   `json:"position"`  // committed; all of it is durable on the bus
	Read     Position   `json:"read"`      // read ahead, in memory
	MovedAt  *time.Time `json:"moved_at"`  // when the position was committed last, renewals included
	LastPoll *time.Time `json:"last_poll"` // last good answer of the Events API
	AtTip    bool       `json:"at_tip"`    // everything that WorkOS had at last_poll is committed
	TipAt    *time.Time `json:"tip_at"`    // when that was so last

	LagSeconds            *float64 `json:"lag_seconds"`            // null while not known, as of a lane that has stopped
	UnacknowledgedSeconds float64  `json:"unacknowledged_seconds"` // for how long the oldest event that was read waits; 0 if none does
	Events                uint64   `json:"events"`                 // committed by this process since it started the lane; a reload or a move may start it again
	Rate                  float64  `json:"rate"`                   // events committed a second, over the last minute

	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"` // why not; never null

	// Settings are those of the destination that the configuration names and that differ, or that
	// relay has changed; never null. They do not make a lane unready.
	Settings []sink.Setting `json:"settings"`

	// RefusedTypes are event types that the Events API refuses, or has refused and whose events are
	// not all published yet; never null. They do not make a lane unready.
	RefusedTypes []string `json:"refused_types"`

	// Snapshot is the last snapshot of the lane, or the one that it reads now; null if there was
	// none.
	Snapshot *SnapshotStatus `json:"snapshot"`
	// SnapshotRequested: a snapshot was asked for that has not begun.
	SnapshotRequested bool `json:"snapshot_requested"`
	// StateUnread are the entities whose state topics may lack objects that no event has told of,
	// since no snapshot has read them as a whole; never null.
	StateUnread []UnreadEntity `json:"state_unread"`

	// Verify is how the lane compares what it has published with what WorkOS has, by itself; null
	// if it does not, as without verify.every.
	Verify *VerifyStatus `json:"verify"`
}

// UnreadEntity is an entity that no snapshot has read as a whole.
type UnreadEntity struct {
	Entity string `json:"entity"`
	Reason string `json:"reason"` // why WorkOS refuses a list of it; empty if no snapshot was to read it
}

// Outlet is where the events of a lane go. It is the zero value if that is not known.
type Outlet struct {
	// Destination names the bus without its address: "nats stream WORKOS", "kafka topics workos.*",
	// "standard output".
	Destination string `json:"destination"`
	// Topics is how many topics the events can go to, without those of dead letters and of state. A
	// topic with placeholders counts once. Topic names up to three of them; of more it is what they
	// all begin with, and an asterisk.
	Topics int    `json:"topics"`
	Topic  string `json:"topic"`
	// DeadLetterTopic is where events go that can never be published; empty if they stop the lane.
	DeadLetterTopic string `json:"dead_letter_topic"`
}

// TopicsText names the topics: "topic a", "143 topics: workos.*". It is empty if they are not
// known.
func (o *Outlet) TopicsText() string {
	switch {
	case o.Topics == 0:
		return ""
	case o.Topics == 1:
		return "topic " + o.Topic
	case o.Topic == "*":
		return fmt.Sprintf("%d topics", o.Topics)
	default:
		return fmt.Sprintf("%d topics: %s", o.Topics, o.Topic)
	}
}

// Activity is what this process has done of late in a lane, also before the lane was replaced by a
// reload. It is the zero value if that is not known, because no relay runs.
type Activity struct {
	// Delivery is how long events took lately; null if none was measured, and of a standby.
	Delivery *Delivery `json:"delivery"`
	// DeadLetters are the events that could never be published; null if that is not known.
	DeadLetters *DeadLetters `json:"dead_letters"`
	// RateLimitedUntil is when the lane asks WorkOS again, after an answer 429; null if it does not
	// wait because of one.
	RateLimitedUntil *time.Time `json:"rate_limited_until"`
}

// DeliveryWindow is the time of which Delivery tells.
const DeliveryWindow = 5 * time.Minute

// Delivery is how long events took from created_at, by WorkOS's clock, until the bus had
// acknowledged them and the position was committed: the measurement of the metric
// relay_event_delivery_seconds. Each event counts once. Events that a route drops, and those that
// are older than this process, are not measured.
type Delivery struct {
	WindowSeconds float64 `json:"window_seconds"` // how far back it goes: 5 minutes
	Events        uint64  `json:"events"`         // measured; never 0
	P50Seconds    float64 `json:"p50_seconds"`    // half of the events took no longer; exact to 5 %
	P99Seconds    float64 `json:"p99_seconds"`    // so did 99 of 100
}

// DeadLetters are the events that this process has put into the dead letter topic.
type DeadLetters struct {
	Events uint64      `json:"events"` // since this process began
	Newest *DeadLetter `json:"newest"` // null if there is none
}

// DeadLetter is an event in the dead letter topic.
type DeadLetter struct {
	EventID string    `json:"event_id"`
	Type    string    `json:"type"`
	Reason  string    `json:"reason"` // why it could not be published
	At      time.Time `json:"at"`     // when it was committed as a dead letter
}

// SnapshotStatus is a snapshot: relay reads the objects that WorkOS has and publishes them to the
// state topics, before it carries events.
type SnapshotStatus struct {
	Run        string     `json:"run"`         // as in the header relay-snapshot of its messages
	StartedAt  *time.Time `json:"started_at"`  // by WorkOS's clock
	FinishedAt *time.Time `json:"finished_at"` // null while it goes on
	Entity     string     `json:"entity"`      // that is read now; empty once it is finished
	Comparing  bool       `json:"comparing"`   // of Entity, what only the bus has is looked for
	// Entities are those that it reads, in their order.
	Entities []SnapshotEntity `json:"entities"`
	// RemainingSeconds is about how much longer it takes, and EntityRemainingSeconds the same of
	// Entity alone. Either is null if nothing tells: WorkOS does not say how many objects it has,
	// but an earlier snapshot may, or the lists that are read of those of all parents.
	RemainingSeconds       *float64 `json:"remaining_seconds"`
	EntityRemainingSeconds *float64 `json:"entity_remaining_seconds"`
}

// SnapshotEntity counts what a snapshot has done about one entity. What was read again after a
// restart counts again.
type SnapshotEntity struct {
	Entity  string `json:"entity"`
	Done    bool   `json:"done"`
	Objects uint64 `json:"objects"` // published
	Removed uint64 `json:"removed"` // removed from the state topic, because WorkOS does not have them any more
	Dropped uint64 `json:"dropped"` // left out, because a route drops them
	Skipped uint64 `json:"skipped"` // left out, because they can never be published: the log names each
	Lists   uint64 `json:"lists"`   // read to their end, of an entity with one list for each of its parents; else 0
	Parents uint64 `json:"parents"` // that the snapshot has found, each with a list; 0 if not known
	// Refused is why WorkOS refuses a list of it, so that the snapshot has not all of its objects;
	// empty if it does not.
	Refused string `json:"refused"`
}

// UnreadOf is unread as the API writes it.
func UnreadOf(unread []pipeline.UnreadEntity) []UnreadEntity {
	out := make([]UnreadEntity, 0, len(unread))
	for _, u := range unread {
		out = append(out, UnreadEntity{Entity: printable.Text(u.Entity), Reason: printable.Text(u.Reason)})
	}
	return out
}

// StateText says which state topics may lack objects, and what reads them. It is empty if none
// does, or if the lane reads a snapshot now.
func (l *LaneStatus) StateText() string {
	if len(l.StateUnread) == 0 || l.Snapshot != nil && l.Snapshot.FinishedAt == nil {
		return ""
	}
	names := make([]string, len(l.StateUnread))
	what := ""
	for i, u := range l.StateUnread {
		if names[i] = u.Entity; u.Reason != "" {
			what += "; WorkOS refuses " + u.Entity + ": " + u.Reason
		}
	}
	return fmt.Sprintf("state: not all objects of %s were read%s; `relay snapshot --lane %s --entities %s` reads them",
		strings.Join(names, ", "), what, l.Name, strings.Join(names, ","))
}

// SnapshotText describes the snapshot that the lane reads or was asked for, at a moment, and what
// it waits for. It is empty if there is none.
func (l *LaneStatus) SnapshotText(now time.Time) string {
	goesOn := l.Snapshot != nil && l.Snapshot.FinishedAt == nil
	text := "snapshot: asked for, and not begun yet"
	switch {
	case goesOn:
		text = l.Snapshot.text(now)
	case !l.SnapshotRequested:
		return ""
	}
	switch l.State {
	case pipeline.Paused:
		return text + "; the lane is paused: `relay resume " + l.Name + "` lets it go on"
	case pipeline.Standby:
		return text + "; the active relay reads it"
	case pipeline.Stopped:
		return text + "; the lane has stopped"
	default:
		return text + "; events follow when it is finished"
	}
}

// text describes a snapshot that goes on, at a moment.
func (s *SnapshotStatus) text(now time.Time) string {
	var all, here, dropped, skipped uint64
	at, lists := 1, ""
	for i, e := range s.Entities {
		all, dropped, skipped = all+e.Objects, dropped+e.Dropped, skipped+e.Skipped
		if e.Entity == s.Entity {
			at, here = i+1, e.Objects
			if e.Lists > 0 || e.Parents > 0 {
				lists = fmt.Sprintf(", list %d", e.Lists)
				if e.Parents >= e.Lists {
					lists += fmt.Sprintf(" of %d", e.Parents)
				}
			}
		}
	}
	what := fmt.Sprintf("%s of %s", printable.Count(here, "object"), s.Entity)
	if s.Comparing {
		what = "looking for what only the bus has of " + s.Entity
	}
	text := fmt.Sprintf("snapshot: %s (entity %d of %d%s), %s in all", what, at, len(s.Entities), lists, printable.Count(all, "object"))
	if s.StartedAt != nil {
		if took := now.Sub(*s.StartedAt); took >= time.Second {
			text += fmt.Sprintf(" in %s, %.0f/s", took.Truncate(time.Second), float64(all)/took.Seconds())
		}
	}
	switch {
	case s.RemainingSeconds != nil:
		text += ", " + about(*s.RemainingSeconds) + " left"
	case s.EntityRemainingSeconds != nil:
		text += ", " + about(*s.EntityRemainingSeconds) + " left of " + s.Entity
	}
	if dropped > 0 {
		text += fmt.Sprintf(", %d dropped by routes", dropped)
	}
	if skipped > 0 {
		text += fmt.Sprintf(", %d skipped", skipped)
	}
	return text
}

// about writes an estimate of a time, to two digits or so.
func about(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	for _, unit := range []time.Duration{time.Hour, time.Minute, 10 * time.Second} {
		if d >= 10*unit {
			return "about " + strings.NewReplacer("m0s", "m", "h0m0s", "h").Replace(d.Round(unit).String())
		}
	}
	return "about " + max(d.Round(time.Second), time.Second).String()
}

// SnapshotOf is s as the API writes it at a moment, nil if there is none.
func SnapshotOf(s *checkpoint.Snapshot, at time.Time) *SnapshotStatus {
	if s == nil {
		return nil
	}
	out := &SnapshotStatus{
		Run: printable.Text(s.Run), StartedAt: known(s.StartedAt), FinishedAt: known(s.FinishedAt), Entity: printable.Text(s.Entity), Comparing: s.Comparing,
		Entities: []SnapshotEntity{},
	}
	if all, entity := s.Remaining(at); entity > 0 {
		of := func(d time.Duration) *float64 {
			if d <= 0 {
				return nil
			}
			left := seconds(d)
			return &left
		}
		out.RemainingSeconds, out.EntityRemainingSeconds = of(all), of(entity)
	}
	now := slices.Index(s.Entities, s.Entity)
	for i, name := range s.Entities {
		c := s.Count(name)
		out.Entities = append(out.Entities, SnapshotEntity{
			Entity: printable.Text(name), Done: s.Finished() || i < now, Objects: c.Objects, Removed: c.Removed, Dropped: c.Dropped, Skipped: c.Skipped, Lists: c.Lists, Parents: c.Parents,
			Refused: printable.Text(s.Refusal(name)),
		})
	}
	return out
}

// Position is a place in the order of the source.
type Position struct {
	EventID   string     `json:"event_id"`   // empty before the first event
	CreatedAt *time.Time `json:"created_at"` // null if not known
}

// Snapshot is the answer of GET /api/v1/status to a sender who may also write, or may not. It may
// be called at any time, from any goroutine.
func (s *Server) Snapshot(writable bool) Status {
	now := s.cfg.Now()
	out := Status{
		Version: s.cfg.Version, ID: s.cfg.ID, Started: s.started.UTC(), Now: now.UTC(), Health: Healthy, Ready: true, Reasons: []string{},
		Writable: writable, Lanes: []LaneStatus{}, Unasked: []UnaskedType{},
	}
	if s.cfg.Unasked != nil {
		out.Unasked = append(out.Unasked, s.cfg.Unasked()...)
	}
	poll := time.Duration(0)
	if s.cfg.PollInterval != nil {
		poll = s.cfg.PollInterval()
	}
	if s.cfg.Requests != nil {
		out.Requests = s.cfg.Requests()
	}
	for _, l := range s.lanes() {
		lane := laneStatus(l, now, poll)
		if s.cfg.Outlet != nil {
			lane.Outlet = s.cfg.Outlet(l.Lane)
		}
		if s.cfg.Activity != nil {
			lane.Activity = activityOf(s.cfg.Activity(l.Lane), l.State, now)
		}
		if until := lane.RateLimitedUntil; until != nil && out.Requests != nil && (out.Requests.WaitingUntil == nil || until.After(*out.Requests.WaitingUntil)) {
			out.Requests.WaitingUntil = until
		}
		lane.Verify = s.verifyOf(l.Lane)
		for _, reason := range lane.Reasons {
			out.Reasons = append(out.Reasons, "lane "+lane.Name+": "+reason)
		}
		out.Ready, out.Health = out.Ready && lane.Ready, out.Health.Worse(lane.Health)
		out.Lanes = append(out.Lanes, lane)
	}
	if len(out.Lanes) == 0 {
		out.Ready, out.Health, out.Reasons = false, Degraded, []string{"there is no lane"}
	}
	return out
}

// activityOf returns the part of a that is true of a lane in this state: a standby delivers
// nothing, and what does not read waits for no answer.
func activityOf(a Activity, state pipeline.State, now time.Time) Activity {
	if state == pipeline.Standby {
		a.Delivery = nil
	}
	reads := state != pipeline.Standby && state != pipeline.Paused && state != pipeline.Stopped
	if a.RateLimitedUntil != nil && (!reads || !a.RateLimitedUntil.After(now)) {
		a.RateLimitedUntil = nil
	}
	return a
}

func (s *Server) lanes() []pipeline.Status {
	if s.cfg.Lanes == nil {
		return nil
	}
	return s.cfg.Lanes()
}

func laneStatus(s pipeline.Status, now time.Time, poll time.Duration) LaneStatus {
	s = printableStatus(s)
	v := Judge(s, now, poll)
	l := LaneStatus{
		Name: s.Lane, Type: s.Type, State: s.State, Since: known(s.Since), Health: v.Health, HealthReason: v.Reason, Code: codeOf(&s, v),
		Reason: s.Reason, Action: s.Action, Failures: s.Failures,
		Mode: s.Checkpoint.Mode, Holder: printable.Text(s.Checkpoint.Holder), Self: s.Holder,
		Active:   s.Holder != "" && s.Checkpoint.Holder == s.Holder && !s.Checkpoint.Released && s.State != pipeline.Stopped,
		Position: PlaceOf(s.Checkpoint.Position), Read: PlaceOf(s.Read), MovedAt: known(s.Checkpoint.UpdatedAt),
		LastPoll: known(s.LastPoll), AtTip: s.AtTip, TipAt: known(s.TipAt),
		Events: s.Events, Rate: math.Round(100*s.Rate) / 100, Ready: v.Ready,
		Reasons:  []string{},
		Settings: append([]sink.Setting{}, s.Settings...), RefusedTypes: []string{},
		Snapshot: SnapshotOf(s.Checkpoint.Snapshot, now), SnapshotRequested: s.SnapshotRequested,
		StateUnread: UnreadOf(s.Unread),
	}
	if !v.Ready {
		l.Reasons = append(l.Reasons, v.Reason)
	}
	for _, r := range s.Checkpoint.Refused {
		l.RefusedTypes = append(l.RefusedTypes, printable.Text(r.Type))
	}
	if s.LagKnown() {
		lag := seconds(s.Lag())
		l.LagSeconds = &lag
	}
	if !s.Unacked.IsZero() {
		l.UnacknowledgedSeconds = seconds(now.Sub(s.Unacked))
	}
	return l
}

// codeOf returns the code of what is wrong with a lane. Durations and counts do not change it.
func codeOf(s *pipeline.Status, v Verdict) string {
	switch {
	case s.State == pipeline.Retrying:
		return journal.Code(s.Failing, s.Reason, s.Action)
	case s.State == pipeline.Stopped && s.Reason != "":
		return journal.Code(journal.Stopping, s.Reason, s.Action)
	case v.Health == Healthy:
		return ""
	default:
		return manual.Code(v.Reason)
	}
}

// maxReason bounds the reason of a lane's state, and what to do about it, in bytes.
const maxReason = 2000

// printableStatus returns s with those texts made printable and bounded that may hold what the
// Events API or a bus said.
func printableStatus(s pipeline.Status) pipeline.Status {
	s.Reason, s.Action = printable.Block(s.Reason, maxReason), printable.Block(s.Action, maxReason)
	settings := slices.Clone(s.Settings)
	for i := range settings {
		f := &settings[i]
		f.Of, f.Have, f.Want, f.Why = printable.Text(f.Of), printable.Text(f.Have), printable.Text(f.Want), printable.Block(f.Why, maxReason)
	}
	s.Settings = settings
	return s
}

// PlaceOf is p as the API writes it.
func PlaceOf(p checkpoint.Position) Position {
	return Position{EventID: printable.Text(p.EventID), CreatedAt: known(p.CreatedAt)}
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, s.Snapshot(MayWrite(r)))
}
