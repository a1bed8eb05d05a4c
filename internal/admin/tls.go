package admin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// TLS names the files of the server's own certificate, and of the authorities whose client certificates may do everything. The zero
// value means: no TLS.
type TLS struct {
	CertFile, KeyFile, ClientCAFile string
}

// InUse reports whether the server speaks TLS.
func (t TLS) InUse() bool { return t != TLS{} }

// Check says which key is missing; it reads nothing.
func (t TLS) Check() error {
	if t.InUse() && (t.CertFile == "" || t.KeyFile == "") {
		return errors.New("needs both cert_file and key_file")
	}
	return nil
}

// credentials are the files, read. A certificate that is replaced on the disk is read again; the authorities are not.
type credentials struct {
	files TLS
	cas   *x509.CertPool

	mu     sync.Mutex
	pair   *tls.Certificate
	readAt time.Time // when both files had changed last
}

// load reads everything.
func (t TLS) load() (*credentials, error) {
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("admin.tls %w", err)
	}
	c := &credentials{files: t}
	if t.ClientCAFile != "" {
		pem, err := os.ReadFile(t.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("reading admin.tls.client_ca_file: %w", err)
		}
		if c.cas = x509.NewCertPool(); !c.cas.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("admin.tls.client_ca_file %s holds no PEM certificate", t.ClientCAFile)
		}
	}
	_, err := c.certificate(nil)
	return c, err
}

// certificate returns the pair as it is on the disk now. Where it cannot be read any more, as in the middle of a replacement, the one
// before holds.
func (c *credentials) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, err := newest(c.files.CertFile, c.files.KeyFile)
	if err == nil && (c.pair == nil || !changed.Equal(c.readAt)) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile); err == nil {
			c.pair, c.readAt = &pair, changed
		}
	}
	if c.pair == nil {
		return nil, fmt.Errorf("reading admin.tls.cert_file %s and key_file %s: %w", c.files.CertFile, c.files.KeyFile, err)
	}
	return c.pair, nil
}

// newest is when one of the files changed last.
func newest(files ...string) (time.Time, error) {
	var at time.Time
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return at, err
		}
		if info.ModTime().After(at) {
			at = info.ModTime()
		}
	}
	return at, nil
}

// config is for one connection. Probes come without a certificate, so that none is demanded here: Security asks for it.
func (c *credentials) config() *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.certificate}
	if c.cas != nil {
		t.ClientCAs, t.ClientAuth = c.cas, tls.VerifyClientCertIfGiven
	}
	return t
}
