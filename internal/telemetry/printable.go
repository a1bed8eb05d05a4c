package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"workos-relay/internal/printable"
)

// Bounds of a log line, in bytes of its texts with quotes escaped. Names, numbers and the time come
// on top; a stack, which only a fault of relay itself brings, has its own bound.
const (
	maxLogText  = 1000 // of the message and of each field
	maxLogLine  = 2000 // of all of them together; what comes last is cut to leastText
	maxLogWith  = 500  // of the fields that a logger adds to each line
	leastText   = 100
	maxLogStack = 8 << 10
	stackField  = "stack"
)

// printableCore makes every text of a log line printable and bounded before the core that it wraps
// encodes it: texts come from the Events API, from buses and from files.
type printableCore struct{ zapcore.Core }

// With implements zapcore.Core.
func (c printableCore) With(fields []zapcore.Field) zapcore.Core {
	room := maxLogWith
	return printableCore{c.Core.With(printableFields(fields, &room))}
}

// Check implements zapcore.Core.
func (c printableCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write implements zapcore.Core.
func (c printableCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	room := maxLogLine
	e.LoggerName = printable.Clip(e.LoggerName, leastText)
	e.Message = printable.Clip(clipTo(e.Message, &room), maxLogText) // on one line: no encoder escapes a line feed in it
	return c.Core.Write(e, printableFields(fields, &room))
}

// printableFields returns the fields with printable texts. It takes what they need from room.
func printableFields(fields []zapcore.Field, room *int) []zapcore.Field {
	out := make([]zapcore.Field, 0, len(fields))
	for i := range fields {
		out = append(out, printableField(fields[i], room))
	}
	return out
}

func printableField(f zapcore.Field, room *int) zapcore.Field {
	switch f.Type {
	case zapcore.StringType:
		if f.Key == stackField {
			return zap.String(f.Key, printable.Block(f.String, maxLogStack))
		}
		return zap.String(f.Key, clipTo(f.String, room))
	case zapcore.ErrorType, zapcore.StringerType, zapcore.ByteStringType, zapcore.BinaryType, zapcore.ReflectType,
		zapcore.ArrayMarshalerType, zapcore.ObjectMarshalerType, zapcore.InlineMarshalerType:
		m := zapcore.NewMapObjectEncoder()
		f.AddTo(m)
		if v, ok := m.Fields[f.Key]; ok {
			return zap.Any(f.Key, printableValue(v, room))
		}
		return zap.Skip() // an error that is nil
	default: // numbers, times and the like
		return f
	}
}

// printableValue returns a value, as zap's map encoder has it, with printable texts. It shows a
// value of another kind as its text.
func printableValue(v any, room *int) any {
	switch v := v.(type) {
	case string:
		return clipTo(v, room)
	case []byte:
		return clipTo(string(v), room)
	case []any:
		out := []any{}
		for i := range v {
			if *room <= 0 {
				return append(out, fmt.Sprintf("... (%d more)", len(v)-i))
			}
			out = append(out, printableValue(v[i], room))
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for name := range v {
			out[clipTo(name, room)] = printableValue(v[name], room)
		}
		return out
	case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64, nil:
		return v
	case json.Number:
		return v
	default:
		return printableStruct(v, room)
	}
}

// printableStruct shows a value as its JSON, or as its text if it has none.
func printableStruct(v any, room *int) any {
	text, err := json.Marshal(v)
	if err != nil {
		return clipTo(fmt.Sprintf("%+v", v), room)
	}
	var plain any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&plain); err != nil {
		return clipTo(string(text), room)
	}
	return printableValue(plain, room)
}

// clipTo returns s, cut to what there is room for, but not below leastText. Quotes and backslashes
// count twice, as in the line.
func clipTo(s string, room *int) string {
	limit := min(maxLogText, max(*room, leastText))
	s = printable.Block(s, limit)
	if size := escapedSize(s); size > limit {
		s = printable.Block(s, max(leastText/2, limit*len(s)/size))
	}
	*room -= escapedSize(s)
	return s
}

func escapedSize(s string) int {
	return len(s) + strings.Count(s, `"`) + strings.Count(s, `\`) + strings.Count(s, "\n") + strings.Count(s, "\t")
}
