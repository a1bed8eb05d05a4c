// Package doctest reads the commands of the manual, so that tests can run them and compare what
// they print.
package doctest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Marks tells authors of a page how to mark commands.
const Marks = `Put a comment on the line before the fence, so that the commands of the page keep working:
  <!-- test: FIXTURE -->                      run it; it must succeed. FIXTURE is the world around it, see docFixtures
  <!-- test: FIXTURE, exit 1 -->              with another exit code
  <!-- test: FIXTURE, until "some text" -->   run until it has printed that, then press Ctrl-C; it must exit with 0
  <!-- test: walk -->                         run the blocks of the page with this mark one after the other in one directory; also with exit or until
  <!-- test: walk, stays until "some text" --> let it run behind the next ones, and press Ctrl-C after the last
  <!-- test: none: WHY -->                    do not run it
A block ` + "```text" + ` right behind it is what it prints, … standing for what differs. Indented blocks are not looked at, so there are none.`

// Block is a fenced block of a page.
type Block struct {
	Page     string // its file name
	Language string
	Text     string
	Mark     string // what the comment before it says; empty without one
	Line     int
	Output   string // the block of text behind it, which is what it prints; empty without one
}

var (
	fence = regexp.MustCompile("^\\s*```\\s*(\\w*)$")
	mark  = regexp.MustCompile(`^\s*<!-- test: (.*) -->$`)
	list  = regexp.MustCompile(`^\s*([-*]|\d+\.) |^\s{2,}\S`)
)

// Blocks takes a page apart. It fails if a block of code is indented instead of fenced.
func Blocks(t testing.TB, page string) []Block {
	t.Helper()
	text, err := os.ReadFile(page) //nolint:gosec // a page of the manual
	require.NoError(t, err)
	var blocks []Block
	var open *Block
	before, blank, code := "", true, true // the line before; whether it was empty; whether code may be indented here
	behind := false                       // whether only blank lines are between here and the block before
	for i, line := range strings.Split(string(text), "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && open == nil:
			open = &Block{Page: filepath.Base(page), Language: m[1], Line: i + 1}
			if k := mark.FindStringSubmatch(before); k != nil {
				open.Mark = k[1]
			}
		case m != nil:
			if n := len(blocks); open.Language == "text" && n > 0 && behind && open.Mark == "" {
				blocks[n-1].Output = open.Text
			}
			blocks, open, behind = append(blocks, *open), nil, true
		case open != nil:
			open.Text += line + "\n"
		case strings.HasPrefix(line, "    ") && blank && code:
			require.Fail(t, fmt.Sprintf("%s:%d: an indented block", page, i+1), "write ```sh for commands, ```yaml, or ```text. "+Marks)
		}
		if blank = strings.TrimSpace(line) == ""; !blank {
			before = line
			behind = behind && (open != nil || m != nil)
			code = !list.MatchString(line) // within a list, indentation is its own
		} else {
			before = ""
		}
	}
	require.Nil(t, open, "%s: a fence is not closed", page)
	return blocks
}

// Shape returns what a page shows as an expression for Squeeze of what was printed: … stands for
// anything, and white space for any.
func Shape(text string) string {
	parts := strings.Split(Squeeze(text), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(strings.TrimSpace(parts[i]))
	}
	return "(?s)" + strings.Join(parts, ".*")
}

// Squeeze replaces each run of white space by a blank.
func Squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }
