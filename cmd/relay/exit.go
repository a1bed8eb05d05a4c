package main

import (
	"errors"

	"workos-relay/internal/app"
	"workos-relay/internal/operator"
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
