package source

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// pieceSize is by how much the memory of a response grows as its data comes.
	pieceSize = 64 << 10
	// earlyLook is how much of a response comes before it is looked at for the first time: if it
	// holds more events than were asked for by then, nothing more of it is read.
	earlyLook = 1 << 20
	// largeBody is the size from which one body at a time is decoded.
	largeBody = 4 << 20
)

// piece is a part of a response while it comes. Pieces are used again, apart from those of a large
// response.
type piece [pieceSize]byte

var pieces = sync.Pool{New: func() any { return new(piece) }}

// largeBodies is held while a large body is put together and decoded, for which it is in memory
// twice.
var largeBodies sync.Mutex

// noRoomError means that a response was given up because there is no memory for it at present.
type noRoomError struct {
	need int64 // bytes that it takes at least
}

// Error implements error.
func (e *noRoomError) Error() string {
	return fmt.Sprintf("there is no memory for a response of %d bytes at present", e.need)
}

// isNoRoom reports whether a request was given up for lack of memory. Nothing is wrong with its
// answer.
func isNoRoom(err error) bool {
	var e *noRoomError
	return errors.As(err, &e)
}

// body is a response that is being read. It takes memory only for what has come.
type body struct {
	pieces []*piece
	size   int64
	room   func(size int64) bool // whether there is memory for so many bytes altogether; nil for always
}

// free gives the pieces back. The body is empty afterwards.
func (b *body) free() {
	for i, p := range b.pieces {
		if i < earlyLook/pieceSize {
			pieces.Put(p)
		}
		b.pieces[i] = nil
	}
	b.pieces, b.size = nil, 0
}

// fill reads until size bytes have come, or the end. It returns io.EOF at the end.
func (b *body) fill(from io.Reader, size int64) error {
	for b.size < size {
		at := b.size % pieceSize
		if at == 0 {
			if b.room != nil && !b.room(b.size+pieceSize) {
				return &noRoomError{need: 2 * (b.size + pieceSize)}
			}
			b.pieces = append(b.pieces, pieces.Get().(*piece))
		}
		p := b.pieces[len(b.pieces)-1]
		n, err := from.Read(p[at:min(pieceSize, at+size-b.size)])
		b.size += int64(n)
		if err != nil {
			return err //nolint:wrapcheck // by the caller
		}
	}
	return nil
}

// bytes returns what has come in one slice, and empties the body.
func (b *body) bytes() []byte {
	out := make([]byte, 0, b.size)
	for i, p := range b.pieces {
		out = append(out, p[:min(pieceSize, b.size-int64(len(out)))]...)
		if b.pieces[i] = nil; i < earlyLook/pieceSize {
			pieces.Put(p)
		}
	}
	b.pieces, b.size = nil, 0
	return out
}

// copied returns a copy of what has come.
func (b *body) copied() []byte {
	out := make([]byte, 0, b.size)
	for _, p := range b.pieces {
		out = append(out, p[:min(pieceSize, b.size-int64(len(out)))]...)
	}
	return out
}
