//go:build unix

// Package testkit holds what tests on real processes and real connections share: programs that are
// started, killed, paused and started again, and TCP links that misbehave.
package testkit

import "time"

const (
	// Patient is how long a test waits for something that must happen. No test depends on how soon
	// it happens.
	Patient = 5 * time.Minute
	// Often is the interval between two looks.
	Often = 20 * time.Millisecond
)
