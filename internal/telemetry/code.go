package telemetry

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"workos-relay/internal/manual"
	"workos-relay/internal/printable"
)

// codeCore adds the code of docs/troubleshoot.md to each warning and error that the page knows.
type codeCore struct {
	zapcore.Core

	console bool // behind the message, instead of as a field
}

// codeField is the name of the field with the code, and reasonFields are those whose texts say what
// a line is about, besides its message.
const codeField = "code"

var reasonFields = map[string]bool{"error": true, "reason": true, "setting": true}

// With implements zapcore.Core.
func (c codeCore) With(fields []zapcore.Field) zapcore.Core {
	return codeCore{c.Core.With(fields), c.console}
}

// Check implements zapcore.Core.
func (c codeCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write implements zapcore.Core.
func (c codeCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level < zapcore.WarnLevel {
		return c.Core.Write(e, fields)
	}
	parts := []string{e.Message}
	for i := range fields {
		f := &fields[i]
		switch {
		case f.Key == codeField:
			return c.Core.Write(e, fields)
		case !reasonFields[f.Key]:
		case f.Type == zapcore.StringType:
			parts = append(parts, f.String)
		case f.Type == zapcore.ErrorType:
			m := zapcore.NewMapObjectEncoder() // an error that is a nil pointer does not panic there
			f.AddTo(m)
			if text, ok := m.Fields[f.Key].(string); ok {
				parts = append(parts, text)
			}
		}
	}
	code := manual.Code(parts...)
	switch {
	case code == "":
	case c.console: // in front of what the message may have too much
		e.Message = manual.Mark(printable.Clip(e.Message, maxLogText-len(" [R0000]")-len("…")), code)
	default:
		fields = append(fields[:len(fields):len(fields)], zap.String(codeField, code))
	}
	return c.Core.Write(e, fields)
}
