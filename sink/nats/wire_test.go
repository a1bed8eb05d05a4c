package nats

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
)

// seen returns what wireBounds says of text that comes in pieces of so many bytes.
func seen(text []byte, size int) error {
	var w wireBounds
	for piece := range slices.Chunk(text, max(1, size)) {
		if err := w.see(piece); err != nil {
			return err
		}
	}
	return nil
}

func TestWireBounds(t *testing.T) {
	t.Parallel()
	good := "INFO {\"server_id\":\"" + strings.Repeat("x", maxInfo/2) + "\"}\r\nPING\r\n+OK\r\nMSG a 1 5\r\nMSG 9\r\nmsg a 1 b.c 0\r\n\r\nHMSG a 1 12 17\r\nNATS/1.0\r\n\r\nhello\r\n-ERR 'x'\r\nPONG\r\n"
	for _, text := range []string{"", good, good + good, "\x16\x03\x01 and then what TLS sends: MSG a 1 99999999999999\r\n"} {
		for _, size := range []int{1, 2, 3, 7, 64, 1 << 20} {
			require.NoError(t, seen([]byte(text), size))
		}
	}
	for _, text := range []string{
		"MSG a 1 4611686018427387904\r\n", "HMSG a 1 12 4611686018427387904\r\n", "msg a 1 99999999999\r\n", "MSG a 1 -1\r\n", "MSG a 1 18446744073709551621\r\n",
		"MSG\r\n", "MSG a 1 x\r\n", fmt.Sprintf("MSG a 1 %d\r\n", maxPayload+1), "MSG a 1 5\r\nhello and more\r\nMSG a 1 4611686018427387904\r\n",
		"-ERR " + strings.Repeat("x", maxControl), "INFO " + strings.Repeat("x", maxInfo), "MSG " + strings.Repeat("x", maxControl), "PING" + strings.Repeat(" ", maxControl),
	} {
		for _, size := range []int{1, 2, 3, 7, 64, 2 << 20} {
			require.ErrorIs(t, seen([]byte(good+text), size), errImpossible, "%.100q", text)
		}
	}
}

// frame is a frame of a websocket as a server sends it.
func frame(first byte, payload string) string {
	n := len(payload)
	switch {
	case n < 126:
		return string([]byte{first, byte(n)}) + payload
	case n < 1<<16:
		return string([]byte{first, 126, byte(n >> 8), byte(n)}) + payload
	default:
		return string([]byte{first, 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + payload
	}
}

func TestWebsocketBounds(t *testing.T) {
	t.Parallel()
	see := func(text string, size int) error {
		var w websocketBounds
		for piece := range slices.Chunk([]byte(text), size) {
			if err := w.see(piece); err != nil {
				return err
			}
		}
		return nil
	}
	const binary, ping, continued, closing = 0x82, 0x89, 0x80, 0x88
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
	good := answer + frame(binary, "INFO {}\r\nMSG a 1 70000\r\n") + frame(ping, "MSG a 1 99999999999999\r\n") + frame(0x02, strings.Repeat("x", 69_999)) +
		frame(continued, "") + frame(continued, "x\r\nPING\r\n") + frame(binary, strings.Repeat("PING\r\n", 40))
	sizes := []int{1, 2, 3, 7, 64, 1 << 20}
	for _, size := range sizes {
		for _, text := range []string{good, answer, "HTTP/1.0 400 Bad Request\n\nno more than that", "\x16\x03\x01 and then what TLS sends" + strings.Repeat("x", maxControl)} {
			require.NoError(t, see(text, size))
		}
		for _, text := range []string{
			strings.Repeat("x", maxControl+1), "HTTP/1.1 101 x\r\n" + strings.Repeat("A: b\r\n", maxControl/6+1),
			good + frame(binary, "MSG a 1 4611686018427387904\r\n"), good + frame(0xc2, "PING\r\n"), good + string([]byte{binary, 127, 0, 0, 1, 0, 0, 0, 0, 0}),
			good + string([]byte{binary, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}),
			good + frame(binary, strings.Repeat("x", maxControl/2)) + frame(closing, "") + frame(continued, strings.Repeat("x", maxControl/2+1)),
		} {
			require.ErrorIs(t, see(text, size), errImpossible, "%.100q", text)
		}
	}
}

// FuzzWebsocket is FuzzWire for websockets.
func FuzzWebsocket(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 x\r\n\r\n\x82\x05PING\n"), 3)
	f.Add([]byte("101\n\n\x82\x7e\x00\x05PING\n\x89\x00"), 1)
	f.Add([]byte("101\n\n\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x05PING\n"), 2)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		var whole, pieces websocketBounds
		want := whole.see(text)
		var have error
		for piece := range slices.Chunk(text, max(1, size)) {
			if have = pieces.see(piece); have != nil {
				break
			}
		}
		require.Equal(t, want == nil, have == nil, "%v, %v", want, have)
		require.Less(t, cap(pieces.header), 64)
	})
}

