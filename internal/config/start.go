package config

import (
	"errors"
	"regexp"
	"time"

	"workos-relay/checkpoint"
)

// Start is where a lane begins that has no checkpoint yet. The zero Start is the earliest event
// that the API still has.
type Start struct {
	Latest bool                // after all that is there now, by the API's clock; From is zero then
	From   checkpoint.Position // otherwise: after this event, or from this time on
}

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
		at, err := time.Parse(time.RFC3339, word)
		if err != nil || at.IsZero() {
			return errors.New("is not a place to start from; write earliest, latest, a time such as 2026-01-31T00:00:00Z, or an event id")
		}
		*s = Start{From: checkpoint.Position{CreatedAt: at.UTC()}}
	}
	return nil
}

// String writes s as a configuration does.
func (s Start) String() string {
	switch {
	case s.Latest:
		return "latest"
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
