package main

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

// pipe is standard output. Once nobody reads it any more it takes everything and writes nothing, so
// that a command ends as it would have ended, and without an error text: `relay status | head -1`.
// It is safe for concurrent use if its writer is.
type pipe struct {
	out  io.Writer
	once sync.Once
	gone chan struct{} // closed once nobody reads any more
}

func newPipe(out io.Writer) *pipe { return &pipe{out: out, gone: make(chan struct{})} }

// Write implements io.Writer.
func (p *pipe) Write(b []byte) (int, error) {
	select {
	case <-p.gone:
		return len(b), nil
	default:
	}
	n, err := p.out.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		p.once.Do(func() { close(p.gone) })
		return len(b), nil
	}
	return n, err
}
