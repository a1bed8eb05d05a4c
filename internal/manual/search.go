package manual

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// Explain returns the entries of docs/troubleshoot.md that say something about a text, the best
// first. The text is what somebody found and pasted: a code, a line of the log in either format
// with what came before it, several lines, a part of a sentence, words of the operating system.
// Codes in it decide alone.
func Explain(text string) []Entry {
	if found := byCodes(text); len(found) > 0 {
		return found
	}
	forms := spellings(text)
	if !slices.ContainsFunc(forms, func(form *pasted) bool { return len(form.telling) > 0 }) {
		return nil
	}
	entries := Entries()
	finds := make([]find, 0, len(entries))
	known := Code(fields(text)...) // as the log itself would have it
	for i := range entries {
		best := find{}
		for _, form := range forms {
			if f := lookUp(&entries[i], form); f.before(&best) {
				best = f
			}
		}
		if best.entry == nil {
			continue
		}
		if best.entry.Code == known && best.how == whole {
			best.length += longestText
		}
		finds = append(finds, best)
	}
	slices.SortStableFunc(finds, func(a, b find) int {
		switch {
		case a.before(&b):
			return -1
		case b.before(&a):
			return 1
		default:
			return 0
		}
	})
	out := make([]Entry, len(finds))
	for i := range finds {
		out[i] = *finds[i].entry
	}
	return out
}

// how is what of an entry a text has, the best first.
type how int

const (
	whole    how = iota // a pattern of relay's own words, or a text that is a part of one
	most                // most words of one in a row, or a pattern of words from outside
	some                // a few words of a pattern in a row
	envelope            // a pattern of words around a reason
	words               // the same words in another order
)

// ranks are what a pattern of each kind is worth.
var ranks = []how{Own: whole, Outside: most, Envelope: envelope}

// find is an entry that says something about a text.
type find struct {
	entry  *Entry
	how    how
	length int // of what both have, in bytes
}

// before reports whether f is to be read before other.
func (f *find) before(other *find) bool {
	switch {
	case f.entry == nil || other.entry == nil:
		return f.entry != nil && other.entry == nil
	case f.how != other.how:
		return f.how < other.how
	default:
		return f.length > other.length
	}
}

var (
	onlyCode  = regexp.MustCompile(`^(?i:\[?(R[0-9]{4})\]?)$`)
	codeWords = regexp.MustCompile(`(?:^|[^\w.-])(R[0-9]{4})(?:$|[^\w.-])`)
)

// byCodes returns the entries whose codes stand in text, in their order there.
func byCodes(text string) []Entry {
	var names []string
	if m := onlyCode.FindStringSubmatch(strings.TrimSpace(text)); m != nil {
		names = append(names, m[1])
	}
	for _, m := range codeWords.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	var found []Entry
	for _, name := range names {
		e, ok := ByCode(name)
		if ok && !slices.ContainsFunc(found, func(f Entry) bool { return f.Code == e.Code }) {
			found = append(found, e)
		}
	}
	return found
}

// IsCode reports whether text is nothing but a code, whether or not an entry has it.
func IsCode(text string) bool { return onlyCode.MatchString(strings.TrimSpace(text)) }

