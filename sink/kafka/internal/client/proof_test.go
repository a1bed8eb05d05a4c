package client

import (
	"testing"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/stretchr/testify/require"
)

// TestProofIsMasked: a refusal that repeats what was sent to log in is shown without it, and other
// words of it stay.
func TestProofIsMasked(t *testing.T) {
	t.Parallel()
	answer := func(code byte, text string) []byte {
		return append([]byte{0, 0, 0, 1, 0, code, 0, byte(len(text))}, text...)
	}
	for name, c := range map[string]struct{ sent, text, want string }{
		"plain":  {"\x00relay\x00pass word", "no: relay, pass word", "no: *****, *********"},
		"bearer": {"\x00\x00\x00\x2fn,,\x01auth=Bearer eyJhbGciOi.eyJzdWIi.c2ln\x01\x01", "authentication: eyJhbGciOi.eyJzdWIi.c2ln is not a Bearer token", "authentication: ************************ is not a Bearer token"},
		"json":   {`\x00{"version":"2020_10_22","x-amz-security-token":"FwoGZXIvYXdzEBYaDJ"}`, `version: FwoGZXIvYXdzEBYaDJ FwoGZXIvYXdzEBYaDJ`, `version: ****************** ******************`},
		"none":   {"", "text", "text"},
	} {
		var p proof
		p.add([]byte(c.sent[:len(c.sent)/2]))
		p.add([]byte(c.sent[len(c.sent)/2:]))
		got := answer(58, c.text)
		p.mask(protocol.SaslAuthenticate, got)
		require.Equal(t, c.want, string(got[8:]), name)
		got = answer(0, c.text)
		p.mask(protocol.SaslAuthenticate, got)
		require.Equal(t, c.text, string(got[8:]), "no refusal: %s", name)
	}
}
