package sourcetest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"workos-relay/internal/retry"
)

// reply is an answer before it takes a way out.
type reply struct {
	status int
	header http.Header
	body   [][]byte
	cut    int           // bytes of the body after which the connection breaks; negative: it does not
	stalls bool          // instead of breaking, the connection brings nothing more
	spread time.Duration // over which the body trickles
	reset  bool          // the connection breaks before anything is sent
	events int
	fault  string
}

func newReply(status int, contentType string, body ...[]byte) *reply {
	return &reply{status: status, header: http.Header{"Content-Type": {contentType}}, body: body, cut: -1}
}

func errorReply(e *apiError) *reply {
	r := newReply(e.status, "application/json; charset=utf-8", e.body)
	for k, v := range e.header {
		r.header[k] = v
	}
	return r
}

func (r *reply) size() (n int) {
	for _, b := range r.body {
		n += len(b)
	}
	return n
}

// flat returns the body in one piece that may be changed.
func (r *reply) flat() []byte { return bytes.Join(r.body, nil) }

// reader returns the body as a client reads it.
func (r *reply) reader(ctx context.Context) *bodyReader {
	n := r.size()
	b := &bodyReader{ctx: ctx, body: r.body, left: n, step: n}
	if r.cut >= 0 && r.cut < n {
		b.left, b.broken, b.stalls = r.cut, true, r.stalls
	}
	if r.spread > 0 {
		const steps = 10
		b.step, b.pause = max(n/steps, 1), r.spread/steps
	}
	return b
}

// bodyReader hands out a body piece by piece, slowly or not wholly where asked to.
type bodyReader struct {
	ctx    context.Context
	body   [][]byte
	left   int // bytes still to hand out
	broken bool
	stalls bool
	step   int // most bytes between two pauses
	pause  time.Duration
	gone   int         // bytes since the last pause
	closed atomic.Bool // Close may come while a Read is under way
}

func (b *bodyReader) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.left == 0 {
		if b.stalls {
			<-b.ctx.Done()
			return 0, b.ctx.Err()
		}
		if b.broken {
			return 0, io.ErrUnexpectedEOF
		}
		return 0, io.EOF
	}
	if b.pause > 0 && b.gone >= b.step {
		if err := retry.Sleep(b.ctx, b.pause); err != nil {
			return 0, err
		}
		b.gone = 0
	}
	n := 0
	for room := min(len(p), b.left, max(b.step-b.gone, 1)); n < room; {
		k := copy(p[n:room], b.body[0])
		n += k
		if b.body[0] = b.body[0][k:]; len(b.body[0]) == 0 {
			b.body = b.body[1:]
		}
	}
	b.left -= n
	b.gone += n
	return n, nil
}

func (b *bodyReader) Close() error {
	b.closed.Store(true)
	return nil
}

// ServeHTTP implements http.Handler. If a fault cuts the connection it panics with
// http.ErrAbortHandler, which an http.Server takes as the wish to close it.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ctx := req.Context()
	r, err := s.answer(ctx, req)
	if err != nil || r.reset {
		panic(http.ErrAbortHandler)
	}
	for k, v := range r.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(r.size()))
	w.WriteHeader(r.status)
	if r.cut < 0 && r.spread == 0 {
		for _, b := range r.body {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
		return
	}
	body := r.reader(ctx)
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			if r.stalls {
				_ = http.NewResponseController(w).Flush()
			}
		}
		if err == io.EOF { //nolint:errorlint // bodyReader wraps nothing
			return
		}
		_ = http.NewResponseController(w).Flush() // what was written before the break is to arrive
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// RoundTripper returns the server as a transport in memory: it answers every request to any
// host, in the caller's own goroutine. It returns when the request's context ends.
func (s *Server) RoundTripper() http.RoundTripper { return roundTripper{s} }

// Client returns an http.Client over RoundTripper.
func (s *Server) Client() *http.Client { return &http.Client{Transport: s.RoundTripper()} }

type roundTripper struct{ s *Server }

func (t roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer func() { _ = req.Body.Close() }()
	}
	ctx := req.Context()
	r, err := t.s.answer(ctx, req)
	if err != nil {
		return nil, err
	}
	if r.reset {
		return nil, &net.OpError{Op: "read", Net: "memory", Err: syscall.ECONNRESET}
	}
	size := r.size()
	r.header.Set("Content-Length", strconv.Itoa(size))
	return &http.Response{
		Status:     strconv.Itoa(r.status) + " " + http.StatusText(r.status),
		StatusCode: r.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        r.header,
		Body:          r.reader(ctx),
		ContentLength: int64(size),
		Request:       req,
	}, nil
}
