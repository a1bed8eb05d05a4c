// Package tlsconf is the TLS section that every connection of relay has in the configuration.
package tlsconf

import (
	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
)

// TLS says where the authorities, the certificate and the key of a TLS connection are. The zero
// value means: the system's authorities, no client certificate.
type TLS struct {
	Enabled            bool   `yaml:"enabled" default:"false" doc:"Use TLS. Implied by any other key of this section."`
	CAFile             string `yaml:"ca_file" doc:"PEM file with the authorities to trust instead of the system's. New content is used for the next connection."`
	CertFile           string `yaml:"cert_file" doc:"PEM file with the client certificate, if the server asks for one. New content of it and key_file is used for the next connection, once the two belong together."`
	KeyFile            string `yaml:"key_file" doc:"PEM file with the private key of cert_file, which may be encrypted."`
	CA                 PEM    `yaml:"ca" doc:"PEM text of the authorities, in place of ca_file."`
	Pair               `yaml:",inline"`
	ServerName         string `yaml:"server_name" doc:"Name expected in the server's certificate, if it differs from the address."`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" default:"false" doc:"Accept any certificate. For tests only: anybody in between can read and alter the events."`
}

// Pair is what a TLS section may hold in place of cert_file and key_file, and the passphrase of the
// key.
type Pair struct {
	Cert              PEM           `yaml:"cert" doc:"PEM text of the certificate, in place of cert_file."`
	Key               secret.String `yaml:"key" file:"own" doc:"PEM text of the private key, in place of key_file."`
	KeyPassphrase     secret.String `yaml:"key_passphrase" file:"own" doc:"Passphrase of the private key, if that is encrypted."`
	KeyPassphraseFile string        `yaml:"key_passphrase_file" example:"/run/secrets/key_passphrase" doc:"File that holds key_passphrase, instead of key_passphrase itself. White space at its end is dropped. New content takes effect without a reload, together with a new key."`
}

// PEM is PEM text in the configuration, of certificates. It prints as a placeholder, because people
// put keys beside certificates.
type PEM string

const placeholder = "[PEM]"

// UnmarshalText implements encoding.TextUnmarshaler. It takes any text: its user says what is wrong
// with it, without repeating it.
func (p *PEM) UnmarshalText(text []byte) error {
	*p = PEM(text)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (p PEM) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// String implements fmt.Stringer.
func (p PEM) String() string {
	if p == "" {
		return ""
	}
	return placeholder
}

// InUse reports whether the section asks for TLS at all.
func (t TLS) InUse() bool { return t != TLS{} }

// hasCert reports whether there is a client certificate.
func (t TLS) hasCert() bool { return t.CertFile != "" || t.Cert != "" }

// hasKey reports whether there is a private key.
func (t TLS) hasKey() bool { return t.KeyFile != "" || t.Key.IsSet() }

// KeyError is a fault of a TLS section and the key of the section that holds it.
type KeyError struct{ key, text string }

// Error implements error. The text continues a sentence that begins with the key.
func (e *KeyError) Error() string { return e.text }

// Key returns the key at fault, relative to the section.
func (e *KeyError) Key() string { return e.key }

// Validate checks what the tags cannot say. The error is a *KeyError.
func (t TLS) Validate() error {
	if err := CheckConflict("ca", t.CA != "", t.CAFile); err != nil {
		return err
	}
	if err := t.Check(t.CertFile, t.KeyFile); err != nil {
		return err
	}
	switch {
	case t.hasCert() && !t.hasKey():
		return &KeyError{named("cert", t.CertFile), "has no key_file beside it: name the file with its private key"}
	case t.hasKey() && !t.hasCert():
		return &KeyError{named("key", t.KeyFile), "has no cert_file beside it: name the file with its certificate"}
	}
	return nil
}

// named returns the key that is in use: name itself, or the one for a file.
func named(name, file string) string {
	if file != "" {
		return name + "_file"
	}
	return name
}

// CheckConflict returns a *KeyError if the key name is set beside the one for a file with the same.
func CheckConflict(name string, set bool, file string) error {
	if set && file != "" {
		return &KeyError{name + "_file", "stands beside " + name + ", and only one of them can hold: remove one"}
	}
	return nil
}

// Check reports what contradicts the files of a section: a text beside the file that holds the
// same, and a passphrase without a key. The error is nil or a *KeyError.
func (p Pair) Check(certFile, keyFile string) error {
	for _, err := range []error{
		CheckConflict("cert", p.Cert != "", certFile), CheckConflict("key", p.Key.IsSet(), keyFile), CheckConflict("key_passphrase", p.KeyPassphrase.IsSet(), p.KeyPassphraseFile),
	} {
		if err != nil {
			return err
		}
	}
	if (p.KeyPassphrase.IsSet() || p.KeyPassphraseFile != "") && keyFile == "" && !p.Key.IsSet() {
		return &KeyError{named("key_passphrase", p.KeyPassphraseFile), "has no key_file beside it: name the file with the private key that it decrypts"}
	}
	return nil
}

// Files returns the certificate, the key and the passphrase of p, or those at these paths. prefix
// is put before the keys in messages.
func (p Pair) Files(prefix, certFile, keyFile string) livefile.KeyFiles {
	return livefile.KeyFiles{
		Cert:       Either(prefix+"cert", certFile, string(p.Cert)),
		Key:        Either(prefix+"key", keyFile, p.Key.Reveal()),
		Passphrase: Either(prefix+"key_passphrase", p.KeyPassphraseFile, p.KeyPassphrase.Reveal()),
	}
}

// Either returns the file at path, or the text that the configuration holds in its place. key is
// the key of the text in messages; that of the file is the same with _file.
func Either(key, path, text string) livefile.File {
	if path == "" && text != "" {
		return livefile.File{Key: key, Text: text}
	}
	return livefile.File{Key: key + "_file", Path: path}
}
