package livefile

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // keys that exist are encrypted with 3DES
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // the default of PBKDF2 in RFC 8018
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"strings"

	"golang.org/x/crypto/scrypt"
)

var (
	// errPassphrase says that the passphrase does not fit, or that what it should open is damaged:
	// the two cannot be told apart.
	errPassphrase = errors.New("the passphrase is wrong, or the key is damaged")
	errKeyFormat  = errors.New("the key is damaged: it is not an encrypted PKCS#8 key")
)

// unsupportedError says that relay cannot read the encryption of a key.
type unsupportedError struct{ what string }

func (e *unsupportedError) Error() string {
	return "it is encrypted with " + e.what + ", which relay does not support; convert the key with: openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW"
}

// The bounds of a key derivation. Anyone who can write the key file decides its parameters,
// and relay must neither run out of memory nor stand still because of them.
const (
	maxRounds       = 10_000_000 // of PBKDF2; about 5 s
	maxScryptMemory = 128 << 20
	maxScryptCost   = 1 << 24 // N * r * p: 64 times openssl's default
	maxSalt         = 1024
)

// isEncrypted reports whether a PEM block holds an encrypted private key.
func isEncrypted(block *pem.Block) bool {
	return block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED")
}

// decrypt returns the DER of an encrypted private key: PKCS#8 with PBES2 (RFC 8018), or the older
// encryption of PEM itself (RFC 1421). Its errors repeat nothing of the key or the passphrase.
func decrypt(block *pem.Block, passphrase []byte) ([]byte, error) {
	if block.Type == "ENCRYPTED PRIVATE KEY" {
		return decryptPKCS8(block.Bytes, passphrase)
	}
	name, _, _ := strings.Cut(block.Headers["DEK-Info"], ",")
	switch strings.TrimSpace(name) {
	case "DES-CBC", "DES-EDE3-CBC", "AES-128-CBC", "AES-192-CBC", "AES-256-CBC":
	default:
		return nil, &unsupportedError{"another cipher than AES-CBC or 3DES"}
	}
	der, err := x509.DecryptPEMBlock(block, passphrase) //nolint:staticcheck // insecure to make such keys, not to read them
	if err != nil {
		return nil, errPassphrase
	}
	return der, nil
}

// The structures of RFC 5958 and RFC 8018.
type (
	encryptedKey struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pbes2Params struct{ KDF, Cipher pkix.AlgorithmIdentifier }
	// pbkdf2Params has the choice of a salt as octets only; nothing makes the other one.
	pbkdf2Params struct {
		Salt      []byte
		Rounds    int
		KeyLength int                      `asn1:"optional"`
		PRF       pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	scryptParams struct {
		Salt      []byte
		N, R, P   int
		KeyLength int `asn1:"optional"`
	}
)

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
)

// prfs are the pseudorandom functions of PBKDF2 by OID; "" is the default.
var prfs = map[string]func() hash.Hash{
	"": sha1.New, "1.2.840.113549.2.7": sha1.New, "1.2.840.113549.2.8": sha256.New224, "1.2.840.113549.2.9": sha256.New,
	"1.2.840.113549.2.10": sha512.New384, "1.2.840.113549.2.11": sha512.New,
	"1.2.840.113549.2.12": sha512.New512_224, "1.2.840.113549.2.13": sha512.New512_256,
}

// keyCipher is a cipher of PBES2.
type keyCipher struct {
	size int // of the key
	open func(key []byte) (cipher.Block, error)
}

var keyCiphers = map[string]keyCipher{
	"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
	"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
	"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
}

func decryptPKCS8(der, passphrase []byte) ([]byte, error) {
	var key encryptedKey
	if rest, err := asn1.Unmarshal(der, &key); err != nil || len(rest) > 0 {
		return nil, errKeyFormat
	}
	if !key.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, &unsupportedError{"an algorithm from before PBES2 (" + key.Algorithm.Algorithm.String() + ")"}
	}
	var params pbes2Params
	if _, err := asn1.Unmarshal(key.Algorithm.Parameters.FullBytes, &params); err != nil {
		return nil, errKeyFormat
	}
	c, ok := keyCiphers[params.Cipher.Algorithm.String()]
	if !ok {
		return nil, &unsupportedError{"the cipher " + params.Cipher.Algorithm.String()}
	}
	secret, err := derive(params.KDF, passphrase, c.size)
	if err != nil {
		return nil, err
	}
	block, err := c.open(secret)
	if err != nil {
		return nil, errKeyFormat
	}
	var iv []byte
	if _, err := asn1.Unmarshal(params.Cipher.Parameters.FullBytes, &iv); err != nil || len(iv) != block.BlockSize() || len(key.Data) == 0 || len(key.Data)%block.BlockSize() != 0 {
		return nil, errKeyFormat
	}
	plain := make([]byte, len(key.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, key.Data)
	return unpad(plain, block.BlockSize())
}

// unpad takes off the padding of PKCS#7.
func unpad(plain []byte, size int) ([]byte, error) {
	n := int(plain[len(plain)-1])
	if n == 0 || n > size || n > len(plain) {
		return nil, errPassphrase
	}
	for _, b := range plain[len(plain)-n:] {
		if int(b) != n {
			return nil, errPassphrase
		}
	}
	return plain[:len(plain)-n], nil
}

// derive returns the key of size bytes that follows from the passphrase.
func derive(kdf pkix.AlgorithmIdentifier, passphrase []byte, size int) ([]byte, error) {
	switch {
	case kdf.Algorithm.Equal(oidPBKDF2):
		var p pbkdf2Params
		if _, err := asn1.Unmarshal(kdf.Parameters.FullBytes, &p); err != nil || p.Rounds < 1 || len(p.Salt) > maxSalt || p.KeyLength != 0 && p.KeyLength != size {
			return nil, errKeyFormat
		}
		if p.Rounds > maxRounds {
			return nil, &unsupportedError{fmt.Sprintf("%d rounds of PBKDF2, more than %d", p.Rounds, maxRounds)}
		}
		prf, ok := prfs[p.PRF.Algorithm.String()]
		if !ok {
			return nil, &unsupportedError{"the hash " + p.PRF.Algorithm.String()}
		}
		return pbkdf2.Key(prf, string(passphrase), p.Salt, p.Rounds, size)
	case kdf.Algorithm.Equal(oidScrypt):
		var p scryptParams
		if _, err := asn1.Unmarshal(kdf.Parameters.FullBytes, &p); err != nil || len(p.Salt) > maxSalt || p.KeyLength != 0 && p.KeyLength != size ||
			p.N < 2 || p.N&(p.N-1) != 0 || p.R < 1 || p.P < 1 {
			return nil, errKeyFormat
		}
		if p.N > maxScryptMemory/128 || p.R > maxScryptMemory/128/p.N || p.P > maxScryptCost/(p.N*p.R) {
			return nil, &unsupportedError{fmt.Sprintf("more than %d MiB or %d steps of scrypt", maxScryptMemory>>20, maxScryptCost)}
		}
		return scrypt.Key(passphrase, p.Salt, p.N, p.R, p.P, size)
	default:
		return nil, &unsupportedError{"the key derivation " + kdf.Algorithm.String()}
	}
}
