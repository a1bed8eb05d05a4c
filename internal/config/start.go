package config

import (
	"fmt"
	"regexp"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/moment"
)

// Start is where a lane begins that has no checkpoint yet. The zero Start is the earliest event
// that the API still has.
type Start struct {
	Latest bool                // after all that is there now, by the API's clock; From is zero then
	Ago    moment.Moment       // from this relative time on, by the API's clock; From is zero then
	From   checkpoint.Position // otherwise: after this event, or from this time on
}

// StartForms says how a Start is written, for help and messages.
const StartForms = "earliest, latest, an event id, or a time: " + moment.Forms

// eventID matches the id of an event. WorkOS uses ULIDs; any id that a lane may stop at is
// accepted.
var eventID = regexp.MustCompile(`^(event|evt)_[0-9A-Za-z_-]{1,128}$`)

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Start) UnmarshalText(text []byte) error {
	switch word := string(text); {
	case word == "earliest":
		*s = Start{}
	case word == "latest":
		*s = Start{Latest: true}
	case eventID.MatchString(word):
		*s = Start{From: checkpoint.Position{EventID: word}}
	default:
		at, err := moment.Parse(word)
		switch {
		case moment.IsForm(err):
			return fmt.Errorf("is not a place to start from; write %s", StartForms)
		case err != nil:
			return err
		case at.IsRelative():
			*s = Start{Ago: at}
		default:
			*s = Start{From: checkpoint.Position{CreatedAt: at.In(time.Time{})}}
		}
	}
	return nil
}

// NeedsTime reports whether what s means depends on the time of the Events API.
func (s Start) NeedsTime() bool { return s.Latest || !s.Ago.IsZero() }

// At returns the position that s means if it is now.
func (s Start) At(now time.Time) checkpoint.Position {
	switch {
	case s.Latest:
		return checkpoint.Position{CreatedAt: now}
	case !s.Ago.IsZero():
		return checkpoint.Position{CreatedAt: s.Ago.In(now)}
	default:
		return s.From
	}
}

// String writes s as a configuration does.
func (s Start) String() string {
	switch {
	case s.Latest:
		return "latest"
	case !s.Ago.IsZero():
		return s.Ago.String()
	case s.From.EventID != "":
		return s.From.EventID
	case !s.From.CreatedAt.IsZero():
		return s.From.CreatedAt.Format(time.RFC3339Nano)
	default:
		return "earliest"
	}
}

// MarshalText implements encoding.TextMarshaler.
func (s Start) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
