package livefile

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Secret opens a file that holds one secret, whose white space at the end is dropped. check, if not
// nil, says what is wrong with a secret; its error continues a sentence that begins with the file,
// and does not repeat the secret.
func Secret(set *Set, f File, check func(string) error) (*Value[string], error) {
	return open(set, []File{f}, fmt.Sprintf("secret %p", check), func(contents [][]byte) (Parsed[string], error) {
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
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(contents[0]) {
			return Parsed[*x509.CertPool]{}, errNoCertificate
		}
		return Parsed[*x509.CertPool]{Value: pool}, CheckAuthorities(contents[0])
	})
}

var (
	errNoCertificate = errors.New("holds no PEM certificate")
	errCutOff        = errors.New("ends within a certificate or a key")
)

// CheckAuthorities says what is wrong with a PEM file of authorities. It is strict if the file ends
// within a certificate, which is how a file looks that is being written.
func CheckAuthorities(text []byte) error {
	if block, _ := pem.Decode(text); block == nil {
		return errNoCertificate
	}
	return checkEnd(text)
}

// checkEnd returns an error if text ends within a PEM block.
func checkEnd(text []byte) error {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
	}
	if bytes.Contains(text, []byte("-----BEGIN ")) {
		return errCutOff
	}
	return nil
}

// Pair opens a certificate and its private key, both PEM files.
func Pair(set *Set, cert, key File) (*Value[*tls.Certificate], error) {
	return Open(set, []File{cert, key}, func(contents [][]byte) (Parsed[*tls.Certificate], error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return Parsed[*tls.Certificate]{}, fmt.Errorf("do not hold a certificate and its key: %w", err)
		}
		if err := errors.Join(checkEnd(contents[0]), checkEnd(contents[1])); err != nil {
			return Parsed[*tls.Certificate]{}, err
		}
		return Parsed[*tls.Certificate]{Value: &pair}, nil
	})
}

// PrivateKey opens a PEM file with a private key: PKCS#8, PKCS#1 or SEC 1.
func PrivateKey(set *Set, f File) (*Value[crypto.Signer], error) {
	return Open(set, []File{f}, func(contents [][]byte) (Parsed[crypto.Signer], error) {
		key, err := parsePrivateKey(contents[0])
		return Parsed[crypto.Signer]{Value: key}, err
	})
}

var errNoKey = errors.New("holds no PEM private key")

// parsePrivateKey returns the first private key of a PEM file. Its errors repeat nothing of it.
func parsePrivateKey(text []byte) (crypto.Signer, error) {
	if err := checkEnd(text); err != nil {
		return nil, err
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errNoKey
		}
		if block.Type != "PRIVATE KEY" && !strings.HasSuffix(block.Type, " PRIVATE KEY") {
			continue
		}
		for _, parse := range []func([]byte) (any, error){
			x509.ParsePKCS8PrivateKey,
			func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
			func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
		} {
			if key, err := parse(block.Bytes); err == nil {
				if signer, ok := key.(crypto.Signer); ok {
					return signer, nil
				}
			}
		}
		return nil, errors.New("holds a private key that cannot be read")
	}
}
