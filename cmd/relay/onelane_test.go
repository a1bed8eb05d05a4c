package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
)

// TestOneLane: `relay check` and `relay status` without a running relay look at the lane alone that
// --lane names.
func TestOneLane(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte("source: {api_key: sk_test_1, endpoint: 'http://127.0.0.1:1'}\nadmin: {listen: ''}\n"+
		"sinks: [{name: one, type: stdout}, {name: other, type: stdout}]\ncheckpoint: {dir: '"+filepath.Join(t.TempDir(), "data")+"'}\n"), 0o600))
	run := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := execute(t.Context(), append([]string{"--config", path}, args...), func(string) (string, bool) { return "", false }, &out, &errs)
		return code, out.String(), errs.String()
	}
	for command, names := range map[string][2]string{"check": {"sink one ", "sink other "}, "status": {"\none ", "\nother "}} {
		_, all, errs := run(command)
		require.Contains(t, all, names[0], errs)
		require.Contains(t, all, names[1])
		_, one, _ := run(command, "--lane", "other")
		require.NotContains(t, one, names[0])
		require.Contains(t, one, names[1])
		code, _, errs := run(command, "--lane", "third")
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, `there is no sink "third"; the configuration has one, other`)
	}
	code, _, errs := run("tail", "--from-sink", "--lane", "third")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `there is no sink "third"`)
}

// TestStatusOfOneLaneOfARunningRelay has the health of the lane, and not the worst of all.
func TestStatusOfOneLaneOfARunningRelay(t *testing.T) {
	t.Parallel()
	running := func() *admin.Status {
		return &admin.Status{Health: admin.ActionNeeded, Reasons: []string{"lane bad: it is gone"}, Lanes: []admin.LaneStatus{
			{Name: "bad", Health: admin.ActionNeeded, Reasons: []string{"it is gone"}},
			{Name: "good", Health: admin.Healthy, Ready: true},
		}}
	}
	for lane, want := range map[string]admin.Health{"": admin.ActionNeeded, "bad": admin.ActionNeeded, "good": admin.Healthy} {
		s := running()
		require.NoError(t, (&statusCmd{Lane: lane}).narrow(s))
		require.Equal(t, want, s.Health, lane)
		require.Equal(t, want == admin.Healthy, s.Ready)
		if lane == "good" {
			require.NotNil(t, s.Reasons)
			require.Empty(t, s.Reasons)
			require.Len(t, s.Lanes, 1)
		} else {
			require.Equal(t, []string{"lane bad: it is gone"}, s.Reasons)
		}
	}
	require.ErrorContains(t, (&statusCmd{Lane: "other"}).narrow(running()), `--lane: the relay has no lane "other"; it has bad and good`)
}
