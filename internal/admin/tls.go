package admin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"workos-relay/conf/livefile"
)

// TLS says where the server's own certificate is, and the authorities whose client certificates may
// do everything. The zero value means: no TLS.
type TLS struct {
	Pair     livefile.KeyFiles
	ClientCA livefile.File // the zero value for none
}

// InUse reports whether the server speaks TLS.
func (t TLS) InUse() bool { return t.Pair.Cert.Given() || t.Pair.Key.Given() || t.ClientCA.Given() }

// Check says which key is missing; it reads nothing.
func (t TLS) Check() error {
	if t.InUse() && (!t.Pair.Cert.Given() || !t.Pair.Key.Given()) {
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
	if t.ClientCA.Given() {
		if c.cas, err = livefile.Authorities(files, t.ClientCA); err != nil {
			return nil, err
		}
	}
	if c.pair, err = livefile.Pair(files, t.Pair); err != nil {
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
