package admin

import (
	"fmt"
	"strings"
	"time"

	"workos-relay/internal/printable"
)

// VerifyStatus is how a lane compares what it has published with what WorkOS has, by itself: see
// verify.every in the configuration. Only the active relay of a lane does that.
type VerifyStatus struct {
	EverySeconds float64 `json:"every_seconds"` // verify.every
	Running      bool    `json:"running"`
	// Waits is what a run that is due, or goes on, waits for; empty if nothing.
	Waits string `json:"waits"`
	// NextAt is when the next run is due. It is null if that is not known, as before the lane has
	// caught up after a start.
	NextAt *time.Time `json:"next_at"`
	// Last is what is known from the last runs; null if none came to its end since this relay has
	// carried the lane, with this configuration. If only the events or only the state could be
	// compared, the other one is that of the run before, and Failed says why.
	Last *Verified `json:"last"`
	// Failed is why the last attempt did not come to its end, and FailedAt is when. They are empty
	// and null if it did.
	Failed   string     `json:"failed"`
	FailedAt *time.Time `json:"failed_at"`
}

// Verified is what a run found. Counts of faults are without what the mode of delivery allows.
type Verified struct {
	EndedAt         time.Time `json:"ended_at"`
	DurationSeconds float64   `json:"duration_seconds"`
	// Since and Until are the range of events that was compared, as `relay verify` takes them.
	// Since is empty if none was.
	Since      string         `json:"since"`
	Until      time.Time      `json:"until"`
	Events     int            `json:"events"`  // of WorkOS that the bus should hold
	Expired    int            `json:"expired"` // of them, what the bus does not keep any more
	Unknown    bool           `json:"unknown"` // no event could be compared, since the bus keeps none of them
	Missing    int            `json:"missing"`
	Duplicate  int            `json:"duplicate"`
	Misrouted  int            `json:"misrouted"`
	Altered    int            `json:"altered"`
	OutOfOrder int            `json:"out_of_order"`
	State      *VerifiedState `json:"state"` // null if the state was not compared
	Faults     int            `json:"faults"`
	// Commands show the details of the faults; never null.
	Commands []string `json:"commands"`
}

// VerifiedState is what a run found about the state topics.
type VerifiedState struct {
	Entities int `json:"entities"` // that were compared
	Objects  int `json:"objects"`  // that WorkOS's lists have of them
	Missing  int `json:"missing"`
	Stale    int `json:"stale"`
	Ghosts   int `json:"ghosts"`
}

// VerifyText describes, at a moment, how the lane verifies itself. It is empty if it does not.
func (l *LaneStatus) VerifyText(now time.Time) string {
	v := l.Verify
	if v == nil || !l.Active && v.Last == nil {
		return ""
	}
	var parts []string
	if v.Last != nil {
		parts = append(parts, v.Last.text(now))
	}
	switch {
	case v.Failed != "" && v.FailedAt != nil:
		parts = append(parts, fmt.Sprintf("the attempt %s ago was not finished because %s", span(now, *v.FailedAt), v.Failed))
	case v.Last == nil && !v.Running:
		parts = append(parts, "not done yet")
	}
	switch {
	case v.Running && v.Waits != "":
		parts = append(parts, "one is under way and waits: "+v.Waits)
	case v.Running:
		parts = append(parts, "one is under way")
	case v.Waits != "":
		parts = append(parts, "the next one waits: "+v.Waits)
	case v.NextAt != nil && v.NextAt.After(now):
		parts = append(parts, "next in "+span(*v.NextAt, now))
	}
	text := "verification: " + strings.Join(parts, "; ")
	if v.Last != nil && v.Last.Faults > 0 {
		text += "; `" + strings.Join(v.Last.Commands, "` and `") + "` shows the faults"
	}
	return text
}

// The codes in docs/troubleshoot.md of what VerifyText tells.
const (
	codeVerifyFaults = "R1609"
	codeVerifyFailed = "R1610"
)

// VerifyCode is the code of VerifyText in docs/troubleshoot.md; empty if nothing is wrong.
func (l *LaneStatus) VerifyCode() string {
	switch v := l.Verify; {
	case v == nil:
		return ""
	case v.Last != nil && v.Last.Faults > 0:
		return codeVerifyFaults
	case v.Failed != "", v.Last != nil && v.Last.Unknown:
		return codeVerifyFailed
	default:
		return ""
	}
}

// text says what was compared, and what was found.
func (v *Verified) text(now time.Time) string {
	var compared, said []string
	if v.Since != "" {
		compared = append(compared, fmt.Sprintf("%s from %s to %s", printable.Count(v.Events, "event"), v.Since, v.Until.Format(time.RFC3339)))
	}
	if v.State != nil {
		compared = append(compared, printable.Count(v.State.Objects, "object")+" of the state")
	}
	switch {
	case v.Faults > 0:
		said = append(said, "FAULTS: "+v.Found())
	case v.Unknown && v.State != nil:
		said = append(said, "no fault found in the state")
	case !v.Unknown:
		said = append(said, "no fault found")
	}
	switch {
	case v.Unknown:
		said = append(said, v.Nothing())
	case v.Expired > 0:
		said = append(said, fmt.Sprintf("%d no longer kept by the bus", v.Expired))
	}
	return fmt.Sprintf("%s ago, %s: %s", span(now, v.EndedAt), strings.Join(compared, " and "), strings.Join(said, ", "))
}

// Nothing says that no event could be compared: see Unknown.
func (v *Verified) Nothing() string {
	what := "nothing"
	if v.State != nil {
		what = "no event"
	}
	return fmt.Sprintf("%s could be compared: the bus keeps none of the %s", what, printable.Count(v.Events, "event"))
}

// Found lists the faults: "2 missing, 1 stale in the state".
func (v *Verified) Found() string {
	var found []string
	for _, f := range v.Findings() {
		if f.Count > 0 {
			found = append(found, fmt.Sprintf("%d %s", f.Count, f.Text))
		}
	}
	return strings.Join(found, ", ")
}

// VerifyFinding is how often a kind of fault was found.
type VerifyFinding struct {
	Name  string // for metrics
	Text  string
	Count int
}

// Findings returns every kind of fault. Those of the state have a count of 0 if it was not
// compared.
func (v *Verified) Findings() []VerifyFinding {
	var s VerifiedState
	if v.State != nil {
		s = *v.State
	}
	return []VerifyFinding{
		{"missing", "missing", v.Missing}, {"duplicate", "duplicate", v.Duplicate}, {"misrouted", "misrouted", v.Misrouted},
		{"altered", "altered", v.Altered}, {"out_of_order", "out of order", v.OutOfOrder},
		{"state_missing", "missing in the state", s.Missing}, {"state_stale", "stale in the state", s.Stale}, {"state_ghost", "only in the state", s.Ghosts},
	}
}

// span is the time from earlier to later, in words of people.
func span(later, earlier time.Time) string {
	d := max(later.Sub(earlier), 0)
	switch hours, minutes := int(d.Hours()), int(d.Minutes())%60; {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case hours >= 48:
		return fmt.Sprintf("%d days", hours/24)
	case hours == 0:
		return fmt.Sprintf("%dm", minutes)
	case minutes == 0:
		return fmt.Sprintf("%dh", hours)
	default:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	}
}

// verifyOf is what is known of how a lane verifies itself.
func (s *Server) verifyOf(lane string) *VerifyStatus {
	if s.cfg.Verify == nil {
		return nil
	}
	v := s.cfg.Verify(lane)
	if v != nil {
		v.Waits, v.Failed = printable.Block(v.Waits, maxReason), printable.Block(v.Failed, maxReason)
	}
	return v
}
