package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"workos-relay/internal/printable"
)

// Problem is one mistake in a configuration.
type Problem struct {
	File         string // as it was given to Load; empty if there is no file
	Line, Column int    // from 1, of the key or value at fault or of the section that lacks it; 0 if no place in the file is at fault
	Key          string // dotted path, such as sinks[0].url; empty if the whole file is at fault
	Message      string // what is wrong; never shows a secret or what a variable of the environment holds
	Hint         string // what to do about it; may be empty
}

// String prints the problem on one line: "config.yaml:12:5: sinks[0].typ: unknown key; did you mean
// "type"?".
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
		if p.Line > 0 {
			fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
		}
		b.WriteByte(' ')
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return oneLine(b.String())
}

// maxProblem bounds the line of a problem, in bytes.
const maxProblem = 2000

var lineBreaks = strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`)

// oneLine escapes what would break the line or control a terminal, such as a key with a line break
// in it, and bounds it.
func oneLine(text string) string { return printable.Block(lineBreaks.Replace(text), maxProblem) }

// Error is every mistake that was found in a configuration, in the order of the file.
type Error struct {
	Problems []Problem
	Log      Log // how to log the mistakes: the values that are right; others are empty
}

// Error implements error: one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (e *Error) sort() {
	slices.SortStableFunc(e.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
