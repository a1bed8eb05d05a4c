package livefile

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Secret opens a file that holds one secret, whose white space at the end is dropped. check, if not nil, says what is wrong
// with a secret; its error continues a sentence that begins with the file, and does not repeat the secret.
func Secret(set *Set, f File, check func(string) error) (*Value[string], error) {
	return Open(set, []File{f}, func(contents [][]byte) (Parsed[string], error) {
		text := strings.TrimRight(string(contents[0]), " \t\r\n")
		if check != nil {
			if err := check(text); err != nil {
				return Parsed[string]{}, err
			}
		}
		return Parsed[string]{Value: text, Secrets: []string{text}}, nil
	})
}

// Authorities opens a PEM file with certificates of authorities.
func Authorities(set *Set, f File) (*Value[*x509.CertPool], error) {
	return Open(set, []File{f}, func(contents [][]byte) (Parsed[*x509.CertPool], error) {
		pool, err := parseAuthorities(contents[0])
		return Parsed[*x509.CertPool]{Value: pool}, err
	})
}

// parseAuthorities is strict if the file ends within a certificate, which is how a file looks that is being written.
func parseAuthorities(text []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("holds no PEM certificate")
	}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
	}
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		return nil, errors.New("ends within a certificate")
	}
	return pool, nil
}

// Pair opens a certificate and its private key, both PEM files.
func Pair(set *Set, cert, key File) (*Value[*tls.Certificate], error) {
	return Open(set, []File{cert, key}, func(contents [][]byte) (Parsed[*tls.Certificate], error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return Parsed[*tls.Certificate]{}, fmt.Errorf("do not hold a certificate and its key: %w", err)
		}
		return Parsed[*tls.Certificate]{Value: &pair}, nil
	})
}
