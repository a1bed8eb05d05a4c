package app

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/config"
	"workos-relay/internal/kinds"
)

// TestEveryKeyHasAnEffect: what the change of a key means is decided on purpose.
func TestEveryKeyHasAnEffect(t *testing.T) {
	from, err := config.For(kinds.All).Parse("", []byte(`sinks: [{name: a, type: stdout}]`), func(string) (string, bool) { return "sk_1", true })
	require.NoError(t, err)
	var fixed []string
	for _, key := range from.Keys() {
		if effectOf(key) == needsRestart {
			fixed = append(fixed, key)
		}
	}
	slices.Sort(fixed)
	require.Equal(t, []string{"admin.listen", "admin.show_payloads", "checkpoint.dir", "id", "instance", "log.format", "source.webhook.listen"},
		slices.DeleteFunc(fixed, func(key string) bool { return strings.HasPrefix(key, "telemetry.") }), "say what a change of the key means, in effects")
}
