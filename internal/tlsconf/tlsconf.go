// Package tlsconf is the TLS section that every connection of relay has in the configuration.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TLS names the files of a TLS connection. The zero value means: the system's authorities, no client certificate.
type TLS struct {
	Enabled            bool   `yaml:"enabled" default:"false" doc:"Use TLS. Implied by any other key of this section."`
	CAFile             string `yaml:"ca_file" doc:"PEM file with the authorities to trust instead of the system's."`
	CertFile           string `yaml:"cert_file" doc:"PEM file with the client certificate, where the server asks for one."`
	KeyFile            string `yaml:"key_file" doc:"PEM file with the private key of cert_file."`
	ServerName         string `yaml:"server_name" doc:"Name expected in the server's certificate, where it differs from the address."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" default:"false" doc:"Accept any certificate. For tests only: anybody in between can read and alter the events."`
}

// InUse reports whether the section asks for TLS at all.
func (t TLS) InUse() bool { return t != TLS{} }

// Build reads the files. It returns nil, nil where TLS is not in use.
func (t TLS) Build() (*tls.Config, error) {
	if !t.InUse() {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify} //nolint:gosec // asked for by name, documented as unsafe
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading tls.ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca_file %s holds no PEM certificate", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, fmt.Errorf("tls.cert_file and tls.key_file go together: one of them is missing")
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading tls.cert_file %s and tls.key_file %s: %w", t.CertFile, t.KeyFile, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
