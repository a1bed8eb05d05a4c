package router

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMessageIDs makes the ids of events and dead letters from ids that imitate them: no two are
// equal, also without blanks at both ends.
func TestMessageIDs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxName+1)
	ids := []string{"event_01H", "X", long, "", " X", "X ", "+X", "%20X", "X.", "sha256.X", long + " ", "É"}
	for range 3 { // what is made of them is an id as well
		for _, id := range ids[:len(ids):len(ids)] {
			ids = append(ids, messageID(id), deadLetterID(id, ""), deadLetterID(id, strings.Repeat("ab", 32)), deadLetterMark+id, deadLetterDigest+id, eventMark+id)
		}
	}
	known := map[string]bool{}
	for _, id := range ids {
		known[id] = true
	}
	made := map[string]string{}
	for id := range known {
		for kind, m := range map[string]string{"event ": messageID(id), "dead letter of ": deadLetterID(id, "")} {
			key := strings.TrimSpace(m)
			require.NotContains(t, made, key, "%s%q", kind, id)
			made[key] = kind + id
		}
	}
	require.Equal(t, "event_01H", messageID("event_01H"), "as it always was")
	require.Equal(t, "dead_letter.event_01H", deadLetterID("event_01H", ""), "as it always was")
}
