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
	Area, Title string
	Patterns    []Pattern
	Advice      string // Markdown
}

// Pattern is a part of messages, with gaps.
type Pattern struct {
	Text string
	re   *regexp.Regexp
}

// Matches reports whether message holds the pattern, in upper or lower case.
func (p *Pattern) Matches(message string) bool { return p.re.MatchString(message) }

// Length is how many characters of a message the pattern itself gives.
func (p *Pattern) Length() int { return len(strings.ReplaceAll(p.Text, Gap, "")) }

func newPattern(text string) Pattern {
	var re strings.Builder
	re.WriteString("(?is)")
	for i, part := range strings.Split(text, Gap) {
		if i > 0 {
			re.WriteString(".*")
		}
		re.WriteString(regexp.QuoteMeta(part))
	}
	return Pattern{Text: text, re: regexp.MustCompile(re.String())}
}

var patternLine = regexp.MustCompile("^- `([^`]+)`$")

// Entries are those of docs/troubleshoot.md, in its order.
var Entries = sync.OnceValue(func() []Entry {
	text, err := docs.Pages.ReadFile("troubleshoot.md")
	if err != nil {
		panic(err) // it is embedded
	}
	return parseEntries(string(text))
})

// parseEntries reads the form of the page: ## for an area, ### for an entry, then a list of nothing
// but code, which are its patterns, and its advice.
func parseEntries(text string) []Entry {
	var entries []Entry
	area := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch m := patternLine.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "## "):
			area = line[len("## "):]
		case strings.HasPrefix(line, "### "):
			entries = append(entries, Entry{Area: area, Title: line[len("### "):]})
		case len(entries) == 0:
		case m != nil:
			e := &entries[len(entries)-1]
			e.Patterns = append(e.Patterns, newPattern(m[1]))
		default:
			entries[len(entries)-1].Advice += line + "\n"
		}
	}
	for i := range entries {
		entries[i].Advice = strings.TrimSpace(entries[i].Advice)
	}
	return entries
}

// Explain returns the entries that say something of a message, those first that recognise the most
// of it.
func Explain(message string) []Entry {
	message = strings.Join(strings.Fields(message), " ")
	var found []Entry
	var lengths []int
	for _, e := range Entries() {
		longest := 0
		for i := range e.Patterns {
			if p := &e.Patterns[i]; p.Matches(message) {
				longest = max(longest, p.Length())
			}
		}
		if longest == 0 {
			continue
		}
		at := len(found)
		for at > 0 && lengths[at-1] < longest {
			at--
		}
		found = append(found[:at:at], append([]Entry{e}, found[at:]...)...)
		lengths = append(lengths[:at:at], append([]int{longest}, lengths[at:]...)...)
	}
	return found
}
