package nats

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Bounds of what a server may send, in bytes. nats.go reserves what a line announces before it
// comes, and keeps a line until it ends.
const (
	maxInfo    = 1 << 20 // of the server's greeting, which lists a whole cluster
	maxControl = 64 << 10
	maxPayload = 64<<20 + 64<<10 // the largest message of any server, with its headers
)

// tlsRecord is the first byte of a TLS handshake. No line of the protocol begins with it.
const tlsRecord = 0x16

var errImpossible = errors.New("the server sends what no NATS server does")

// boundedDialer makes connections on which a server cannot announce more than the bounds. It cannot
// look into TLS: there the server has proved who it is.
type boundedDialer struct {
	dialer    net.Dialer
	websocket bool
}

// boundedBy returns the option for it.
func boundedBy(c Config) nats.Option {
	return nats.SetCustomDialer(&boundedDialer{net.Dialer{Timeout: dialTimeout, FallbackDelay: -time.Second}, c.overWebsocket()})
}

// Dial implements nats.CustomDialer.
func (d *boundedDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	if d.websocket {
		return &boundedConn{Conn: conn, wire: new(websocketBounds)}, nil
	}
	return &boundedConn{Conn: conn, wire: new(wireBounds)}, nil
}

// boundedConn reads like its connection until a bound is exceeded; then it fails.
type boundedConn struct {
	net.Conn
	wire interface{ see(piece []byte) error } // used by the one goroutine that reads
}

// Read implements net.Conn.
func (c *boundedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if fault := c.wire.see(b[:n]); fault != nil {
		_ = c.Close()
		return 0, fault
	}
	return n, err
}

// wireBounds follows what a server sends as nats.go parses it, and no further than sizes need it.
type wireBounds struct {
	line    []byte // the line so far, if it began in an earlier piece
	payload int    // bytes of a payload that are still to come
	ending  bool   // the payload is complete, and all up to the next line feed belongs to it
	blind   bool   // TLS has begun
	fault   error  // of an earlier piece
}

// see returns an error if the next piece of what the server sends exceeds a bound.
func (w *wireBounds) see(piece []byte) error {
	for len(piece) > 0 && !w.blind && w.fault == nil {
		switch {
		case w.payload > 0:
			n := min(w.payload, len(piece))
			w.payload, piece = w.payload-n, piece[n:]
			w.ending = w.payload == 0
		case w.ending:
			_, rest, found := bytes.Cut(piece, []byte("\n"))
			w.ending, piece = !found, rest
		case len(w.line) == 0 && piece[0] == tlsRecord:
			w.blind = true
		default:
			piece = w.seeLine(piece)
		}
	}
	return w.fault
}

// seeLine takes a line, or the part of it that is there, and returns what follows.
func (w *wireBounds) seeLine(piece []byte) (rest []byte) {
	part, rest, complete := bytes.Cut(piece, []byte("\n"))
	limit := maxControl
	if first := firstByte(w.line, part); first == 'I' || first == 'i' {
		limit = maxInfo
	}
	if len(w.line)+len(part) > limit {
		w.fault = fmt.Errorf("%w: a line of more than %d bytes", errImpossible, limit)
		return nil
	}
	line := part
	if len(w.line) > 0 || !complete {
		w.line = append(w.line, part...)
		line = w.line
	}
	if !complete {
		return nil
	}
	w.payload, w.fault = announced(line)
	w.ending = w.fault == nil && w.payload == 0 && isMessage(line)
	if cap(w.line) > maxControl {
		w.line = nil
	}
	w.line = w.line[:0]
	return rest
}

// websocketBounds follows what a server sends through a websocket: an answer of HTTP, then frames,
// whose payloads are what wireBounds follows.
type websocketBounds struct {
	inner   wireBounds
	answer  []byte // the answer so far
	ended   bool   // the answer is complete
	newline bool   // the last byte of the answer, carriage returns aside, ended a line
	header  []byte // of the current frame, so far
	left    uint64 // bytes of the current frame that are still to come
	isData  bool   // the current frame has a part of the protocol of NATS
	blind   bool   // TLS has begun, or the server has refused the websocket, upon which nats.go hangs up
	fault   error  // of an earlier piece
}

