package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/config"
)

// TestAReloadChangesTheLevel: it says so at a level that is written, and a flag or a variable goes
// before it.
func TestAReloadChangesTheLevel(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	env := &environment{stderr: &out, lookupEnv: func(string) (string, bool) { return "", false }}
	logs := func(f func()) string {
		out.Reset()
		f()
		return out.String()
	}
	require.NoError(t, env.startLog(config.Log{}, true, config.Log{Format: "json", Level: "info"}))
	says := logs(func() { env.applyLog(config.Log{Level: "error"}) })
	require.Contains(t, says, `"msg":"the log level has changed","from":"info","to":"error"`)
	require.Empty(t, logs(func() { env.log.Warn("a warning") }))
	says = logs(func() { env.applyLog(config.Log{Level: "debug"}) })
	require.Contains(t, says, `"from":"error","to":"debug"`)
	require.NotEmpty(t, logs(func() { env.log.Debug("detail") }))
	require.Empty(t, logs(func() { env.applyLog(config.Log{Level: "debug"}) }))

	require.NoError(t, env.startLog(config.Log{Level: "info"}, true, config.Log{Level: "info"}))
	says = logs(func() { env.applyLog(config.Log{Level: "debug"}) })
	require.Contains(t, says, "log.level has no effect")
	require.Empty(t, logs(func() { env.log.Debug("detail") }))
	require.Equal(t, 1, strings.Count(says, "\n"))
}
