package checkpoint

import (
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzDestination reads records of a destination, behind their checksum if framed is set.
func FuzzDestination(f *testing.F) {
	good, err := encodeDestination(Destination{Source: Identity{Relay: "workos", Lane: "nats"}, Mode: AtLeastOnce, Parts: []Part{{Name: "a", Topic: "t", ID: "1", Used: true}}})
	require.NoError(f, err)
	f.Add(good, false)
	f.Add(good[:len(good)/2], false)
	f.Add([]byte(`{"created_at":"2026-01-01T00:00:00+05:30","parts":[{"name":"\ud800","ends":[-1,9223372036854775807]}],"revision":18446744073709551615}`), true)
	f.Add([]byte("{\"event_id\":\"\xff\",\"parts\":null}"), true)
	f.Add([]byte(`null`), true)
	f.Fuzz(func(t *testing.T, data []byte, framed bool) {
		if framed {
			data = fmt.Appendf(nil, "%s%08x %s\n", destinationPrefix, crc32.Checksum(data, castagnoli), data)
		}
		d, err := decodeDestination(data)
		if err != nil {
			return
		}
		text, err := encodeDestination(d)
		require.NoError(t, err)
		again, err := decodeDestination(text)
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}
