package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/alecthomas/kong"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
)

// logging is how a command logs. Flags and variables of the environment decide; then, for `relay
// run` alone, the configuration; then the defaults.
type logging struct {
	format string // console or json
	level  zap.AtomicLevel

	chosen  config.Log // by flags and variables; empty values are not chosen
	service bool       // `relay run`
}

// chosenLog returns the format and the level that flags or variables of the environment set, as far
// as the command line was understood.
func chosenLog(line *kong.Context) config.Log {
	var out config.Log
	if line == nil {
		return out
	}
	for _, p := range line.Path {
		if p.Flag == nil || !slices.Contains(p.Flag.EnumSlice(), fmt.Sprint(line.FlagValue(p.Flag))) {
			continue
		}
		switch p.Flag.Name {
		case "log-format":
			out.Format = fmt.Sprint(line.FlagValue(p.Flag))
		case "log-level":
			out.Level = fmt.Sprint(line.FlagValue(p.Flag))
		}
	}
	return out
}

// withVariables adds to chosen what variables of the environment set. kong does that too, unless
// the command line has a mistake.
func (env *environment) withVariables(chosen config.Log) config.Log {
	if format, _ := env.lookupEnv(variables["log-format"]); chosen.Format == "" && slices.Contains([]string{"auto", "console", "json"}, format) {
		chosen.Format = format
	}
	if level, _ := env.lookupEnv(variables["log-level"]); chosen.Level == "" && level != "" {
		if _, err := telemetry.LogLevel(level); err == nil {
			chosen.Level = level
		}
	}
	return chosen
}

// newLogging returns how a command logs to out. file is the section of the configuration, which is
// empty if it is not known.
func newLogging(out io.Writer, chosen config.Log, service bool, file config.Log) logging {
	l := logging{chosen: chosen, service: service, level: zap.NewAtomicLevel()}
	l.format = firstOf(chosen.Format, file.Format, "auto")
	if l.format == "auto" {
		l.format = "json"
		if isTerminal(out) {
			l.format = "console"
		}
	}
	l.setLevel(file)
	return l
}

// setLevel applies the section of a configuration and returns the level before and after.
func (l *logging) setLevel(file config.Log) (before, after zapcore.Level) {
	usual := "warn" // a command says what it does on standard output
	if l.service {
		usual = "info"
	}
	before = l.level.Level()
	if level, err := telemetry.LogLevel(firstOf(l.chosen.Level, file.Level, usual)); err == nil {
		l.level.SetLevel(level)
	}
	return before, l.level.Level()
}

// tellsJSON reports whether a fatal error is an entry of the log. Commands other than `relay run`
// tell it in words, unless JSON was asked for: people read pipes, too.
func (l *logging) tellsJSON() bool {
	return l.format == "json" && (l.service || l.chosen.Format == "json")
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// startLog makes the logger of the command.
func (env *environment) startLog(chosen config.Log, service bool, file config.Log) error {
	env.logging = newLogging(env.stderr, chosen, service, file)
	log, err := env.newLogger(env.stderr, env.logging.level)
	if err != nil {
		return err
	}
	env.log = log
	return nil
}

// newLogger returns a logger in the format of the command, which writes to out.
func (env *environment) newLogger(out io.Writer, level zap.AtomicLevel) (*zap.Logger, error) {
	return env.newLoggerAs(out, env.logging.format, level)
}

func (env *environment) newLoggerAs(out io.Writer, format string, level zap.AtomicLevel) (*zap.Logger, error) {
	plain, set := env.lookupEnv("NO_COLOR")
	colour := isTerminal(env.stderr) && (!set || plain == "") && runtime.GOOS != "windows"
	if colour { // the logger makes texts printable itself
		out = beneath(out)
	}
	return telemetry.NewLoggerAt(zapcore.AddSync(out), level, format, colour)
}

// applyLog applies the level of a configuration that a reload has brought, and says so if anything
// changes. It writes its line at the less important of the two levels, so that it is seen.
func (env *environment) applyLog(file config.Log) {
	before, level := env.logging.level.Level(), env.logging.level
	wanted := newLogging(env.stderr, env.logging.chosen, env.logging.service, file).level.Level()
	tell := func() {
		env.log.Info("the log level has changed", zap.Stringer("from", before), zap.Stringer("to", wanted))
	}
	switch {
	case wanted < before: // it writes more from now on
		level.SetLevel(wanted)
		tell()
	case wanted > before:
		tell()
		level.SetLevel(wanted)
	case env.logging.chosen.Level != "" && file.Level != env.logging.chosen.Level:
		env.log.Info("log.level has no effect: --log-level or RELAY_LOG_LEVEL goes before it",
			zap.String("log.level", file.Level), zap.Stringer("level", before))
	}
}

// logOf returns the section of the configuration in which err found mistakes, as far as it is
// right.
func logOf(err error) config.Log {
	if mistakes, ok := errors.AsType[*config.Error](err); ok {
		return mistakes.Log
	}
	return config.Log{}
}
