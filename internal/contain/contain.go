// Package contain turns panics into errors, so that a fault in one lane, or in a reload, leaves the
// rest of relay running.
package contain

import (
	"fmt"
	"runtime/debug"

	"workos-relay/internal/printable"
)

// PanicError is a panic that was contained: a fault of relay itself.
type PanicError struct {
	Value any
	Stack string // of the goroutine that panicked
}

// Error implements error. It leaves out the stack, which is long; a logger prints it as a field.
func (e *PanicError) Error() string {
	return fmt.Sprintf("a fault of relay itself: panic: %s; please report it with the stack from the log", printable.Text(fmt.Sprint(e.Value)))
}

// Recover stores a panic of the calling function in err. It must be deferred directly. A function
// that returns normally keeps its error.
func Recover(err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Value: v, Stack: string(debug.Stack())}
	}
}

// Do calls f and returns its error, or a *PanicError if f panics.
func Do(f func() error) (err error) {
	defer Recover(&err)
	return f()
}
