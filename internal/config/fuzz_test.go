package config

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"workos-relay/internal/printable"
)

// FuzzParse checks that Parse gives a configuration or problems for any content of the file and of
// a variable. A problem lies inside of the file. Its text shows no secret, and a terminal can show
// it.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"", "id: a\n", whole, string(relayFormat.Example()), "a: &a [*a]\n", "source: *x\n", "? [a]\n: b\n", "sinks: [{name: a, type: kafka, typ: 3}]",
		"<<: {a: b}", "id: ${A}${B:-c}$$", "{}", "[]", "---\n---\n", "source: &s {api_key: x y, start: *s}\n", "routes: [{}, {events: [], drop: yes}]\n",
		"id: |\n  a\n  b\n", "id: >-\n  folded\n\nadmin:\n  listen: 'x\n\n  y'\n", "\ufeffid: x", "%YAML 1.1\n---\nid: a\n...\n", "id: \"\\u2028\"\r\nidd: b\r",
		"é: 1\n\u2028x: 2\u0085y: 3\n", "source: {api_key_file: /dev/zero}\n",
	} {
		f.Add([]byte(text), "value: {")
	}
	f.Fuzz(func(t *testing.T, text []byte, value string) {
		const secret = "sk_test_hidden_everywhere"
		lookup := func(name string) (string, bool) {
			if name == "WORKOS_API_KEY" {
				return secret, true
			}
			return value, strings.HasPrefix(name, "A")
		}
		c, err := relayFormat.Parse("f", text, lookup)
		if err == nil {
			if c == nil || strings.Contains(sprint(c.Redacted()), secret) && !strings.Contains(string(text), "KEY") {
				t.Fatal("no configuration, or one that shows the secret")
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) || len(e.Problems) == 0 || c != nil {
			t.Fatalf("not an *Error with problems: %T %v", err, err)
		}
		lines := 1 + strings.Count(string(text), "\n") + strings.Count(string(text), "\r") + strings.Count(string(text), "\u0085") +
			strings.Count(string(text), "\u2028") + strings.Count(string(text), "\u2029")
		for _, p := range e.Problems {
			if p.Line < 0 || p.Line > lines || p.Line > 0 && (p.Column < 1 || p.Column > len(text)+1) || p.Message == "" {
				t.Fatalf("a problem outside of the file: %#v", p)
			}
		}
		for _, r := range err.Error() {
			if !printable.Safe(r) && r != '\n' && r != utf8.RuneError {
				t.Fatalf("%q cannot be shown: %q", r, err)
			}
		}
		if strings.Contains(err.Error(), secret) {
			t.Fatalf("the secret is shown: %v", err)
		}
	})
}
