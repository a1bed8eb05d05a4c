package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestLoggerLevels(t *testing.T) {
	all := []string{"debug", "info", "warn", "error"}
	for i, level := range all {
		var out bytes.Buffer
		log, err := NewLogger(zapcore.AddSync(&out), level, "console", false)
		require.NoError(t, err)
		log.Debug("said debug")
		log.Info("said info")
		log.Warn("said warn")
		log.Error("said error")
		for j, other := range all {
			require.Equal(t, j >= i, bytes.Contains(out.Bytes(), []byte("said "+other)), "level %s, message %s", level, other)
		}
	}
}

func TestLoggerConsole(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(zapcore.AddSync(&out), "info", "console", false)
	require.NoError(t, err)
	log.With(zap.String("lane", "nats")).Error("publishing failed", zap.Duration("in", 1500*time.Millisecond), zap.Error(errors.New("no route")))
	require.Regexp(t, `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ERROR publishing failed \{"lane": "nats", "in": "1\.5s", "error": "no route"\}\n$`, out.String())
}

func TestLoggerColour(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(zapcore.AddSync(&out), "info", "console", true)
	require.NoError(t, err)
	log.Error("publishing \x1b[2J failed")
	require.Contains(t, out.String(), "\x1b[31mERROR\x1b[0m ")
	require.NotContains(t, out.String(), "\x1b[2J", "what comes from outside has no colours")
}

func TestLoggerNumbersOfAChild(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(zapcore.AddSync(&out), "info", "json", false)
	require.NoError(t, err)
	log.With(zap.Duration("every", time.Minute)).Info("tick")
	require.Contains(t, out.String(), `"every_ms":60000`)
}

// clock stands still.
type clock time.Time

func (c clock) Now() time.Time                       { return time.Time(c) }
func (clock) NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(d) }

func TestLoggerJSON(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(zapcore.AddSync(&out), "info", "json", false)
	require.NoError(t, err)
	log = log.WithOptions(zap.WithClock(clock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)))))
	log.Error("publishing failed", zap.Duration("in", 1500*time.Millisecond), zap.Error(errors.New("a\nb")))
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, map[string]any{"time": "2026-01-02T02:04:05.000Z", "level": "error", "msg": "publishing failed", "in_ms": 1500.0, "error": "a\nb"}, line, "no stack, no caller")
	require.Equal(t, 1, bytes.Count(out.Bytes(), []byte("\n")))
}

func TestLoggerNamesBadValues(t *testing.T) {
	for _, bad := range []string{"", "verbose", "INFO"} {
		_, err := NewLogger(zapcore.AddSync(&bytes.Buffer{}), bad, "json", false)
		require.EqualError(t, err, `log level "`+bad+`" is none of debug, info, warn, error`)
		_, err = NewLogger(zapcore.AddSync(&bytes.Buffer{}), "info", bad, false)
		require.EqualError(t, err, `log format "`+bad+`" is none of console, json`)
	}
}
