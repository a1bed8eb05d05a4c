package manual

import (
	"regexp"
	"strings"
	"sync"

	"workos-relay/docs"
)

// Gap stands in a pattern, and in the headings of docs/troubleshoot.md, for what differs from
// message to message.
const Gap = "…"

// Entry is what docs/troubleshoot.md says of one kind of fault.
type Entry struct {
	// Code names the entry, as R1042 does. It never changes and is never used again.
	Code        string
	Area, Title string
	Patterns    []Pattern
	Advice      string // Markdown
}

// Kind tells how much a pattern says of a message that holds it.
type Kind int

// The kinds of patterns. A pattern of a lower kind decides before all those of a higher one.
const (
	// Own are relay's words for one kind of fault.
	Own Kind = iota
	// Outside are words of the operating system, of a server or of a library.
	Outside
	// Envelope are relay's words around a reason, which follows in the message and says more.
	Envelope
)

// Pattern is a part of messages, with gaps.
type Pattern struct {
	Text string
	Kind Kind

	parts []string   // what stands between the gaps, in lower case
	words [][]string // of each part, without marks around them
}

// within reports whether message, which is in lower case, holds the pattern.
func (p *Pattern) within(message string) bool {
	for _, part := range p.parts {
		at := strings.Index(message, part)
		if at < 0 {
			return false
		}
		message = message[at+len(part):]
	}
	return true
}

// Length is how many bytes of a message the pattern itself gives.
func (p *Pattern) Length() int {
	n := 0
	for _, part := range p.parts {
		n += len(part)
	}
	return n
}

// kinds are the words behind a pattern in the list of an entry.
var kinds = map[string]Kind{"": Own, ", from outside": Outside, ", with the reason": Envelope}

func newPattern(text string, kind Kind) Pattern {
	p := Pattern{Text: text, Kind: kind, parts: strings.Split(strings.ToLower(text), Gap)}
	for _, part := range p.parts {
		p.words = append(p.words, wordsOf(part))
	}
	return p
}

var (
	patternLine = regexp.MustCompile("^- `([^`]+)`(, from outside|, with the reason)?$")
	heading     = regexp.MustCompile(`^### (?:(R[0-9]{4}) )?(.*)$`)
)

// Entries are those of docs/troubleshoot.md, in its order.
var Entries = sync.OnceValue(func() []Entry {
	text, err := docs.Pages.ReadFile("troubleshoot.md")
	if err != nil {
		panic(err) // it is embedded
	}
	return parseEntries(string(text))
})

// parseEntries reads the form of the page: ## for an area, ### for an entry with its code, then a
// list of nothing but code, which are its patterns, and its advice.
func parseEntries(text string) []Entry {
	var entries []Entry
	area := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		m, h := patternLine.FindStringSubmatch(line), heading.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "## "):
			area = line[len("## "):]
		case h != nil:
			entries = append(entries, Entry{Area: area, Code: h[1], Title: h[2]})
		case len(entries) == 0:
		case m != nil:
			e := &entries[len(entries)-1]
			e.Patterns = append(e.Patterns, newPattern(m[1], kinds[m[2]]))
		default:
			entries[len(entries)-1].Advice += line + "\n"
		}
	}
	for i := range entries {
		entries[i].Advice = strings.TrimSpace(entries[i].Advice)
	}
	return entries
}

// ByCode returns the entry with a code, in upper or lower case.
func ByCode(code string) (Entry, bool) {
	for _, e := range Entries() {
		if strings.EqualFold(e.Code, code) {
			return e, true
		}
	}
	return Entry{}, false
}
