// Package hint adds relay's own commands to errors. The public packages say what an operator has to
// decide; which command carries that out only the program knows.
package hint

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// Text returns the text of an error, followed by what an operator has to do about it as far as the
// text does not say that, and by the commands for it. lane is the lane that has failed; it may be
// empty, and a *pipeline.LaneError inside err takes precedence.
func Text(lane string, err error) string {
	text := operator.Explain(err.Error(), operator.Actions(err)...)
	text = operator.Explain(text, commands(lane, err)...)
	if pattern := (*source.PatternError)(nil); errors.As(err, &pattern) {
		text = operator.Explain(text, Types(pattern)...)
	}
	return text
}

// Action returns what an operator has to do about an error, and the commands for it, in one line.
// It is empty if err may pass.
func Action(lane string, err error) string {
	return strings.Join(append(operator.Actions(err), commands(lane, err)...), "; ")
}

// Advice returns Action or, if err may pass, what an operator should do about it meanwhile.
func Advice(lane string, err error) string {
	if action := Action(lane, err); action != "" {
		return action
	}
	return operator.Advice(err)
}

// commands returns the commands for every error in the tree of err that asks for an operator.
func commands(lane string, err error) []string {
	var found []string
	add := func(command string) {
		if command != "" && !strings.Contains(strings.Join(found, "\n"), command) {
			found = append(found, command)
		}
	}
	walk(lane, err, func(lane string, e operator.Error) { add(command(lane, e)) })
	return found
}

// walk calls fn for what operator.Find finds, with the lane that each belongs to.
func walk(lane string, err error, fn func(lane string, e operator.Error)) {
	if l, ok := err.(*pipeline.LaneError); ok { //nolint:errorlint // this function walks the tree itself
		lane = l.Lane
	}
	if e, ok := err.(operator.Error); ok && e.OperatorAction() != "" { //nolint:errorlint // see above
		fn(lane, e)
		return
	}
	for _, child := range operator.Unwrap(err) {
		walk(lane, child, fn)
	}
}

// command returns the command for an error that asks for an operator; empty if there is none.
func command(lane string, err error) string {
	var stop *pipeline.StopError
	var lost *pipeline.LostError
	var mode *pipeline.ModeError
	var held *pipeline.HeldError
	switch {
	case errors.As(err, new(*checkpoint.NewerError)):
		return ""
	case errors.As(err, &stop):
		if stop.Late { // the position is already past it
			return ""
		}
		return fmt.Sprintf("`relay checkpoint set %s --lane %s --skip` skips it", stop.EventID, stop.Lane)
	case errors.As(err, &lost):
		return fmt.Sprintf("`relay checkpoint set --lane %s %s` goes on after the last event that is known to be published and leaves the loss as it is, "+
			"`relay checkpoint reset --lane %s` publishes again from source.start", lost.Lane, argument(lost.Position), lost.Lane)
	case errors.As(err, &held):
		return menu(held)
	case errors.As(err, &mode):
		return modeCommand(mode)
	case errors.Is(err, checkpoint.ErrLost), errors.Is(err, checkpoint.ErrCorrupt), errors.Is(err, checkpoint.ErrForeign),
		errors.Is(err, pipeline.ErrOrigin), errors.Is(err, source.ErrCursorLost), errors.Is(err, source.ErrTooLarge):
		if lane == "" {
			return "the command is `relay checkpoint set`"
		}
		return fmt.Sprintf("the command is `relay checkpoint set --lane %s`", lane)
	}
	return ""
}

// menu returns the commands between which an operator chooses if a destination holds messages and
// there is no position. Each says what it skips and what it repeats.
func menu(e *pipeline.HeldError) string {
	var choices []string
	if n := e.Newest; n != nil {
		choices = append(choices, fmt.Sprintf("`relay checkpoint set %s --lane %s --skip` goes on after the newest event that was found there, %s of %s: "+
			"it repeats nothing up to there, and skips each earlier event that is not there (then run `relay verify --since earliest --until %s --lane %s`, which finds those)",
			n.ID, e.Lane, printable.Text(n.Type), n.CreatedAt.UTC().Format(time.RFC3339Nano), n.CreatedAt.UTC().Format(time.RFC3339Nano), e.Lane))
	}
	return strings.Join(append(choices,
		fmt.Sprintf("`relay checkpoint set earliest --lane %s` begins at the earliest event that WorkOS has: it skips nothing, and repeats every event that is there already", e.Lane),
		fmt.Sprintf("`relay checkpoint set latest --lane %s --skip` begins with the next event: it repeats nothing, and skips every event until now that is not there", e.Lane)), "; ")
}

func modeCommand(e *pipeline.ModeError) string {
	switch e.Have {
	case checkpoint.AtLeastOnce:
		return fmt.Sprintf("the command is `relay checkpoint set --lane %s --from file`", e.Lane)
	case checkpoint.ExactlyOnce:
		return fmt.Sprintf("the command is `relay checkpoint set --lane %s --from bus`", e.Lane)
	default:
		return fmt.Sprintf("the command is `relay checkpoint set --lane %s --from file` or `--from bus`", e.Lane)
	}
}

// Types returns the command that lists the event types that a pattern can match. It returns none if
// the error suggests a type itself.
func Types(e *source.PatternError) []string {
	if e.Nearest != "" || strings.HasPrefix(e.Pattern, "+") {
		return nil
	}
	return []string{"`relay types` lists them"}
}

// argument writes p as `relay checkpoint set` takes it.
func argument(p checkpoint.Position) string {
	switch {
	case p.EventID != "":
		return p.EventID
	case p.IsZero():
		return "earliest"
	default:
		return p.CreatedAt.UTC().Format(time.RFC3339Nano)
	}
}
