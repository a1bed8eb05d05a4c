// Package tlsconf is the TLS section that every connection of relay has in the configuration.
package tlsconf

import "errors"

// TLS names the files of a TLS connection. The zero value means: the system's authorities, no
// client certificate.
type TLS struct {
	Enabled            bool   `yaml:"enabled" default:"false" doc:"Use TLS. Implied by any other key of this section."`
	CAFile             string `yaml:"ca_file" doc:"PEM file with the authorities to trust instead of the system's. New content is used for the next connection."`
	CertFile           string `yaml:"cert_file" doc:"PEM file with the client certificate, if the server asks for one. New content of it and key_file is used for the next connection, once the two belong together."`
	KeyFile            string `yaml:"key_file" doc:"PEM file with the private key of cert_file."`
	ServerName         string `yaml:"server_name" doc:"Name expected in the server's certificate, if it differs from the address."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" default:"false" doc:"Accept any certificate. For tests only: anybody in between can read and alter the events."`
}

// InUse reports whether the section asks for TLS at all.
func (t TLS) InUse() bool { return t != TLS{} }

var errOneOfPair = errors.New("tls.cert_file and tls.key_file go together: one of them is missing")