var (
	colours   = regexp.MustCompile(`(?:\x1b|\^\[|\\u001b|\\x1b)\[[0-9;]*[A-Za-z]`)
	unescape  = strings.NewReplacer(`\"`, `"`, `\n`, " ", `\r`, " ", `\t`, " ", `\\`, `\`, `\u0026`, "&", `\u003c`, "<", `\u003e`, ">")
	plainMark = strings.NewReplacer("“", `"`, "”", `"`, "‘", "'", "’", "'", "…", "...", "\u00a0", " ", "`", "")
	lineStart = regexp.MustCompile(`(?m)^[ \t>|│]+`)
)

// spellings returns the forms of a pasted text in which the words of the page may be found, in
// lower case: as it is, and joined, in case a terminal has broken it within a word.
func spellings(text string) []*pasted {
	text = colours.ReplaceAllString(text[:min(len(text), longestPaste)], "")
	text = lineStart.ReplaceAllString(plainMark.Replace(text), "")
	forms := []string{lower(text), lower(unescape.Replace(text)), lower(unescape.Replace(strings.ReplaceAll(text, "\n", "")))}
	slices.Sort(forms)
	forms = slices.Compact(forms)
	var out []*pasted
	for _, form := range forms {
		if len(form) >= shortestText {
			out = append(out, newPasted(form))
		}
	}
	return out
}

// pasted is one form of a text that is looked up.
type pasted struct {
	text    string           // in lower case, on one line
	words   []string         // of it, without marks around them
	at      map[string][]int // the places of each word in words
	telling []string         // the words that tell something
}

func newPasted(text string) *pasted {
	p := &pasted{text: text, words: wordsOf(text), at: map[string][]int{}}
	for i, word := range p.words {
		p.at[word] = append(p.at[word], i)
		if len(word) >= shortestText && !slices.Contains(common, word) {
			p.telling = append(p.telling, word)
		}
	}
	return p
}

// wordsOf returns the words of a text, without marks around them.
func wordsOf(text string) []string {
	words := strings.Fields(text)
	for i, word := range words {
		words[i] = strings.Trim(word, around)
	}
	return words
}

const (
	// shortestText is how long a text must be, in bytes, so that anything is looked up.
	shortestText = 3
	// longestPaste bounds how much of a text is looked up, in bytes.
	longestPaste = 16 << 10
)

// fields returns the texts of a log line that are relay's, if text is one: those of the JSON object
// in it and, of the console, what stands before that.
func fields(text string) []string {
	start := strings.Index(text, "{")
	if start < 0 {
		return []string{text}
	}
	var line map[string]any
	if json.NewDecoder(strings.NewReader(text[start:])).Decode(&line) != nil {
		return []string{text}
	}
	parts := []string{}
	if _, isJSON := line["msg"]; !isJSON {
		parts = append(parts, text[:start])
	}
	for _, name := range []string{"msg", "error", "health_reason", "reason", "action"} {
		if s, ok := line[name].(string); ok && s != "" {
			parts = append(parts, s)
		}
	}
	return parts
}

// lookUp returns how e answers to a text.
func lookUp(e *Entry, asked *pasted) find {
	text := asked.text
	best := find{}
	consider := func(h how, length int) {
		if f := (find{e, h, length}); f.before(&best) {
			best = f
		}
	}
	if m := e.of(text); m.entry != nil {
		consider(ranks[m.kind], m.length)
	}
	for i := range e.Patterns {
		p := &e.Patterns[i]
		for _, part := range p.parts {
			if inWords(part, text) {
				consider(ranks[p.Kind], len(text))
			}
		}
		if n, length := longestRun(p, asked); n >= fewestInARow && length >= shortestRun {
			if p.Kind == Own && 2*n > len(slices.Concat(p.words...)) {
				consider(most, length)
			} else if p.Kind != Envelope {
				consider(some, length)
			}
		}
	}
	if inWords(strings.ToLower(e.Title), text) {
		consider(whole, len(text))
	}
	if best.entry == nil && hasWords(e, asked.telling) {
		consider(words, len(text))
	}
	return best
}

// Bounds of a part of a pattern that a text has in common with it.
const (
	fewestInARow = 3  // words
	shortestRun  = 12 // bytes
)

// inWords reports whether text stands in whole at the beginning of a word.
func inWords(whole, text string) bool {
	for from := 0; ; {
		at := strings.Index(whole[from:], text)
		if at < 0 {
			return false
		}
		at += from
		end := at + len(text)
		if (at == 0 || !isWord(whole[at-1]) || !isWord(text[0])) &&
			(len(text) > 2*shortestText || end == len(whole) || !isWord(whole[end])) {
			return true
		}
		from = at + 1
	}
}

func isWord(c byte) bool { return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }

// longestRun returns how many words in a row a pattern and a text have in common, and their length
// in bytes.
func longestRun(p *Pattern, asked *pasted) (most, length int) {
	for _, have := range p.words {
		for i := range have {
			for _, j := range asked.at[have[i]] {
				n, size := 0, 0
				for i+n < len(have) && j+n < len(asked.words) && have[i+n] == asked.words[j+n] {
					size += len(have[i+n]) + 1
					n++
				}
				if n > most || n == most && size > length {
					most, length = n, size
				}
			}
		}
	}
	return most, length
}

// around are marks that may stand around a word.
const around = `.,:;!?()[]{}"'`

// common are words that tell nothing.
var common = strings.Fields("a an and are as at be been but by can cannot do does for from go had has have how i if in is it its my no not of on or our " +
	"relay so that the then there this to was well were what when where which why will with you your all any")

// hasWords reports whether title and patterns of e have every word of asked.
func hasWords(e *Entry, asked []string) bool {
	var text strings.Builder
	text.WriteString(" " + strings.ToLower(e.Title))
	for i := range e.Patterns {
		for _, part := range e.Patterns[i].parts {
			text.WriteString(" " + part)
		}
	}
	for _, word := range asked {
		if !inWords(text.String(), word) {
			return false
		}
	}
	return len(asked) > 0 && len(asked) <= mostAsked
}

// mostAsked is how many words are looked up one by one.
const mostAsked = 12
