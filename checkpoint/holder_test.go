package checkpoint_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
)

func TestHolderName(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 11, 30, 2, 20, 5, 999, time.FixedZone("", 3600))
	one, other := openFile(t, t.TempDir()).Holder(), openFile(t, t.TempDir()).Holder()
	name := checkpoint.HolderName("web-7f9c", 4711, started, one)
	require.Equal(t, "web-7f9c/4711@2026-11-30T01:20:05Z#"+one[:12], name)

	again := checkpoint.HolderName("web-8a0d", 1, started.Add(time.Minute), one)
	twin := checkpoint.HolderName("web-7f9c", 4711, started, other)
	require.True(t, checkpoint.SameStore(name, again), "the next process in the same directory")
	require.True(t, checkpoint.SameStore(name, one), "a version of relay before this one named the directory alone")
	require.True(t, checkpoint.SameStore(one, one))
	require.False(t, checkpoint.SameStore(name, twin), "equal in everything but the directory")
	require.NotEqual(t, name, twin)
	require.False(t, checkpoint.SameStore(name, other))
	for _, foreign := range []string{"", "#", "stranger", one[:12], "a#" + one, "#" + one[:11], strings.ToUpper(one), "主机#" + one[:11] + "é"} {
		require.False(t, checkpoint.SameStore(name, foreign), "%q", foreign)
		require.False(t, checkpoint.SameStore(foreign, foreign), "%q names no directory", foreign)
	}

	for _, instance := range []string{"", "a\nb", "\x1b[2Jx", "ho st", "\u202Ehost", "\xff\xfe", "主机", "a/b@c#d", strings.Repeat("long.", 200), strings.Repeat("é", 200)} {
		name := checkpoint.HolderName(instance, 1<<31-1, started, one)
		require.LessOrEqual(t, len(name), 160)
		require.Equal(t, name, printable.Text(name), "%q", instance)
		require.Regexp(t, `^[A-Za-z0-9._-]+/\d+@[0-9TZ:-]+#[0-9a-f]{12}$`, name)
		require.True(t, checkpoint.SameStore(name, one))
	}
}
