package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"workos-relay/conf/livefile"
)

// Live is a TLS section whose files are read again when they change. It is safe for concurrent use.
type Live struct {
	section TLS
	cas     *livefile.Value[*x509.CertPool] // nil for the system's authorities
	system  *System
	pair    *livefile.Value[*tls.Certificate] // nil without a client certificate
}

// Open reads the files. prefix is put before the keys of the section in messages, such as
// "sinks[kafka].". It returns nil, nil if TLS is not in use. An error means that the section cannot
// work as it is.
func (t TLS) Open(set *livefile.Set, prefix string) (*Live, error) {
	if !t.InUse() {
		return nil, nil
	}
	if fault := (*KeyError)(nil); errors.As(t.Validate(), &fault) {
		return nil, fmt.Errorf("%stls.%s %w", prefix, fault.key, fault)
	}
	l := &Live{section: t}
	var err error
	if t.CAFile == "" && t.CA == "" {
		l.system = SystemRoots(set)
	} else {
		if l.cas, err = livefile.Authorities(set, Either(prefix+"tls.ca", t.CAFile, string(t.CA))); err != nil {
			return nil, err
		}
	}
	if t.hasCert() {
		if l.pair, err = livefile.Pair(set, t.Files(prefix+"tls.", t.CertFile, t.KeyFile)); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Config reads the files and returns the configuration for one connection that is about to be made.
// The caller may change it.
func (l *Live) Config() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: l.section.ServerName, InsecureSkipVerify: l.section.InsecureSkipVerify} //nolint:gosec // asked for by name, documented as unsafe
	if l.cas != nil {
		c.RootCAs = l.cas.Latest()
	} else {
		c.RootCAs = l.system.Pool()
	}
	if l.pair != nil {
		c.Certificates = []tls.Certificate{*l.pair.Latest()}
	}
	return c
}

// Roots returns the authorities to trust, the same pool until they change; nil for those of the
// system as Go has read them. It is for callers that ask often: it reads no file if its content is
// as fresh as livefile.Value.Get says.
func (l *Live) Roots() *x509.CertPool {
	if l.cas != nil {
		return l.cas.Get()
	}
	return l.system.Pool()
}

// Certificate returns the client certificate, the same one until it changes; nil for none. It reads
// files as seldom as Roots.
func (l *Live) Certificate() *tls.Certificate {
	if l.pair == nil {
		return nil
	}
	return l.pair.Get()
}

// Version rises with each change of a file.
func (l *Live) Version() uint64 {
	var n uint64
	if l.cas != nil {
		l.cas.Get()
		n += l.cas.Version()
	} else {
		n += l.system.version()
	}
	if l.pair != nil {
		l.pair.Get()
		n += l.pair.Version()
	}
	return n
}
