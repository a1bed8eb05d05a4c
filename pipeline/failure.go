package pipeline

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/batch"
	"workos-relay/internal/operator"
	"workos-relay/sink"
)

// failures decides which errors end a lane, and tells of those that may pass.
type failures struct {
	errorAndAction func(err error) (text, action string)
	status         *tracker
	observer       Observer
	logger         *zap.Logger
	bus            string // as Lane.Type; empty if it is not known

	// Of the failures since the lane last got on; only the goroutine of Lane.Run uses these.
	count       int
	since, told time.Time // of the first failure, and of the last that was logged as a warning
	action      string    // of that one
}

// tellEvery is how often the log repeats that something still fails.
const tellEvery = 30 * time.Second

// mustStop reports whether only an operator can resolve err, so that the lane stops. A
// *sink.FatalError stops a lane only if it has never acquired its position: later the operator may
// repair the bus while relay runs.
func (f *failures) mustStop(err error) bool {
	for _, e := range operator.Find(err) {
		fatal, isFatal := e.(*sink.FatalError) //nolint:errorlint // what it wraps is not the question
		if !isFatal || !f.status.acquired() || f.mustStop(fatal.Err) {
			return true
		}
	}
	return false
}

// retrying tells of an error that may pass, and when the next attempt starts. The log has a warning
// of the first failure, of one that asks something else of an operator, and then one every
// tellEvery.
func (f *failures) retrying(doing string, err error, wait time.Duration) {
	text, action := f.errorAndAction(err)
	now := time.Now()
	if f.count == 0 {
		f.since = now
	}
	f.count++
	fields := []zap.Field{zap.Duration("retry_in", wait), zap.String("error", text)}
	what := f.headline(doing)
	switch {
	case f.count == 1 || action != f.action:
		f.told, f.action = now, action
		f.logger.Warn(what+" failed, will try again", fields...)
	case now.Add(wait).Sub(f.told) > tellEvery:
		f.told = now
		f.logger.Warn(what+" still fails, will try again", append(fields, zap.Int("failures", f.count), zap.Duration("outage", now.Sub(f.since)))...)
	default:
		f.logger.Debug(what+" failed, will try again", fields...)
	}
	f.status.retrying(doing, text, action)
	f.observer.Retrying(doing, err)
}

// headline returns what fails, after the name of the system that it asks.
func (f *failures) headline(doing string) string {
	switch {
	case doing == Reading:
		return "Events API: " + doing
	case f.bus != "":
		return f.bus + ": " + doing
	default:
		return doing
	}
}

// recovered ends the row of failures and tells of it, unless something still fails.
func (f *failures) recovered() {
	if f.count == 0 || f.status.fails() {
		return
	}
	f.logger.Info("the outage is over", zap.Int("failures", f.count), zap.Duration("outage", time.Since(f.since)))
	f.count, f.action = 0, ""
}

// StopError says that the lane stopped at an event that can never be published: no dead letter
// topic is configured, or the dead letter is refused too. Everything before the event is committed,
// unless Unwrap also returns why it could not be.
type StopError struct {
	Lane          string // as Lane.Name
	EventID, Type string
	Parks         bool // a dead letter topic is configured
	Late          bool // the event is late: the position is already past it
	Err           error
}

// Error implements error.
func (e *StopError) Error() string {
	return fmt.Sprintf("stopped at event %s (%s): %v; %s", e.EventID, e.Type, e.Err, e.OperatorAction())
}

// OperatorAction says what an operator has to do.
func (e *StopError) OperatorAction() string {
	remedy := batch.Remedy(e.Parks)
	if e.Late {
		return fmt.Sprintf("%s, or take %s out of source.events", remedy, e.Type)
	}
	return remedy + ", or skip this one event"
}

// Unwrap returns the cause.
func (e *StopError) Unwrap() error { return e.Err }
