// Package secret keeps passwords, tokens and keys out of logs, errors and pages: the type prints as a placeholder whatever
// verb or encoder meets it.
package secret

const placeholder = "[secret]"

// String is a secret text. Only Reveal gives it away.
type String string

// Reveal returns the secret itself, to be handed to the library that needs it and to nothing else.
func (s String) Reveal() string { return string(s) }

// IsSet reports whether there is one.
func (s String) IsSet() bool { return s != "" }

// String implements fmt.Stringer.
func (s String) String() string {
	if s == "" {
		return ""
	}
	return placeholder
}

// GoString implements fmt.GoStringer, so that %#v does not reveal it either.
func (s String) GoString() string { return s.String() }

// List is several secrets, each as good as any other, such as the old and the new one while they are exchanged.
type List []String

// IsSet reports whether there is one.
func (l List) IsSet() bool { return len(l) > 0 }

// MarshalText implements encoding.TextMarshaler: JSON and YAML show the placeholder.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
