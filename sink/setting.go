package sink

import (
	"context"
	"fmt"
)

// Configurable is a destination whose settings can be compared with the configuration after it was
// created. It is optional.
type Configurable interface {
	// Settings returns each setting that the configuration names and that differs at the
	// destination of topics. What does not exist yet has no settings. With apply it changes what
	// relay may change: what relay created, and what deletes no stored message unless the
	// configuration allows that. It changes a setting at most once to the same value, so that two
	// relays with different configurations do not undo each other's changes for ever. A setting
	// that the destination refuses is not an error; the error is for a bus that could not be asked.
	// Settings may be called at any time, from any goroutine.
	Settings(ctx context.Context, topics []string, apply bool) ([]Setting, error)
}

// Outcome says what relay does about a setting that differs from the configuration.
type Outcome string

// The outcomes. Only Changed means that the destination now is as the configuration says.
const (
	Changes   Outcome = "changes"   // relay changes it when it starts or reloads
	Changed   Outcome = "changed"   // relay has changed it
	Waits     Outcome = "waits"     // relay changes it once something else has happened, without a restart
	HeldBack  Outcome = "held_back" // the change would delete stored messages, and nobody has confirmed that
	Unchanged Outcome = "unchanged" // it cannot be changed, the bus refuses the change, or relay may not make it
)

// Setting is one setting of a destination that differs from the configuration, or did before relay
// changed it.
type Setting struct {
	Of      string  `json:"of"`   // "stream WORKOS", "topic dsync.user.created"
	Key     string  `json:"key"`  // key of the configuration, below the sink: "create.max_age"
	Have    string  `json:"have"` // at the destination; of Changed, what it was before
	Want    string  `json:"want"` // in the configuration
	Outcome Outcome `json:"outcome"`
	Why     string  `json:"why"` // reason of Waits, HeldBack and Unchanged and what to do; a warning of the others. May be empty
}

// String is one sentence for an operator.
func (s Setting) String() string {
	var what string
	switch s.Outcome {
	case Changed:
		what = fmt.Sprintf("changed %s from %s to %s", s.Key, s.Have, s.Want)
	case Changes:
		what = fmt.Sprintf("%s is %s and changes to %s", s.Key, s.Have, s.Want)
	case Waits:
		what = fmt.Sprintf("%s is %s and changes to %s later", s.Key, s.Have, s.Want)
	default:
		what = fmt.Sprintf("%s is %s, not %s as configured", s.Key, s.Have, s.Want)
	}
	if s.Why != "" {
		what += ": " + s.Why
	}
	return s.Of + ": " + what
}
