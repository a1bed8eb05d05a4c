package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// TestLoggerCode: warnings and errors that the manual knows have their code, in both formats, for
// any kind of field that holds the reason, and even if the message is too long to be shown whole.
func TestLoggerCode(t *testing.T) {
	t.Parallel()
	const refused = "the Events API answered 401 Unauthorized: bad key; check WORKOS_API_KEY or source.api_key"
	for name, test := range map[string]struct {
		code string
		log  func(*zap.Logger)
	}{
		"an error": {"R1104", func(l *zap.Logger) { l.Warn("reading failed, will try again", zap.Error(errors.New(refused))) }},
		"a text":   {"R1104", func(l *zap.Logger) { l.Error("relay ends", zap.String("error", refused)) }},
		"a child": {"R1104", func(l *zap.Logger) {
			l.With(zap.String("lane", "nats")).Error("relay ends", zap.String("error", refused))
		}},
		"only a headline": {"R1304", func(l *zap.Logger) { l.Warn("publishing failed, will try again", zap.Error(errors.New("no"))) }},
		"a long message": {"R1801", func(l *zap.Logger) {
			l.Warn(strings.Repeat("long ", 1000), zap.Error(errors.New("connection refused")))
		}},
		"a nil error":                 {"R1304", func(l *zap.Logger) { l.Warn("publishing failed, will try again", zap.Error((*nilError)(nil))) }},
		"the code is known":           {"R1999", func(l *zap.Logger) { l.Warn("relay ends", zap.String("code", "R1999"), zap.String("error", refused)) }},
		"nothing that the page knows": {"", func(l *zap.Logger) { l.Warn("hm") }},
		"information":                 {"", func(l *zap.Logger) { l.Info(refused) }},
	} {
		for _, format := range []string{"console", "json"} {
			var out bytes.Buffer
			log, err := NewLogger(zapcore.AddSync(&out), "info", format, false)
			require.NoError(t, err)
			test.log(log)
			require.Equal(t, 1, strings.Count(out.String(), "\n"), name)
			if format == "json" {
				var line struct{ Code string }
				require.NoError(t, json.Unmarshal(out.Bytes(), &line), name)
				require.Equal(t, test.code, line.Code, "%s: %s", name, &out)
				continue
			}
			switch {
			case test.code == "":
				require.NotContains(t, out.String(), "[R", name)
			case name != "the code is known":
				require.Contains(t, out.String(), " ["+test.code+"]", name)
			}
		}
	}
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }
