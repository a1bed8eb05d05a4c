package main

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/config"
)

func TestMemoryLimitGivesWayToTheEnvironment(t *testing.T) {
	cfg := &config.Config{Sinks: make([]config.Sink, 100)} // a limit that this process is far from
	before := debug.SetMemoryLimit(-1)
	a := &app{env: func(name string) (string, bool) { return "off", name == "GOMEMLIMIT" }}
	a.limitMemory(cfg)()
	require.Equal(t, before, debug.SetMemoryLimit(-1))

	a.env = func(string) (string, bool) { return "", false }
	undo := a.limitMemory(cfg)
	require.Equal(t, memoryLimit(cfg), debug.SetMemoryLimit(-1))
	undo()
	require.Equal(t, before, debug.SetMemoryLimit(math.MaxInt64))
	debug.SetMemoryLimit(before)
}
