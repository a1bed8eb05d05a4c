package admin

import (
	"fmt"
	"strings"
	"time"

	"workos-relay/internal/operator"
	"workos-relay/pipeline"
)

const (
	// unackedLimit is how long an event that was read may wait to be acknowledged, and how long a
	// lane that was at work may keep trying again, before it counts as stuck.
	unackedLimit = time.Minute
	// pollLimit is how long the Events API may give no good answer, at least; pollsMissed poll
	// intervals where those are longer.
	pollLimit   = time.Minute
	pollsMissed = 5
)

// Judge reports whether a lane makes progress at now, by the local clock, and otherwise why not.
// poll is the interval between polls. To be connected is not enough: a lane is ready if it runs,
// the Events API has given a good answer lately, and the committed position moves while events
// wait. A lane in standby is ready to take over, unless it knows that events wait and the position
// does not move: then a takeover would not help either. A paused lane is not ready, so that nobody
// forgets to resume it. A lane that retries is ready for a while, unless an operator has to act.
// While events wait, the lane's budget may have held up reading, so what waits decides alone. Each
// reason ends with what an operator has to do.
//
// P4: readiness follows from the position, which status and page show too.
func Judge(s pipeline.Status, now time.Time, poll time.Duration) (ready bool, reasons []string) {
	reason := stuck(s, now)
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
			return true, nil // one failed attempt is not a reason to take the relay out of service
		}
		if reason == "" {
			reason = "trying again" + forTime(now, s.Since)
		}
		reason = because(reason, s.Reason)
	case pipeline.Starting, "":
		reason = "starting: the position has not been taken up yet"
	case pipeline.Stopped:
		reason = because("stopped", s.Reason)
	default:
		reason = because("in an unknown state, "+string(s.State), s.Reason)
	}
	if reason == "" {
		return true, nil
	}
	if s.Action != "" {
		reason = operator.Explain(reason, strings.Split(s.Action, "; ")...) // the reason may say some of it
	}
	return false, []string{reason}
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
