// Package printable makes text from outside relay safe to show: what an API, a bus, a certificate
// or a file said may hold control characters, text that is displayed in another order than it has,
// or 900 KB in one line.
//
// Text, Clip and Error are for the place at which such text enters; Block, Writer and Append for
// the place at which relay writes to a terminal, a log or an answer, so that nothing gets through
// that entered elsewhere.
//
// A character is shown if Safe holds. Any other one is escaped as in JSON, such as \u001b or
// \u202e, two of these for a character above U+FFFF; a byte that is not UTF-8 becomes U+FFFD. A
// backslash is not escaped: the result is for reading, not for decoding.
package printable

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Count writes a number with its noun: "1 event", "2 events".
func Count[N int | int32 | int64 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Limit is how many bytes Text returns at most.
const Limit = 500

// Safe reports whether r can be shown as it is: a letter, mark, digit, symbol or a blank with a
// width. It is false for control characters, line separators, characters that change the direction
// of text or have no width, tags, variation selectors, characters of private use, and unassigned
// ones.
func Safe(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= ' ' && r < 0x7f
	}
	return r != utf8.RuneError && unicode.IsGraphic(r) && !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Text returns s on one line of at most Limit bytes. If it cuts s, it says how many bytes of s are
// missing. Text does not change its own results.
func Text(s string) string { return Clip(s, Limit) }

// Clip is Text with another limit, which should be at least 64. White space, line breaks included,
// becomes single blanks.
func Clip(s string, limit int) string {
	if len(s) <= limit && isLine(s) {
		return s
	}
	return clip(s, limit)
}

// Block is Clip for a text that relay has put together, which may have several lines: it keeps line
// feeds, tabs and blanks. What is too long it cuts out of the middle, since the messages of relay
// end with what to do.
func Block(s string, limit int) string {
	if len(s) <= limit && isBlock(s) {
		return s
	}
	if len(s) <= limit {
		if whole := Append(nil, []byte(s)); len(whole) <= limit {
			return string(whole)
		}
	}
	const longestMark = 40
	room := max(0, limit-longestMark)
	head, shown := beginning(s, room*3/5)
	tail, from := ending(s, shown, room-len(head))
	return head + fmt.Sprintf("... (%d more bytes) ...", from-shown) + tail
}

// beginning returns as much from the beginning of s as fits into room once it is escaped, and where
// that ends in s.
func beginning(s string, room int) (text string, end int) {
	var out []byte
	for end < len(s) {
		r, size := utf8.DecodeRuneInString(s[end:])
		next := appendRune(out, r, true)
		if len(next) > room {
			break
		}
		out, end = next, end+size
	}
	return string(out), end
}

// ending returns as much from the end of s as fits into room once it is escaped, but nothing before
// least, and its index in s.
func ending(s string, least, room int) (text string, start int) {
	start = max(least, len(s)-room)
	for {
		for start < len(s) && !utf8.RuneStart(s[start]) {
			start++
		}
		out := Append(nil, []byte(s[start:]))
		if len(out) <= room {
			return string(out), start
		}
		start += max(1, (len(out)-room)/6) // a byte becomes six at most
	}
}

// Error returns an error with the text of err as Text returns it. It wraps err. It returns nil if
// err is nil.
func Error(err error) error {
	if err == nil {
		return nil
	}
	whole := err.Error()
	text := Text(whole)
	if text == whole {
		return err
	}
	return &cleaned{text, err}
}

type cleaned struct {
	text string
	err  error
}

func (e *cleaned) Error() string { return e.text }
func (e *cleaned) Unwrap() error { return e.err }

// isLine reports whether Clip has nothing to change but the length.
func isLine(s string) bool {
	blank := true // before the first character, so that a blank there counts as a second one
	for i := range len(s) {
		c := s[i]
		if c >= utf8.RuneSelf {
			return isBlock(s) && strings.Join(strings.Fields(s), " ") == s
		}
		if c < ' ' || c >= 0x7f || c == ' ' && blank {
			return false
		}
		blank = c == ' '
	}
	return !blank || s == ""
}

func isBlock(s string) bool {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return false
		}
		if !Safe(r) && r != utf8.RuneError && r != '\n' && r != '\t' {
			return false
		}
	}
	return true
}

// clip looks at no more of s than it needs.
func clip(s string, limit int) string {
	// The mark is cut off from what is kept, so that the result keeps to the limit.
	mark := func(shown int) string { return fmt.Sprintf("... (%d more bytes)", len(s)-shown) }
	room := max(0, limit-len(mark(0)))
	out := make([]byte, 0, min(len(s)+16, limit))
	kept, shown := 0, 0 // of out and s, what is within room
	blank := false      // a blank is due before the next character
	for at := 0; at < len(s); {
		r, size := utf8.DecodeRuneInString(s[at:])
		if unicode.IsSpace(r) {
			blank = len(out) > 0
			at += size
			continue
		}
		if blank {
			out = append(out, ' ')
			blank = false
		}
		out = appendRune(out, r, false)
		at += size
		if len(out) <= room {
			kept, shown = len(out), at
		}
		if len(out) > limit {
			return string(out[:kept]) + mark(shown)
		}
	}
	return string(out)
}

// Append appends src to dst, with unsafe characters escaped. It keeps line feeds and tabs. JSON
// without carriage returns between its tokens stays JSON with the same meaning, save that invalid
// UTF-8 becomes U+FFFD.
func Append(dst, src []byte) []byte {
	for at := 0; at < len(src); {
		if c := src[at]; c < utf8.RuneSelf && (c >= ' ' && c < 0x7f || c == '\n' || c == '\t') {
			dst = append(dst, c)
			at++
			continue
		}
		r, size := utf8.DecodeRune(src[at:])
		dst = appendRune(dst, r, true)
		at += size
	}
	return dst
}

func appendRune(dst []byte, r rune, block bool) []byte {
	switch {
	case Safe(r), r == utf8.RuneError, block && (r == '\n' || r == '\t'):
		return utf8.AppendRune(dst, r)
	case r > 0xffff:
		high, low := utf16.EncodeRune(r)
		return escape(escape(dst, high), low)
	default:
		return escape(dst, r)
	}
}

func escape(dst []byte, r rune) []byte {
	const hexadecimal = "0123456789abcdef"
	return append(dst, '\\', 'u', hexadecimal[r>>12&15], hexadecimal[r>>8&15], hexadecimal[r>>4&15], hexadecimal[r&15])
}

// Writer escapes what is written through it, as Append does. It is safe for concurrent use.
type Writer struct {
	out io.Writer

	mu      sync.Mutex
	buf     []byte
	pending []byte // the beginning of a character whose other bytes come with the next Write
}

// NewWriter returns a Writer to out.
func NewWriter(out io.Writer) *Writer { return &Writer{out: out} }

// Unwrap returns what w writes to, for what relay itself wants to tell a terminal.
func (w *Writer) Unwrap() io.Writer { return w.out }

// Write implements io.Writer. After an error it does not know how much of p was written, and says
// 0.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	src := p
	if len(w.pending) > 0 {
		src = append(w.pending, p...) //nolint:gocritic // pending is replaced below
	}
	whole := len(src) - incomplete(src)
	w.buf = Append(w.buf[:0], src[:whole])
	w.pending = append([]byte(nil), src[whole:]...)
	if _, err := w.out.Write(w.buf); err != nil {
		return 0, err
	}
	if cap(w.buf) > 1<<20 {
		w.buf = nil
	}
	return len(p), nil
}

// incomplete returns how many bytes at the end of b begin a character that is not whole.
func incomplete(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}
