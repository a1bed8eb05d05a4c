package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGeneratedFilesAreCurrent fails if the table was changed without go generate
// ./internal/catalogue.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	files, err := generate(root)
	require.NoError(t, err)
	require.Len(t, files, 4+136)
	for name, want := range files {
		have, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		require.Equal(t, string(want), string(have), name)
	}
}

func TestConstant(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"api_key.created":                     "APIKeyCreated",
		"authentication.oauth_failed":         "AuthenticationOAuthFailed",
		"connection.saml_certificate_renewed": "ConnectionSAMLCertificateRenewed",
		"feature_flags.flag_rule.updated":     "FeatureFlagsFlagRuleUpdated",
		"vault.byok_key.deleted":              "VaultBYOKKeyDeleted",
	} {
		require.Equal(t, want, constant(name))
	}
}