// see returns an error if the next piece of what the server sends exceeds a bound.
func (w *websocketBounds) see(piece []byte) error {
	if len(w.answer) == 0 && !w.ended && len(piece) > 0 && piece[0] == tlsRecord {
		w.blind = true
	}
	for len(piece) > 0 && !w.blind && w.fault == nil {
		switch {
		case !w.ended:
			piece = w.seeAnswer(piece)
		case w.left > 0:
			n := min(w.left, uint64(len(piece)))
			if w.isData {
				w.fault = w.inner.see(piece[:n])
			}
			w.left, piece = w.left-n, piece[n:]
		default:
			w.header, piece = append(w.header, piece[0]), piece[1:]
			w.fault = w.seeHeader()
		}
	}
	return w.fault
}

// seeAnswer takes what there is of the answer, and returns what follows it.
func (w *websocketBounds) seeAnswer(piece []byte) (rest []byte) {
	for i, c := range piece {
		if w.answer = append(w.answer, c); len(w.answer) > maxControl {
			w.fault = fmt.Errorf("%w: an answer to the websocket handshake of more than %d bytes", errImpossible, maxControl)
			return nil
		}
		switch {
		case c == '\n' && w.newline:
			first, _, _ := bytes.Cut(w.answer, []byte("\n"))
			w.ended, w.blind, w.answer = true, !bytes.Contains(first, []byte("101")), nil
			return piece[i+1:]
		case c != '\r':
			w.newline = c == '\n'
		}
	}
	return nil
}

// Of the first bytes of a frame.
const (
	frameReserved = 0x70 // bits for extensions; relay asks for none
	frameControl  = 0x08 // of the opcode, for frames that are not data
	frameLength   = 0x7f // of the second byte
	frameLength16 = 126  // the length is in two more bytes
	frameLength64 = 127  // the length is in eight more bytes
)

// seeHeader looks at the header of a frame. If it is complete, the payload begins.
func (w *websocketBounds) seeHeader() error {
	if w.header[0]&frameReserved != 0 {
		return fmt.Errorf("%w: a websocket frame with an extension that was not asked for", errImpossible)
	}
	if len(w.header) < 2 {
		return nil
	}
	length, more := uint64(w.header[1]&frameLength), 0
	switch length {
	case frameLength16:
		more = 2
	case frameLength64:
		more = 8
	}
	if len(w.header) < 2+more {
		return nil
	}
	if more > 0 {
		length = 0
		for _, b := range w.header[2:] {
			length = length<<8 | uint64(b)
		}
	}
	if length > maxPayload {
		return fmt.Errorf("%w: a websocket frame of %d bytes, more than %d", errImpossible, length, maxPayload)
	}
	w.left, w.isData, w.header = length, w.header[0]&frameControl == 0, w.header[:0]
	return nil
}

func firstByte(a, b []byte) byte {
	switch {
	case len(a) > 0:
		return a[0]
	case len(b) > 0:
		return b[0]
	default:
		return 0
	}
}

// isMessage reports whether a payload follows the line.
func isMessage(line []byte) bool {
	return len(line) > 0 && (line[0] == 'M' || line[0] == 'm' || line[0] == 'H' || line[0] == 'h')
}

// announced returns the size of the payload that follows a line. A line that is not a message has
// none, and one that nats.go refuses is left to it.
func announced(line []byte) (int, error) {
	if !isMessage(line) {
		return 0, nil
	}
	const blanks = " \t\r\n"
	line = bytes.TrimRight(line, blanks)
	size := line[bytes.LastIndexAny(line, blanks)+1:]
	n, err := strconv.ParseUint(string(size), 10, 64)
	if err != nil || n > maxPayload {
		return 0, fmt.Errorf("%w: a message of %.20q bytes, more than %d or no number", errImpossible, size, maxPayload)
	}
	return int(n), nil //nolint:gosec // it is bounded
}
