package main

import (
	"errors"

	"workos-relay/checkpoint"
	"workos-relay/internal/republish"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// The exit codes of relay.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitDecide = 3 // a person must decide: nothing is lost, and nothing goes on by itself
)

// usageError is a wrong flag, argument or configuration.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var usage *usageError
	var stop *pipeline.StopError
	var unpublished *republish.StopError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &stop),
		errors.As(err, &unpublished),
		errors.Is(err, checkpoint.ErrLost),
		errors.Is(err, checkpoint.ErrCorrupt),
		errors.Is(err, checkpoint.ErrForeign),
		errors.Is(err, source.ErrCursorLost):
		return exitDecide
	default:
		return exitFailed
	}
}
