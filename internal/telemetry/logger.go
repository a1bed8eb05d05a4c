package telemetry

import (
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns a logger that writes to w, which need not be safe for concurrent use. level is
// debug, info, warn or error. format is console, for people and with colour if asked for, or json:
// one object per line, with times in RFC 3339 and UTC, and durations in milliseconds. It writes no
// stack traces and samples nothing. It makes texts printable and bounds them, so that a line has
// about 4 KB at most. A warning or an error that docs/troubleshoot.md knows has its code: in
// brackets behind the message, or in json as the field code. The error names the value at fault and
// what it may be.
func NewLogger(w zapcore.WriteSyncer, level, format string, colour bool) (*zap.Logger, error) {
	minimum, err := LogLevel(level)
	if err != nil {
		return nil, err
	}
	return NewLoggerAt(w, zap.NewAtomicLevelAt(minimum), format, colour)
}

// LogLevel returns the level with that name: debug, info, warn or error. The error names the value
// and the levels.
func LogLevel(name string) (zapcore.Level, error) {
	level, ok := map[string]zapcore.Level{
		"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "warn": zapcore.WarnLevel, "error": zapcore.ErrorLevel,
	}[name]
	if !ok {
		return 0, fmt.Errorf("log level %q is none of debug, info, warn, error", name)
	}
	return level, nil
}

// NewLoggerAt is NewLogger with a level that the caller may change while the logger is used.
func NewLoggerAt(w zapcore.WriteSyncer, level zap.AtomicLevel, format string, colour bool) (*zap.Logger, error) {
	c := zapcore.EncoderConfig{
		MessageKey: "msg", LevelKey: "level", TimeKey: "time", NameKey: "logger",
		EncodeDuration: zapcore.StringDurationEncoder, EncodeName: zapcore.FullNameEncoder,
	}
	var encoder zapcore.Encoder
	switch format {
	case "console":
		c.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02 15:04:05.000")
		c.EncodeLevel = zapcore.CapitalLevelEncoder
		if colour {
			c.EncodeLevel = zapcore.CapitalColorLevelEncoder
		}
		c.ConsoleSeparator = " "
		encoder = zapcore.NewConsoleEncoder(c)
	case "json":
		c.EncodeTime = encodeUTC
		c.EncodeLevel = zapcore.LowercaseLevelEncoder
		encoder = zapcore.NewJSONEncoder(c)
	default:
		return nil, fmt.Errorf("log format %q is none of console, json", format)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(w), level)
	if format == "json" {
		core = numberCore{core}
	}
	return zap.New(codeCore{printableCore{core}, format == "console"}), nil
}

// numberCore writes durations as a program wants them: in milliseconds, with the unit in the key.
type numberCore struct{ zapcore.Core }

// With implements zapcore.Core.
func (c numberCore) With(fields []zapcore.Field) zapcore.Core {
	return numberCore{c.Core.With(inMilliseconds(fields))}
}

// Check implements zapcore.Core.
func (c numberCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write implements zapcore.Core.
func (c numberCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	return c.Core.Write(e, inMilliseconds(fields))
}

func inMilliseconds(fields []zapcore.Field) []zapcore.Field {
	out := make([]zapcore.Field, len(fields))
	for i, f := range fields {
		if f.Type == zapcore.DurationType {
			f.Key, f.Type, f.Integer = f.Key+"_ms", zapcore.Int64Type, time.Duration(f.Integer).Milliseconds()
		}
		out[i] = f
	}
	return out
}

// encodeUTC writes RFC 3339 with milliseconds always, so that lines sort as text.
func encodeUTC(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}
