package main

import (
	"errors"
	"fmt"

	"go.uber.org/zap"

	"workos-relay/internal/app"
	"workos-relay/internal/hint"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
)

// The exit codes of relay.
const (
	exitDone     = 0
	exitFailed   = 1 // trying again may help
	exitUsage    = 2 // a wrong flag, argument or configuration
	exitOperator = 3 // operator action required: nothing is lost, and a restart does not help
)

// exitCode returns the exit code of a command that failed with err.
func exitCode(err error) int {
	var usage *app.UsageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	// P4: the exit code asks for an operator if and only if status, readiness and page do.
	case operator.Required(err):
		return exitOperator
	default:
		return exitFailed
	}
}

// tellEnd says why a command has failed: in words, or, if `relay run` logs JSON, by a line of the
// log for each lane that has stopped, so that every line can be parsed. A mistake in a command line
// or a configuration is for the one who has just written it.
func (env *environment) tellEnd(command string, err error) {
	code := exitCode(err)
	if command != "run" || env.logFormat() != "json" || code == exitUsage {
		fmt.Fprintf(env.stderr, "relay: %s\n", errorText(hint.Text("", err)))
		return
	}
	lanes, others := byLane(err)
	for _, e := range lanes {
		env.log.Error("relay ends: a lane has stopped", zap.String("lane", e.Lane), zap.String("error", hint.Text(e.Lane, e.Err)), zap.Int("exit_code", code))
	}
	for _, e := range others {
		env.log.Error("relay ends", zap.String("error", hint.Text("", e)), zap.Int("exit_code", code))
	}
}

// byLane returns the reason of each lane in the tree of err, and what is about none.
func byLane(err error) (lanes []*pipeline.LaneError, others []error) {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here
	case *pipeline.LaneError:
		return []*pipeline.LaneError{e}, nil
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			l, o := byLane(e)
			lanes, others = append(lanes, l...), append(others, o...)
		}
		return lanes, others
	default:
		return nil, []error{err}
	}
}
