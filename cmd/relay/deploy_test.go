package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTheConfigurationOfTheUnitIsReadAsSystemdRunsIt: with the folders that systemd names in the
// environment.
func TestTheConfigurationOfTheUnitIsReadAsSystemdRunsIt(t *testing.T) {
	t.Parallel()
	credentials, state := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(credentials, "api_key"), []byte("sk_test_0123456789\n"), 0o400))
	env := map[string]string{"CREDENTIALS_DIRECTORY": credentials, "STATE_DIRECTORY": state}
	cfg, err := format.Load("../../deploy/systemd/config.yaml", func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	require.NoError(t, err)
	require.Equal(t, "sk_test_0123456789", cfg.Source.APIKey.Reveal())
	require.Equal(t, state, cfg.Checkpoint.Dir)
}
