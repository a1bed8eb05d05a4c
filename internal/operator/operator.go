// Package operator tells errors that only an operator can resolve from those that may pass.
//
// An error asks for an operator by a method OperatorAction() string, which says what the operator
// has to do. An empty string means that it does not ask. Packages need not import this one to
// declare such an error.
package operator

import (
	"errors"
	"slices"
	"strings"
)

// Error is an error that may ask an operator to act.
type Error interface {
	error
	// OperatorAction says what the operator has to do: an imperative sentence without a final
	// period. It is empty if nothing has to be done.
	OperatorAction() string
}

// Find returns the errors in the tree of err that ask an operator to act, in the order of the text
// of err. It looks into every branch of a joined error, and in each branch returns only the
// outermost one, which knows the most. It returns nil if err may
// pass.
func Find(err error) []Error {
	if e, ok := err.(Error); ok && e.OperatorAction() != "" { //nolint:errorlint // this function walks the tree itself
		return []Error{e}
	}
	var found []Error
	for _, child := range Unwrap(err) {
		found = append(found, Find(child)...)
	}
	return found
}

// Required reports whether an operator has to act on err. One error in its tree that asks for it is
// enough.
func Required(err error) bool { return len(Find(err)) > 0 }

// Actions returns what an operator has to do about err, without repetition. It returns nil if err
// may pass.
func Actions(err error) []string {
	var actions []string
	for _, e := range Find(err) {
		if action := e.OperatorAction(); !slices.Contains(actions, action) {
			actions = append(actions, action)
		}
	}
	return actions
}

// Action returns Actions in one line. It is empty if err may pass.
func Action(err error) string { return strings.Join(Actions(err), "; ") }

// Explain returns text, the text of an error, followed by those actions that text does not say
// already.
func Explain(text string, actions ...string) string {
	for _, action := range actions {
		if !strings.Contains(text, action) {
			text += "; " + action
		}
	}
	return text
}

// Unwrap returns the errors that err wraps directly, whether it wraps one or several.
func Unwrap(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // one level on purpose
		return joined.Unwrap()
	}
	if inner := errors.Unwrap(err); inner != nil {
		return []error{inner}
	}
	return nil
}

// New returns an error with this text that asks for this action. Each call returns a distinct
// error, as errors.New does, so that it can serve as a sentinel.
func New(text, action string) error { return &sentinel{text, action} }

type sentinel struct{ text, action string }

func (e *sentinel) Error() string          { return e.text }
func (e *sentinel) OperatorAction() string { return e.action }

// Require returns err with this action, which it adds to the text unless it is there already. It
// returns nil if err is nil, and err if the action is empty.
func Require(err error, action string) error {
	if err == nil || action == "" {
		return err
	}
	return &required{err, action}
}

type required struct {
	err    error
	action string
}

func (e *required) Error() string          { return Explain(e.err.Error(), e.action) }
func (e *required) Unwrap() error          { return e.err }
func (e *required) OperatorAction() string { return e.action }

// Advise returns err with advice for the operator. An error with advice may still pass by itself:
// relay goes on trying, and Required does not report it. It returns nil if err is nil.
func Advise(err error, advice string) error {
	if err == nil || advice == "" {
		return err
	}
	return &advised{err, advice}
}

// Advisory is an error that may pass, and that most likely goes on until an operator acts.
type Advisory interface {
	error
	// OperatorAdvice says what the operator should do: an imperative sentence without a final
	// period. It is empty if nothing.
	OperatorAdvice() string
}

// Advice returns what an operator has to do about err or, if nothing has to be done, should do:
// Action(err), else the advice in its tree. It is empty if neither is there.
func Advice(err error) string {
	if action := Action(err); action != "" {
		return action
	}
	var all []string
	var walk func(error)
	walk = func(err error) {
		if e, ok := err.(Advisory); ok && e.OperatorAdvice() != "" { //nolint:errorlint // this function walks the tree itself
			if !slices.Contains(all, e.OperatorAdvice()) {
				all = append(all, e.OperatorAdvice())
			}
			return
		}
		for _, child := range Unwrap(err) {
			walk(child)
		}
	}
	walk(err)
	return strings.Join(all, "; ")
}

type advised struct {
	err    error
	advice string
}

func (e *advised) Error() string          { return Explain(e.err.Error(), e.advice) }
func (e *advised) Unwrap() error          { return e.err }
func (e *advised) OperatorAdvice() string { return e.advice }
