package main

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/sink/stdout"
)

func TestMemoryLimitGivesWayToTheEnvironment(t *testing.T) {
	cfg := &config.Config{}
	for range 100 { // a limit that this process is far from
		cfg.Sinks = append(cfg.Sinks, config.Sink{Settings: &stdout.Config{}})
	}
	before := debug.SetMemoryLimit(-1)
	env := &environment{lookupEnv: func(name string) (string, bool) { return "off", name == "GOMEMLIMIT" }}
	env.limitMemory(cfg)()
	require.Equal(t, before, debug.SetMemoryLimit(-1))

	env.lookupEnv = func(string) (string, bool) { return "", false }
	undo := env.limitMemory(cfg)
	require.Equal(t, app.MemoryLimit(cfg), debug.SetMemoryLimit(-1))
	undo()
	require.Equal(t, before, debug.SetMemoryLimit(math.MaxInt64))
	debug.SetMemoryLimit(before)
}
