package telemetry

import (
	"fmt"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// NewLogger returns a logger that writes to w, which need not be safe for concurrent use. level is
// debug, info, warn or error; format is console, for people, or json, one object a line with times
// in RFC 3339 and UTC. There are no stack traces, and nothing is sampled. Texts are made printable
// and bounded, so that a line has about 4 KB at most, for text of any origin. The error names the
// value at fault and what it may be.
func NewLogger(w zapcore.WriteSyncer, level, format string) (*zap.Logger, error) {
	minimum, ok := map[string]zapcore.Level{
		"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "warn": zapcore.WarnLevel, "error": zapcore.ErrorLevel,
	}[level]
	if !ok {
		return nil, fmt.Errorf("log level %q is none of debug, info, warn, error", level)
	}
	c := zapcore.EncoderConfig{
		MessageKey: "msg", LevelKey: "level", TimeKey: "time", NameKey: "logger",
		EncodeDuration: zapcore.StringDurationEncoder, EncodeName: zapcore.FullNameEncoder,
	}
	var encoder zapcore.Encoder
	switch format {
	case "console":
		c.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		c.EncodeLevel = zapcore.CapitalLevelEncoder
		c.ConsoleSeparator = " "
		encoder = zapcore.NewConsoleEncoder(c)
	case "json":
		c.EncodeTime = encodeUTC
		c.EncodeLevel = zapcore.LowercaseLevelEncoder
		encoder = zapcore.NewJSONEncoder(c)
	default:
		return nil, fmt.Errorf("log format %q is none of console, json", format)
	}
	return zap.New(printableCore{zapcore.NewCore(encoder, zapcore.Lock(w), minimum)}), nil
}

// encodeUTC writes RFC 3339 with milliseconds always, so that lines sort as text.
func encodeUTC(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}
