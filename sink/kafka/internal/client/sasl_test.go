package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/stretchr/testify/require"

	"workos-relay/conf/livefile"
)

func TestBearerToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("first\n"), 0o600))
	tokens, err := TokenFile(nil, livefile.File{Key: "sasl.token_file", Path: file})
	require.NoError(t, err)
	m := NewBearer(tokens, "sasl.token_file", nil)
	exchange, first, err := m.Start(t.Context())
	require.NoError(t, err)
	require.Equal(t, "n,,\x01auth=Bearer first\x01\x01", string(first))
	done, _, err := exchange.Next(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, done)
	_, _, err = exchange.Next(t.Context(), []byte(`{"status":"invalid_token"}`))
	require.ErrorIs(t, err, ErrTokenRefused)
	require.ErrorContains(t, err, "invalid_token")
	require.NotContains(t, err.Error(), "first")

	require.NoError(t, os.WriteFile(file, []byte("second"), 0o600))
	_, next, err := m.Start(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(next), "Bearer second")
	for _, useless := range []string{"a b", "", "third\nfourth"} {
		require.NoError(t, os.WriteFile(file, []byte(useless), 0o600))
		_, next, err = m.Start(t.Context())
		require.NoError(t, err)
		require.Contains(t, string(next), "Bearer second", "content that cannot be used leaves the token in use")
	}
	require.NoError(t, os.WriteFile(file, []byte("a b"), 0o600))
	_, err = TokenFile(nil, livefile.File{Key: "sasl.token_file", Path: file})
	require.ErrorContains(t, err, file)
	require.NotContains(t, err.Error(), "a b")
}

// TestIterationsOfSCRAM: a broker decides how much relay computes for a password, within a bound.
func TestIterationsOfSCRAM(t *testing.T) {
	t.Parallel()
	mechanism, err := ScramMechanism(scram.SHA256, "relay", livefile.Fixed("secret"))
	require.NoError(t, err)
	for count, says := range map[string]string{
		"4096": "", "1000001": "too many iterations of SCRAM (\"1000001\")", "2147483647": "too many", strings.Repeat("9", 5000): "(\"99999999999999999999\")", "-": "too many",
	} {
		exchange, first, err := mechanism.Start(t.Context())
		require.NoError(t, err)
		_, nonce, _ := strings.Cut(string(first), ",r=")
		_, answer, err := exchange.Next(t.Context(), []byte("r="+nonce+"more,s=c2FsdA==,i="+count))
		if says != "" {
			require.ErrorContains(t, err, says)
			continue
		}
		require.NoError(t, err)
		require.Contains(t, string(answer), ",p=")
	}
}
