package unit_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/conf/unit"
)

func TestBytes(t *testing.T) {
	for text, want := range map[string]unit.Bytes{
		"0": 0, "4096": 4096, "1B": 1, "512KiB": 512 << 10, "64MiB": 64 << 20, "1.5GiB": 3 << 29, "2 MiB": 2 << 20,
		"1kB": 1000, "1MB": 1e6, "3GB": 3e9,
	} {
		var b unit.Bytes
		require.NoError(t, b.UnmarshalText([]byte(text)), text)
		require.Equal(t, want, b, text)
		var again unit.Bytes
		require.NoError(t, again.UnmarshalText([]byte(b.String())))
		require.Equal(t, b, again, "what is written must be read as the same size")
	}
	for _, text := range []string{"", "MiB", "-1", "1XB", "NaN", "Inf", "1e30GiB", "0x10", "1,5MiB"} {
		var b unit.Bytes
		err := b.UnmarshalText([]byte(text))
		require.ErrorContains(t, err, "is not a size", text)
	}
	require.Equal(t, "64MiB", (64 * unit.MiB).String())
	require.Equal(t, "1000", unit.Bytes(1000).String())
}
