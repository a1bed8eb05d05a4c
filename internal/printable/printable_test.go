package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// unsafeText holds every kind of character that must not reach a terminal.
var unsafeText = []string{
	"\x00", "\x07", "\x1b[31m", "\r", "\x7f", "\u0080", "\u009b31m", "\u009f", // controls
	"\u200e", "\u200f", "\u061c", "\u202a", "\u202e", "\u2066", "\u2069", // direction
	"\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u115f", "\u3164", "\ufe0f", "\U000e0100", // no width
	"\u2028", "\u2029", "\U000e0041", "\U000e007f", "\ue000", "\U000f0000", "\U0010ffff", // lines, tags, private use, unassigned
	"\xff", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", // not UTF-8
}

func TestSafe(t *testing.T) {
	t.Parallel()
	for _, r := range "aZ09 ~é漢字ß€😀\u00a0\u3000\u0301" {
		require.True(t, Safe(r), "%q", r)
	}
	for _, s := range unsafeText {
		r, _ := utf8.DecodeRuneInString(s)
		require.False(t, Safe(r), "%q", s)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                     "",
		"plain":                "plain",
		" a\r\n\t b\u2028c  ":  "a b c",
		"\x1b[2Jred\u202ederp": `\u001b[2Jred\u202ederp`,
		"c1 \u009b":            `c1 \u009b`,
		"tag \U000e0041":       `tag \udb40\udc41`,
		"bad \xff\xfe":         "bad \ufffd\ufffd",
		"kept \ufffd":          "kept \ufffd",
		`a \ backslash`:        `a \ backslash`,
		"ü漢😀":                  "ü漢😀",
	} {
		require.Equal(t, want, Text(in), "%q", in)
	}
	require.Equal(t, strings.Repeat("x", 500), Text(strings.Repeat("x", 500)))
	require.Equal(t, strings.Repeat("x", 477)+"... (899523 more bytes)", Text(strings.Repeat("x", 900_000)))
	require.Equal(t, "a\n\tb\\u000d", Block("a\n\tb\r", 100))
	require.Equal(t, strings.Repeat("x", 36)+"... (99938 more bytes) ..."+strings.Repeat("x", 15)+"; do this", Block(strings.Repeat("x", 99_989)+"; do this", 100))
	require.LessOrEqual(t, len(Block(strings.Repeat("\u202e", 100_000), 100)), 100)
}

func TestError(t *testing.T) {
	t.Parallel()
	require.NoError(t, Error(nil))
	plain := errors.New("plain")
	require.Equal(t, plain, Error(plain))
	loud := errors.New("bell \a" + strings.Repeat("!", 1000))
	err := Error(loud)
	require.ErrorIs(t, err, loud)
	require.True(t, strings.HasPrefix(err.Error(), `bell \u0007!!!`))
	require.LessOrEqual(t, len(err.Error()), Limit)
}

func TestWriter(t *testing.T) {
	t.Parallel()
	text := "a\tb\n" + strings.Join(unsafeText, "|") + "ü漢😀\n"
	want := string(Append(nil, []byte(text)))
	for step := 1; step < 9; step++ {
		var out bytes.Buffer
		w := NewWriter(&out)
		for rest := []byte(text); len(rest) > 0; {
			n := min(step, len(rest))
			got, err := w.Write(rest[:n])
			require.NoError(t, err)
			require.Equal(t, n, got)
			rest = rest[n:]
		}
		require.Equal(t, want, out.String(), "in steps of %d", step)
	}
	isPrintable(t, want)
}

func isPrintable(t *testing.T, s string) {
	t.Helper()
	require.True(t, utf8.ValidString(s))
	for _, r := range s {
		require.True(t, Safe(r) || r == '\n' || r == '\t' || r == utf8.RuneError, "%q in %q", r, s)
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range unsafeText {
		f.Add("before "+s+" after", 100)
	}
	f.Add(strings.Repeat("\u202e", 300), 500)
	f.Add(`{"a":"`+"\x7f\u009b\xff"+`"}`, 64)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = 64 + (limit%4096+4096)%4096
		text := Clip(s, limit)
		isPrintable(t, text)
		require.NotContains(t, text, "\n")
		require.NotContains(t, text, "\t")
		require.LessOrEqual(t, len(text), limit)
		require.Equal(t, text, Clip(text, limit))
		block := Block(s, limit)
		isPrintable(t, block)
		require.LessOrEqual(t, len(block), limit)
		require.Equal(t, block, Block(block, limit))
		written := Append(nil, []byte(s))
		isPrintable(t, string(written))
		var before, after any
		if utf8.ValidString(s) && !strings.Contains(s, "\r") && json.Unmarshal([]byte(s), &before) == nil {
			require.NoError(t, json.Unmarshal(written, &after))
			require.Equal(t, before, after)
		}
	})
}
