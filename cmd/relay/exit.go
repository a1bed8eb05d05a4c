package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
	"go.uber.org/zap"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/hint"
	"workos-relay/internal/manual"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
)

// The exit codes of relay.
const (
	exitDone     = 0
	exitFailed   = 1 // trying again may help
	exitUsage    = 2 // a wrong flag, argument or configuration
	exitOperator = 3 // operator action required: nothing is lost, and a restart does not help
)

// exitCode returns the exit code of a command that failed with err.
func exitCode(err error) int {
	var usage *app.UsageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	// P4: the exit code asks for an operator if and only if status, readiness and page do.
	case operator.Required(err):
		return exitOperator
	default:
		return exitFailed
	}
}

// tellEnd says why a command has failed: in words, or by entries of the log if the command logs
// JSON, so that every line can be parsed. There is an entry for each lane that has stopped, and for
// each mistake in a configuration.
func (env *environment) tellEnd(err error) {
	code := zap.Int("exit_code", exitCode(err))
	if !env.logging.tellsJSON() {
		fmt.Fprintf(env.stderr, "relay: %s\n", errorText(commandsApart(manual.MarkLines(hint.Text("", err)))))
		return
	}
	if mistakes, ok := errors.AsType[*config.Error](err); ok {
		for _, p := range mistakes.Problems {
			env.log.Error("relay ends: the configuration has a mistake", zap.String("file", p.File), zap.Int("line", p.Line),
				zap.String("key", p.Key), zap.String("error", p.String()), code)
		}
		return
	}
	lanes, others := byLane(err)
	for _, e := range lanes {
		env.log.Error("relay ends: a lane has stopped", zap.String("lane", e.Lane), zap.String("error", hint.Text(e.Lane, e.Err)), code)
	}
	for _, e := range others {
		env.log.Error("relay ends", zap.String("error", hint.Text("", e)), code)
	}
}

// tellMistake says what is wrong with a command line: in words, or by an entry of the log if the
// command logs JSON.
func (env *environment) tellMistake(err error) {
	var line *kong.Context
	at := (*kong.ParseError)(nil)
	if errors.As(err, &at) {
		line = at.Context
	}
	command, service := "relay", false
	if line != nil && line.Selected() != nil {
		command, service = line.Selected().FullPath(), isService(line.Selected())
	}
	text := mistake(err.Error(), line)
	if env.startLog(env.withVariables(chosenLog(line)), service, config.Log{}) == nil && env.logging.tellsJSON() {
		env.log.Error("relay ends: the command line has a mistake", zap.String("error", text),
			zap.String("try", command+" --help"), zap.Int("exit_code", exitUsage))
		return
	}
	fmt.Fprintf(env.stderr, "relay: %s\nTry: %s --help\n", errorText(manual.MarkLines(text)), command)
}

// missingArguments is how kong says that arguments are missing, with their names.
var missingArguments = regexp.MustCompile(`(?:missing positional arguments|expected) "?((?:<[a-z-]+>(?: \.\.\.)? ?)+)`)

// mistake returns the text of an error of kong about a command line. If arguments are missing, it
// says so in relay's words, with what the command takes.
func mistake(text string, line *kong.Context) string {
	found := missingArguments.FindStringSubmatch(text)
	if found == nil || line == nil || line.Selected() == nil {
		return text
	}
	node := line.Selected()
	return fmt.Sprintf("an argument is missing: %s; write `%s %s`", strings.TrimSpace(found[1]), line.Model.Name, node.Summary())
}

// isService reports whether a command runs until it is stopped, under a supervisor that keeps its
// log.
func isService(command *kong.Node) bool { return command != nil && command.Name == "run" }

// commandsApart puts each of several commands that a message offers on a separate line.
func commandsApart(text string) string {
	const command = "; `relay "
	if strings.Count(text, command) < 2 {
		return text
	}
	return strings.ReplaceAll(text, command, "\n  `relay ")
}

// byLane returns the reason of each lane in the tree of err, and what is about none.
func byLane(err error) (lanes []*pipeline.LaneError, others []error) {
	switch e := err.(type) { //nolint:errorlint // the tree is walked here
	case *pipeline.LaneError:
		return []*pipeline.LaneError{e}, nil
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			l, o := byLane(e)
			lanes, others = append(lanes, l...), append(others, o...)
		}
		return lanes, others
	default:
		return nil, []error{err}
	}
}
