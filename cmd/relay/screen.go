package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"workos-relay/internal/printable"
)

// Everything that a command prints goes through a printable.Writer, because it may hold text from
// outside. Control sequences and events go around it.

// beneath returns what out writes to in the end.
func beneath(out io.Writer) io.Writer {
	if w, ok := out.(*printable.Writer); ok {
		return w.Unwrap()
	}
	return out
}

// eventsTo returns the writer for events that go to out: a terminal is shown printable text, and
// anything else gets the bytes of the event.
func eventsTo(out io.Writer) io.Writer {
	if f := file(out); f != nil && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor fits
		return out
	}
	return beneath(out)
}

// file returns the file that out writes to in the end; nil if it is none.
func file(out io.Writer) *os.File {
	out = beneath(out)
	if p, ok := out.(*pipe); ok {
		out = p.out
	}
	f, _ := out.(*os.File)
	return f
}

// isTerminal reports whether out is a terminal that understands control sequences.
func isTerminal(out io.Writer) bool {
	f := file(out)
	return f != nil && term.IsTerminal(int(f.Fd())) && !strings.EqualFold(os.Getenv("TERM"), "dumb") //nolint:gosec // a file descriptor fits
}

// control sends a terminal a control sequence of relay's own.
func control(out io.Writer, sequence string) { fmt.Fprint(beneath(out), sequence) }

// Bounds of the text of an error at the end of a command, in bytes: a configuration may have many
// mistakes, each on its own line.
const (
	longestLine  = 3000
	longestError = 64 << 10
)

// errorText returns the text of an error as a command ends with it: printable, with bounded lines.
func errorText(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if b.Len() > longestError {
			fmt.Fprintf(&b, "... (more lines follow)\n")
			break
		}
		line, found := strings.CutSuffix(line, "\n")
		b.WriteString(printable.Block(line, longestLine))
		if found {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// counted writes a number with its noun: 1 event, 2 events.
func counted(n int, noun string) string { return numbered(n, noun, noun+"s") }

// numbered writes a number with the words for one or for several.
func numbered(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + several
}
