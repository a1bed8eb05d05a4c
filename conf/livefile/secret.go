package livefile

import "workos-relay/conf/secret"

// Current is a secret as it is now: a fixed one, or what a file holds. The zero value is not a
// secret. It is safe for concurrent
// use.
type Current struct {
	fixed secret.String
	file  *Value[string]
}

// Fixed returns a secret that does not change.
func Fixed(s secret.String) *Current { return &Current{fixed: s} }

// FromFile returns a secret that follows its file.
func FromFile(v *Value[string]) *Current { return &Current{file: v} }

// Get returns the secret, as Value.Get does. A nil c is not a secret.
func (c *Current) Get() secret.String {
	switch {
	case c == nil:
		return ""
	case c.file == nil:
		return c.fixed
	default:
		return secret.String(c.file.Get())
	}
}

// Latest reads the file, if there is one, and returns the secret: for a connection that is about to
// be made, or after a
// refusal.
func (c *Current) Latest() secret.String {
	if c == nil || c.file == nil {
		return c.Get()
	}
	return secret.String(c.file.Latest())
}

// Follows reports whether the secret comes from a file.
func (c *Current) Follows() bool { return c != nil && c.file != nil }
