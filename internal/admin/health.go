package admin

import (
	"fmt"
	"strings"
	"time"

	"workos-relay/internal/operator"
	"workos-relay/pipeline"
)

// Health is one word for how a lane is, or the whole relay. It is derived here alone: the page,
// `relay status` and its exit code, /readyz, metrics and alerts show it.
type Health string

// The healths, from the best to the worst.
const (
	Healthy      Health = "healthy"
	Degraded     Health = "degraded"      // events wait, or would wait, and that may end by itself
	ActionNeeded Health = "action_needed" // it ends only if an operator acts
)

// Healths returns every Health, the best first.
func Healths() []Health { return []Health{Healthy, Degraded, ActionNeeded} }

// String returns h as people read it.
func (h Health) String() string { return strings.ReplaceAll(string(h), "_", " ") }

// Worse returns the worse of h and other. The zero value is better than Healthy.
func (h Health) Worse(other Health) Health {
	for _, worst := range []Health{ActionNeeded, Degraded} {
		if h == worst || other == worst {
			return worst
		}
	}
	return Healthy
}

const (
	// unackedLimit is how long an event that was read may wait to be acknowledged, and how long a
	// lane that was at work may keep trying again, before it counts as stuck.
	unackedLimit = time.Minute
	// pollLimit is how long the Events API may give no good answer, at least; pollsMissed poll
	// intervals if those are longer.
	pollLimit   = time.Minute
	pollsMissed = 5
	// failureLimit is how long the Events API or the bus may fail before the lane is degraded.
	failureLimit = 10 * time.Second
)

// Verdict is what Judge finds.
type Verdict struct {
	Health Health
	// Reason is why the lane is not Healthy, in one sentence: the last error, for how long and how
	// often, and what an operator has to do. It is empty if the lane is Healthy.
	Reason string
	// Ready is more lenient than Health: what fails for less than a minute does not take a relay
	// out of service. A lane that is not ready is never Healthy.
	Ready bool
}

// Judge reports how a lane is at now, by the local clock. poll is the interval between polls.
//
// To be connected is not enough to be ready: a lane is ready if it runs, the Events API has given a
// good answer lately, and the committed position moves while events wait. A lane in standby is
// ready to take over, unless it knows that events wait and the position does not move: then a
// takeover would not help either. A paused lane is not ready, so that nobody forgets to resume it.
// A lane that retries is ready for a while, unless an operator has to act. While events wait, the
// lane's budget may have held up reading, so what waits decides alone.
//
// A lane is degraded if it is not ready, or if the Events API or the bus has failed for
// failureLimit. If an operator has to act before it gets on, the word for that comes first.
//
// P4: health follows from the position and the last error, which status and page show too.
func Judge(s pipeline.Status, now time.Time, poll time.Duration) Verdict {
	v := Verdict{Health: Healthy}
	v.Ready, v.Reason = progress(s, now, poll)
	failing := s.State == pipeline.Retrying && now.Sub(s.Since) >= failureLimit
	switch {
	case s.Action != "" && (s.State == pipeline.Retrying || s.State == pipeline.Stopped):
		v.Health = ActionNeeded
	case !v.Ready || failing:
		v.Health = Degraded
	default:
		return v
	}
	if v.Reason == "" {
		v.Reason = because(trying(s, now), s.Reason)
	}
	if s.Action != "" {
		v.Reason = operator.Explain(v.Reason, strings.Split(s.Action, "; ")...) // the reason may say some of it
	}
	return v
}

// progress reports whether a lane makes progress, and otherwise why not.
func progress(s pipeline.Status, now time.Time, poll time.Duration) (ready bool, reason string) {
	reason = stuck(s, now)
	switch s.State {
	case pipeline.Running:
		if reason == "" {
			reason = silence(s, now, poll)
		}
	case pipeline.Standby:
		if reason != "" {
			reason = because(reason, s.Reason)
		}
	case pipeline.Paused:
		reason = because("paused by hand"+forTime(now, s.Since)+"; `relay resume "+s.Lane+"` ends it", s.Reason)
	case pipeline.Retrying:
		acquired := s.Checkpoint.Revision != 0
		if reason == "" && acquired && s.Action == "" && now.Sub(s.Since) < unackedLimit {
			return true, "" // one failed attempt is not a reason to take the relay out of service
		}
		if reason == "" {
			reason = trying(s, now)
		}
		reason = because(reason, s.Reason)
	case pipeline.Starting, "":
		reason = "starting: the position has not been taken up yet"
	case pipeline.Stopped:
		reason = because("stopped", s.Reason)
	default:
		reason = because("in an unknown state, "+string(s.State), s.Reason)
	}
	return reason == "", reason
}

// trying says for how long and how often a lane has tried again.
func trying(s pipeline.Status, now time.Time) string {
	text := "trying again" + forTime(now, s.Since)
	if s.Failures > 1 {
		text += fmt.Sprintf(", %d attempts failed", s.Failures)
	}
	return text
}

// stuck says for how long the committed position has not moved although events wait, if that is too
// long. An event may wait for long while others before it are committed.
func stuck(s pipeline.Status, now time.Time) string {
	moved := !s.MovedAt.IsZero() && now.Sub(s.MovedAt) < unackedLimit
	switch {
	case !s.Unacked.IsZero() && now.Sub(s.Unacked) >= unackedLimit && !moved && s.State != pipeline.Standby:
		return fmt.Sprintf("the oldest event read waits for %s to be acknowledged", since(now, s.Unacked))
	case !s.Waiting.IsZero() && now.Sub(s.Waiting) >= unackedLimit:
		return fmt.Sprintf("the position has not moved for %s although events wait", since(now, s.Waiting))
	default:
		return ""
	}
}

// silence says for how long a running lane has had no good answer from the Events API, if that
// is too long.
func silence(s pipeline.Status, now time.Time, poll time.Duration) string {
	switch {
	case !s.Unacked.IsZero():
		return ""
	case s.Checkpoint.Snapshot != nil && !s.Checkpoint.Snapshot.Finished():
		return "" // it reads lists and no events; if a list does not answer, the lane retries
	case s.LastPoll.IsZero():
		return "no good answer from the Events API yet" + forTime(now, s.Since)
	case now.Sub(s.LastPoll) >= max(pollLimit, pollsMissed*poll):
		return "no good answer from the Events API" + forTime(now, s.LastPoll)
	default:
		return ""
	}
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// forTime is " for 1m5s"; empty if it is not known since when.
func forTime(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " for " + since(now, t).String()
}

// since is how long ago t was, in whole seconds, and never negative: the clock may have been set
// back.
func since(now, t time.Time) time.Duration { return max(0, now.Sub(t)).Truncate(time.Second) }
