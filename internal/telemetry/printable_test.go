package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"workos-relay/internal/printable"
)

// named is a value of which only String tells.
type named string

func (n named) String() string { return string(n) }

// TestLoggerIsPrintable logs text that somebody made to harm a terminal, or a reader of lines, in
// every place of a line.
func TestLoggerIsPrintable(t *testing.T) {
	t.Parallel()
	loud := "\x1b[2J\x7f\u009b31m\u202e\u2028\ufeff\xff\U000e0041"
	for _, bad := range []string{loud, strings.Repeat("x", 900_000), strings.Repeat(`"\`, 50_000), strings.Repeat(loud, 1000)} {
		for _, format := range []string{"console", "json"} {
			var out bytes.Buffer
			log, err := NewLogger(zapcore.AddSync(&out), "info", format, false)
			require.NoError(t, err)
			log.Named(loud).With(zap.String("with", bad)).Error(bad, zap.Error(fmt.Errorf("wrapped: %w", errors.New(bad))), zap.Strings("list", []string{bad, bad}),
				zap.Any("any", map[string]any{"a": bad}), zap.Stringer("stringer", named(bad)), zap.ByteString("bytes", []byte(bad)),
				zap.Any("struct", struct{ Text string }{bad}), zap.Error(nil), zap.Int("number", 7))
			require.True(t, utf8.Valid(out.Bytes()))
			require.Equal(t, 1, bytes.Count(out.Bytes(), []byte("\n")))
			for _, r := range strings.TrimSuffix(out.String(), "\n") {
				require.True(t, printable.Safe(r) || r == utf8.RuneError, "%q", r)
			}
			require.Less(t, out.Len(), 4<<10)
			require.Contains(t, out.String(), "number")
			if format == "json" {
				require.NoError(t, json.Unmarshal(out.Bytes(), new(map[string]any)))
			}
		}
	}
}

// TestLoggerKeepsValues logs values of every kind that need nothing done.
func TestLoggerKeepsValues(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := NewLogger(zapcore.AddSync(&out), "info", "json", false)
	require.NoError(t, err)
	log.Info("m", zap.Strings("s", []string{"a", "b"}), zap.Any("n", map[string]any{"x": 1.5, "y": nil}), zap.Bool("b", true), zap.Error(nil),
		zap.Any("struct", struct {
			Name string `json:"name"`
		}{"n"}))
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	delete(line, "time")
	require.Equal(t, map[string]any{
		"level": "info", "msg": "m", "s": []any{"a", "b"}, "n": map[string]any{"x": 1.5, "y": nil}, "b": true, "struct": map[string]any{"name": "n"},
	}, line)
}
