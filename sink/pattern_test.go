package sink

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, topic string
		want           bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false},
		{"a.>", "a.b.c", true}, {"a.>", "a", false}, {">", "a", true}, {"a.*.c", "a.b.c", true}, {"a.*.c", "a.b.d", false},
		{"a.*", "a.*", true}, {"a.*", "a.>", false}, {"a.>", "a.*", true}, {"a.>", "a.>", true}, {"a.b", "a.*", false}, {"a.*.>", "a.b.>", true}, {"a.*.>", "a.>", false},
	} {
		require.Equal(t, c.want, Matches(c.pattern, c.topic), "%s %s", c.pattern, c.topic)
	}
	require.True(t, IsPattern("a.*"))
	require.True(t, IsPattern("a.>"))
	require.False(t, IsPattern("a.b"))
	require.True(t, HasTopic([]string{"x", "a.*"}, "a.b"))
	require.False(t, HasTopic(nil, "a.b"))
}
