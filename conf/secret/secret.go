// Package secret keeps passwords, tokens and keys out of logs, errors and pages. A String prints as
// a placeholder for every verb and encoder. The one exception is %p, which fmt does not
// pass to the type, and which go vet rejects for a string.
package secret

import (
	"fmt"
	"io"
)

const placeholder = "[secret]"

// String is a secret text. Only Reveal gives it away.
type String string

// Reveal returns the secret itself, to be handed to the library that needs it and to nothing else.
func (s String) Reveal() string { return string(s) }

// IsSet reports whether there is one.
func (s String) IsSet() bool { return s != "" }

// String implements fmt.Stringer.
//
// P14: code that prints a secret by accident prints this.
func (s String) String() string {
	if s == "" {
		return ""
	}
	return placeholder
}

// GoString implements fmt.GoStringer. Format already covers %#v; some encoders call GoString by
// itself.
func (s String) GoString() string { return s.String() }

// Format implements fmt.Formatter. Without it fmt would print the text itself for a verb that does
// not suit a string, such as %d.
func (s String) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' {
		text = fmt.Sprintf("%q", text)
	}
	_, _ = io.WriteString(f, text) // fmt sees to the errors of its writer
}

// List is several secrets, each as good as any other, such as the old and the new one while they
// are exchanged.
type List []String

// IsSet reports whether there is one.
func (l List) IsSet() bool { return len(l) > 0 }

// MarshalText implements encoding.TextMarshaler: JSON and YAML show the placeholder.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
