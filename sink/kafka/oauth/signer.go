package oauth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // for ES384 and ES512
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// assertionLife is how long an assertion is valid, and how far back its begin is dated for a clock
// that is a little ahead.
const (
	assertionLife = 5 * time.Minute
	backdated     = 30 * time.Second
)

// Signer makes the assertion that proves a client by its private key.
type Signer struct {
	// Key returns the private key: RSA, ECDSA (P-256, P-384, P-521) or Ed25519.
	Key func() (crypto.Signer, error)
	// KeyID becomes the header kid; may be empty.
	KeyID string
	// Certificate, if not nil, returns the certificate of the key, whose thumbprint becomes the
	// header x5t#S256, by which Microsoft Entra ID finds the key.
	Certificate func() (*x509.Certificate, error)
	// Audience of the assertion; empty for the address of the token endpoint.
	Audience string
}

// Check reports whether the key can sign an assertion.
func (s *Signer) Check() error {
	_, err := s.sign("", "", time.Now())
	return err
}

// sign returns an assertion of the client for the endpoint.
func (s *Signer) sign(client, endpoint string, now time.Time) (string, error) {
	key, err := s.Key()
	if err != nil {
		return "", err
	}
	algorithm, hash, err := algorithmOf(key.Public())
	if err != nil {
		return "", err
	}
	header := map[string]string{"alg": algorithm, "typ": "JWT"}
	if s.KeyID != "" {
		header["kid"] = s.KeyID
	}
	if s.Certificate != nil {
		cert, err := s.Certificate()
		if err != nil {
			return "", err
		}
		if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cert.PublicKey) {
			return "", errors.New("the certificate of sasl.client_certificate_file is for another key than that of sasl.client_key_file")
		}
		sum := sha256.Sum256(cert.Raw)
		header["x5t#S256"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	audience := s.Audience
	if audience == "" {
		audience = endpoint
	}
	claims := map[string]any{
		"iss": client, "sub": client, "aud": audience, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Add(-backdated).Unix(), "exp": now.Add(assertionLife).Unix(),
	}
	return signJWT(key, hash, header, claims)
}

// algorithmOf returns the name of the algorithm for a key (RFC 7518) and its hash.
func algorithmOf(key crypto.PublicKey) (string, crypto.Hash, error) {
	const leastBits = 2048
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < leastBits {
			return "", 0, fmt.Errorf("the key of sasl.client_key_file has %d bits: RS256 needs %d", k.N.BitLen(), leastBits)
		}
		return "RS256", crypto.SHA256, nil
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return "ES256", crypto.SHA256, nil
		case 384:
			return "ES384", crypto.SHA384, nil
		case 521:
			return "ES512", crypto.SHA512, nil
		}
	case ed25519.PublicKey:
		return "EdDSA", crypto.Hash(0), nil
	}
	return "", 0, errors.New("the key of sasl.client_key_file is of a kind that has no JWT algorithm: use RSA, P-256, P-384, P-521 or Ed25519")
}

func signJWT(key crypto.Signer, hash crypto.Hash, header, claims any) (string, error) {
	var parts [2][]byte
	for i, part := range []any{header, claims} {
		var err error
		if parts[i], err = json.Marshal(part); err != nil {
			return "", fmt.Errorf("encoding an assertion: %w", err)
		}
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode(parts[0]) + "." + encode(parts[1])
	digest := []byte(text)
	if hash != 0 {
		h := hash.New()
		_, _ = h.Write(digest)
		digest = h.Sum(nil)
	}
	signature, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		return "", fmt.Errorf("signing an assertion: %w", err)
	}
	if k, ok := key.Public().(*ecdsa.PublicKey); ok {
		if signature, err = fixedSize(signature, (k.Curve.Params().BitSize+7)/8); err != nil {
			return "", err
		}
	}
	return text + "." + encode(signature), nil
}

// fixedSize turns an ECDSA signature from ASN.1 into the form of RFC 7518.
func fixedSize(der []byte, size int) ([]byte, error) {
	var s struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &s); err != nil {
		return nil, fmt.Errorf("signing an assertion: %w", err)
	}
	out := make([]byte, 2*size)
	s.R.FillBytes(out[:size])
	s.S.FillBytes(out[size:])
	return out, nil
}
