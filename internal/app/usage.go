package app

// UsageError is a wrong flag, argument or configuration. To try again without a change cannot help.
type UsageError struct{ err error }

// Usage returns err as a *UsageError.
func Usage(err error) error { return &UsageError{err} }

// Error implements error.
func (e *UsageError) Error() string { return e.err.Error() }

// Unwrap returns the fault.
func (e *UsageError) Unwrap() error { return e.err }
