package livefile

import (
	"bytes"
	"cmp"
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
	return openWithParser(set, []File{f}, fmt.Sprintf("secret %p", check), func(contents [][]byte) (Parsed[string], error) {
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

// KeyFiles is a private key with the certificate and the passphrase that belong to it.
type KeyFiles struct {
	Cert       File // the zero value for a key alone
	Key        File
	Passphrase File // the zero value for none
}

// files returns those that are there, in the order of the fields.
func (k KeyFiles) files() []File {
	var out []File
	for _, f := range []File{k.Cert, k.Key, k.Passphrase} {
		if f.Given() {
			out = append(out, f)
		}
	}
	return out
}

// passphraseKey returns the key of the configuration for a file with the passphrase.
func (k KeyFiles) passphraseKey() string {
	return strings.TrimSuffix(k.Key.Key, "_file") + "_passphrase_file"
}

// KeyError says why a private key cannot be decrypted. It is a whole sentence.
type KeyError struct {
	files KeyFiles
	err   error // nil if there is no passphrase
}

// Error implements error.
func (e *KeyError) Error() string {
	passphrase := e.files.Passphrase
	var unsupported *unsupportedError
	switch {
	case e.err == nil:
		return fmt.Sprintf("%s is encrypted, and relay has no passphrase for it: set %s to a file that holds the passphrase", e.files.Key, e.files.passphraseKey())
	case errors.As(e.err, &unsupported), errors.Is(e.err, errKeyFormat):
		return fmt.Sprintf("%s cannot be decrypted: %v", e.files.Key, e.err)
	default:
		return fmt.Sprintf("%s cannot be decrypted with %s: %v; correct the passphrase, or the key", e.files.Key, passphrase, e.err)
	}
}

// Unwrap returns the cause.
func (e *KeyError) Unwrap() error { return e.err }

// Pair opens a certificate and its private key, both in PEM. The three of k are followed together:
// new content is used once it fits.
func Pair(set *Set, k KeyFiles) (*Value[*tls.Certificate], error) {
	return openWithParser(set, k.files(), "pair", func(contents [][]byte) (Parsed[*tls.Certificate], error) {
		none := Parsed[*tls.Certificate]{}
		key, secrets, err := k.plainKey(contents[1:])
		if err != nil {
			return none, err
		}
		if err := cmp.Or(checkLines(k.Cert, contents[0]), checkLines(k.Key, key)); err != nil {
			return none, err
		}
		pair, err := tls.X509KeyPair(contents[0], key)
		if err != nil {
			return none, &wholeError{fmt.Errorf("%s and %s do not hold a certificate and its key: %w", k.Cert, k.Key, err)}
		}
		if err := errors.Join(checkEnd(contents[0]), checkEnd(contents[1])); err != nil {
			return none, err
		}
		return Parsed[*tls.Certificate]{Value: &pair, Secrets: secrets}, nil
	})
}

// PrivateKey opens a private key in PEM: PKCS#8, PKCS#1 or SEC 1. It does not look at the
// certificate of k.
func PrivateKey(set *Set, k KeyFiles) (*Value[crypto.Signer], error) {
	k.Cert = File{}
	return openWithParser(set, k.files(), "key", func(contents [][]byte) (Parsed[crypto.Signer], error) {
		text, secrets, err := k.plainKey(contents)
		if err != nil {
			return Parsed[crypto.Signer]{}, err
		}
		if err := checkLines(k.Key, text); err != nil {
			return Parsed[crypto.Signer]{}, err
		}
		key, err := parsePrivateKey(text)
		return Parsed[crypto.Signer]{Value: key, Secrets: secrets}, err
	})
}

var (
	errNoKey = errors.New("holds no PEM private key")
	errLines = errors.New("holds PEM without its line breaks; put each line of it on its own line, in the configuration below a |")
)

// wholeError is an error of a parser that names the files itself.
type wholeError struct{ err error }

func (e *wholeError) Error() string { return e.err.Error() }
func (e *wholeError) Unwrap() error { return e.err }

// checkLines tells PEM that has lost its line breaks, as in a variable of the environment or in
// YAML without a |. It says nothing of other text. The error is nil or a *wholeError.
func checkLines(f File, text []byte) error {
	if block, _ := pem.Decode(text); block == nil && bytes.Contains(text, []byte("-----BEGIN ")) && bytes.Contains(text, []byte("-----END ")) {
		return &wholeError{fmt.Errorf("%s %w", f, errLines)}
	}
	return nil
}

// plainKey returns the PEM of a key, decrypted if it is encrypted, and what must not be shown.
// contents are those of the key and of the passphrase, if there is one.
func (k KeyFiles) plainKey(contents [][]byte) ([]byte, []string, error) {
	text := contents[0]
	var passphrase string
	var secrets []string
	if len(contents) > 1 {
		passphrase = strings.TrimRight(string(contents[1]), " \t\r\n")
		secrets = []string{passphrase}
	}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return text, secrets, nil
		}
		if !isKey(block) {
			continue
		}
		if !isEncrypted(block) {
			return text, secrets, nil
		}
		if passphrase == "" {
			return nil, nil, &wholeError{&KeyError{files: k}}
		}
		der, err := decrypt(block, []byte(passphrase))
		if err == nil {
			_, err = parseDER(der)
		}
		if err != nil {
			return nil, nil, &wholeError{&KeyError{k, err}}
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), secrets, nil
	}
}

func isKey(block *pem.Block) bool {
	return block.Type == "PRIVATE KEY" || strings.HasSuffix(block.Type, " PRIVATE KEY")
}

// parseDER reads a private key that is not encrypted. The error is errPassphrase: a key that was
// decrypted with a wrong passphrase cannot be read.
func parseDER(der []byte) (crypto.Signer, error) {
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
	} {
		if key, err := parse(der); err == nil {
			if signer, ok := key.(crypto.Signer); ok {
				return signer, nil
			}
		}
	}
	return nil, errPassphrase
}

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
		if !isKey(block) {
			continue
		}
		signer, err := parseDER(block.Bytes)
		if err != nil {
			return nil, errors.New("holds a private key that cannot be read")
		}
		return signer, nil
	}
}
