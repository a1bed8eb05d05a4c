//go:build unix

// Package testkit holds what tests on real processes and real connections share: programs that are
// started, killed, paused and started again, and TCP links that misbehave.
package testkit

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// Patient is how long a test waits for something that must happen. No test depends on how soon
	// it happens.
	Patient = 5 * time.Minute
	// Often is the interval between two looks, as long as what is waited for may come soon: see
	// Interval.
	Often = 20 * time.Millisecond
	// AnswerTime is how long a running relay has to answer one request.
	AnswerTime = time.Minute
)

// Interval returns how long to wait before the next look at something that has been waited for
// since began: Often, and more the longer it takes, so that a test that waits does not keep a core
// busy.
func Interval(began time.Time) time.Duration {
	return min(max(Often, time.Since(began)/20), 10*Often)
}

// Eventually waits until cond holds. It fails after Patient, with the message.
func Eventually(t testing.TB, cond func() bool, message string, args ...any) {
	t.Helper()
	for began := time.Now(); !cond(); time.Sleep(Interval(began)) {
		if time.Since(began) > Patient {
			require.Fail(t, fmt.Sprintf("not within %v", Patient), append([]any{message}, args...)...)
		}
	}
}