// FuzzWire shows that the pieces in which a server's bytes come change nothing, and that no more is
// kept of them than a line.
func FuzzWire(f *testing.F) {
	f.Add([]byte("INFO {}\r\nMSG a 1 5\r\nhello\r\n"), 3)
	f.Add([]byte("HMSG a 1 12 17\r\nNATS/1.0\r\n\r\nhello\r\nPING\r\n"), 1)
	f.Add([]byte("MSG a 1 4611686018427387904\r\n"), 5)
	f.Add([]byte("\x16\x03\x01"), 1)
	f.Add([]byte("M\r\n\n \r\nH  1\n"), 2)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		whole, pieces := seen(text, len(text)), seen(text, size)
		require.Equal(t, whole == nil, pieces == nil, "%v, %v", whole, pieces)
	})
}

// FuzzAcknowledgement holds the quick reading of acknowledgements against the other, for single
// messages and for batches.
func FuzzAcknowledgement(f *testing.F) {
	for _, text := range []string{
		`{"stream":"WORKOS","seq":17}`, `{"stream":"WORKOS","domain":"hub","seq":17,"duplicate":true}`, `{"stream":"WORKOS","seq":3,"batch":"b","count":3}`,
		`{"stream":"WORKOS","seq":017}`, `{"stream":"WORKOS","seq":0}`, `{"stream":"WORKOS","seq":18446744073709551615}`, `{"stream":"WORKOS","seq":1,"seq":2}`,
		`{"error":{"code":503,"err_code":10077,"description":"x"}}`, `{"Stream":"WORKOS","seq":1}`, `null`, `[]`, "",
	} {
		f.Add([]byte(text), false, uint64(0))
		f.Add([]byte(text), true, uint64(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, hub bool, expected uint64) {
		s := &stream{cfg: &Config{Stream: "WORKOS", Logger: zap.NewNop()}}
		domain := ""
		if hub {
			domain = "hub"
		}
		s.home.Store(newHome("WORKOS", domain, ""))
		a, err := s.parseAck(&nats.Msg{Data: data})
		seq, plain := s.plainAck(data)
		require.False(t, plain && (err != nil || seq != a.Seq), "%v", err)
		if err != nil {
			return
		}
		require.Equal(t, "WORKOS", a.Stream)
		require.Equal(t, domain, a.Domain)
		require.NotZero(t, a.Seq)
		c := newCommit(nil, 1, numbered(2), expected, numbered(1)[0])
		if c.id = "b"; c.proves(a) == nil {
			require.Equal(t, "b", a.Batch)
			require.Equal(t, 3, a.Count)
			require.Greater(t, a.Seq, expected)
			require.GreaterOrEqual(t, a.Seq-expected, uint64(3))
		}
	})
}

// FuzzStored reads what a server answers for the position, and the position in it.
func FuzzStored(f *testing.F) {
	position := checkpoint.Encode(checkpoint.Checkpoint{Source: checkpoint.Identity{Relay: "workos", Lane: "nats"}, Mode: checkpoint.ExactlyOnce, Generation: 3})
	f.Add([]byte(`{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","message":{"subject":"relay.position.workos.nats","seq":9,"data":"aGVsbG8=","time":"2026-11-29T10:00:00Z"}}`), []byte("hello"))
	f.Add([]byte(`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`), position)
	f.Add([]byte(`{"message":{"seq":-1,"data":"!"}}`), position[:len(position)/2])
	f.Add([]byte(`{"message":null}`), []byte{})
	f.Fuzz(func(t *testing.T, answer, document []byte) {
		if m, err := parseStored(answer); err == nil {
			require.NotZero(t, m.Seq)
			document = append(m.Data, document...)
		}
		if cp, err := checkpoint.Decode(document); err == nil {
			again, err := checkpoint.Decode(checkpoint.Encode(cp))
			require.NoError(t, err)
			require.Equal(t, cp, again)
		}
	})
}
