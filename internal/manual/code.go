package manual

import (
	"regexp"
	"strings"
	"sync"
)

// Code returns the code of the entry of docs/troubleshoot.md that says the most about a message,
// which may come in parts: a headline, an error, an action. It is empty if the page says nothing
// about it. The same message always has the same code. It is safe for concurrent use.
//
// Relay's own words for a fault decide before words from outside, those before words around a
// reason, and within a kind the longest pattern decides. What stands in double quotes came from
// elsewhere, so it counts only if nothing else of the message is known.
func Code(parts ...string) string {
	text := strings.Join(parts, ": ")
	return codes.of(text, func() string {
		text := lower(text)
		best := strongest(quoted.ReplaceAllString(text, `""`))
		if best.entry == nil || best.kind != Own {
			if whole := strongest(text); best.entry == nil || whole.kind < best.kind {
				best = whole
			}
		}
		if best.entry == nil {
			return ""
		}
		return best.entry.Code
	})
}

// Mark returns text followed by a code in brackets, as people read it. It returns text if the code
// is empty or stands in it already.
func Mark(text, code string) string {
	if code == "" || strings.Contains(text, "["+code+"]") {
		return text
	}
	return text + " [" + code + "]"
}

// MarkLines returns the text of an error with the code of each line behind it, since the mistakes
// of a configuration come one on each line. If no line has relay's own words for a fault, the
// first one has the code of the whole text. A line that ends with a command, which somebody will
// copy, has its code in front.
//
// A text in which a code stands already, such as that of each lane, is left as it is.
func MarkLines(text string) string {
	if markOf.MatchString(text) {
		return text
	}
	lines := strings.Split(text, "\n")
	marked := false
	for i, line := range lines {
		if code := Code(line); code != "" && (len(lines) == 1 || owns(line)) {
			lines[i], marked = markLine(line, code), true
		}
	}
	if !marked {
		lines[0] = markLine(lines[0], Code(text))
	}
	return strings.Join(lines, "\n")
}

// markOf is a code as Mark writes it.
var markOf = regexp.MustCompile(`\[R[0-9]{4}\]`)

// command is one of relay at the end of a line, outside of backticks.
var command = regexp.MustCompile("(?:^|: )relay [a-z]+( [^`]*)?$")

func markLine(line, code string) string {
	if code != "" && command.MatchString(line) {
		return "[" + code + "] " + line
	}
	return Mark(line, code)
}

// owns reports whether a text has relay's own words for a fault.
func owns(text string) bool {
	found := strongest(lower(text))
	return found.entry != nil && found.kind == Own
}

// quoted is what stands in double quotes.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// longestText bounds the text that is looked at, in bytes.
const longestText = 64 << 10

// lower returns a text in lower case and on one line.
func lower(text string) string {
	return strings.Join(strings.Fields(strings.ToLower(text[:min(len(text), longestText)])), " ")
}

// match is how an entry recognises a message.
type match struct {
	entry  *Entry
	kind   Kind
	length int // of what it recognises, in bytes
}

// better reports whether m says more about a message than other.
func (m *match) better(other *match) bool {
	switch {
	case m.entry == nil || other.entry == nil:
		return m.entry != nil
	case m.kind != other.kind:
		return m.kind < other.kind
	default:
		return m.length > other.length
	}
}

// of returns how e recognises a message in lower case; without an entry if it does not.
func (e *Entry) of(message string) match {
	var best match
	for i := range e.Patterns {
		p := &e.Patterns[i]
		if m := (match{e, p.Kind, p.Length()}); m.better(&best) && p.within(message) {
			best = m
		}
	}
	return best
}

// strongest returns how the page recognises a message in lower case; without an entry if it does
// not.
func strongest(message string) match {
	var best match
	entries := Entries()
	for i := range entries {
		if m := entries[i].of(message); m.better(&best) {
			best = m
		}
	}
	return best
}

// memory remembers the codes of texts that come again and again, such as the reason of a lane that
// a page shows each second.
type memory struct {
	mu    sync.Mutex
	known map[string]string // under mu
}

// maxKnown bounds how many texts are remembered, and longestKnown how long they are.
const (
	maxKnown     = 128
	longestKnown = 4 << 10
)

var codes memory

func (m *memory) of(text string, find func() string) string {
	m.mu.Lock()
	code, ok := m.known[text]
	m.mu.Unlock()
	if ok {
		return code
	}
	code = find()
	if len(text) > longestKnown {
		return code
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxKnown {
		m.known = make(map[string]string, maxKnown)
	}
	m.known[strings.Clone(text)] = code
	return code
}
