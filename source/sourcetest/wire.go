package sourcetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"
)

// WireHost is the host name in the certificate of a Wire.
const WireHost = "sourcetest.invalid"

// Wire serves a Server over TLS and HTTP/2 on connections in memory. It works inside a bubble of
// testing/synctest. Its methods are safe for concurrent use.
type Wire struct {
	accept chan net.Conn
	srv    *http.Server
	roots  *x509.CertPool

	mu     sync.Mutex
	conns  []*wireConn
	closed chan struct{}
	done   chan struct{} // closed when Serve has returned
}

// Wire starts to serve over TLS and HTTP/2 in memory. Close ends it. The URL for clients is
// https:// and WireHost.
func (s *Server) Wire() *Wire {
	certificate := wireCertificate()
	w := &Wire{
		accept: make(chan net.Conn), roots: x509.NewCertPool(), closed: make(chan struct{}), done: make(chan struct{}),
		srv: &http.Server{
			Handler: s, ReadHeaderTimeout: time.Hour, ErrorLog: log.New(io.Discard, "", 0),
			TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		},
	}
	w.roots.AddCert(certificate.Leaf)
	go func() {
		defer close(w.done)
		_ = w.srv.ServeTLS(wireListener{w}, "", "") // returns when Close closes the listener
	}()
	return w
}

// Dial opens a connection to the server, for any address.
func (w *Wire) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case w.accept <- server:
	case <-w.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c := &wireConn{Conn: client, frozen: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, c)
	return c, nil
}

// TLS returns a configuration of a client that trusts the server.
func (w *Wire) TLS() *tls.Config { return &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12} }

// Dialed returns the number of connections so far.
func (w *Wire) Dialed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// Freeze makes the connections that are open now carry nothing more, without closing them. New
// connections work.
func (w *Wire) Freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.freeze()
	}
}

// Close ends every connection, and returns when the server does not accept any more.
func (w *Wire) Close() {
	_ = w.srv.Close()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
}

// wireListener is the net.Listener of a Wire.
type wireListener struct{ w *Wire }

func (l wireListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.w.accept:
		return c, nil
	case <-l.w.closed:
		return nil, net.ErrClosed
	}
}

func (l wireListener) Close() error {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	select {
	case <-l.w.closed:
	default:
		close(l.w.closed)
	}
	return nil
}

func (l wireListener) Addr() net.Addr { return &net.UnixAddr{Name: WireHost, Net: "memory"} }

// wireConn is the client's end of a connection.
type wireConn struct {
	net.Conn
	once   sync.Once
	frozen chan struct{} // closed when the connection carries nothing more
}

func (c *wireConn) freeze() { c.once.Do(func() { close(c.frozen) }) }

// Write swallows what is written to a frozen connection, as a network does until its buffers are
// full.
func (c *wireConn) Write(p []byte) (int, error) {
	select {
	case <-c.frozen:
		return len(p), nil
	default:
		return c.Conn.Write(p)
	}
}

// wireCertificate is a self-signed certificate for WireHost, valid at any time that a test may
// have.
var wireCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: WireHost}, DNSNames: []string{WireHost},
		NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
})
