package admin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"workos-relay/conf/livefile"
)

// TLS names the files of the server's own certificate, and of the authorities whose client
// certificates may do everything. The zero value means: no TLS.
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

// credentials follow the files of a TLS section.
type credentials struct {
	pair *livefile.Value[*tls.Certificate]
	cas  *livefile.Value[*x509.CertPool] // nil without client certificates
}

// load opens the files.
func (t TLS) load(files *livefile.Set) (*credentials, error) {
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("admin.tls %w", err)
	}
	c := &credentials{}
	var err error
	if t.ClientCAFile != "" {
		if c.cas, err = livefile.Authorities(files, livefile.File{Key: "admin.tls.client_ca_file", Path: t.ClientCAFile}); err != nil {
			return nil, err
		}
	}
	cert := livefile.File{Key: "admin.tls.cert_file", Path: t.CertFile}
	key := livefile.File{Key: "admin.tls.key_file", Path: t.KeyFile}
	if c.pair, err = livefile.Pair(files, cert, key); err != nil {
		return nil, err
	}
	return c, nil
}

// config is for one connection. Probes come without a certificate, so that none is demanded here:
// Security asks for it.
func (c *credentials) config() *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{*c.pair.Latest()}}
	if c.cas != nil {
		t.ClientCAs, t.ClientAuth = c.cas.Latest(), tls.VerifyClientCertIfGiven
	}
	return t
}
