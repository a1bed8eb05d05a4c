package tlsconf_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/conf/tlsconf"
)

// writePair writes a self-signed certificate and its key.
func writePair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	return cert, key
}

func TestOpen(t *testing.T) {
	l, err := tlsconf.TLS{}.Open(nil, "")
	require.NoError(t, err)
	require.Nil(t, l, "a section that is not there asks for no TLS")

	cert, key := writePair(t)
	l, err = tlsconf.TLS{CAFile: cert, CertFile: cert, KeyFile: key, ServerName: "bus"}.Open(nil, "")
	require.NoError(t, err)
	c := l.Config()
	require.Len(t, c.Certificates, 1)
	require.NotNil(t, c.RootCAs)
	require.Equal(t, "bus", c.ServerName)
	require.False(t, c.InsecureSkipVerify)
	require.NotZero(t, c.MinVersion)

	for name, bad := range map[string]struct {
		section tlsconf.TLS
		says    string
	}{
		"missing authority":   {tlsconf.TLS{CAFile: "/nowhere.pem"}, "tls.ca_file"},
		"no certificate":      {tlsconf.TLS{CAFile: key}, "no PEM certificate"},
		"key without cert":    {tlsconf.TLS{KeyFile: key}, "go together"},
		"cert without key":    {tlsconf.TLS{CertFile: cert}, "go together"},
		"key is a cert":       {tlsconf.TLS{CertFile: cert, KeyFile: cert}, "tls.key_file"},
		"missing certificate": {tlsconf.TLS{CertFile: "/nowhere.pem", KeyFile: key}, "/nowhere.pem"},
	} {
		_, err := bad.section.Open(nil, "")
		require.ErrorContains(t, err, bad.says, name)
	}
}

// TestFilesAreFollowed: the next connection uses what the files hold then, and the version tells that something has changed.
func TestFilesAreFollowed(t *testing.T) {
	cert, key := writePair(t)
	l, err := tlsconf.TLS{CAFile: cert, CertFile: cert, KeyFile: key}.Open(nil, "sinks[nats].")
	require.NoError(t, err)
	before, version := l.Config(), l.Version()
	newCert, newKey := writePair(t)
	require.NoError(t, os.Rename(newCert, cert)) // half of the pair; but the authorities are whole
	half := l.Config()
	require.Equal(t, before.Certificates[0].Certificate, half.Certificates[0].Certificate)
	require.False(t, before.RootCAs.Equal(half.RootCAs))
	require.NoError(t, os.Rename(newKey, key))
	after := l.Config()
	require.NotEqual(t, before.Certificates[0].Certificate, after.Certificates[0].Certificate)
	require.Greater(t, l.Version(), version)
}

// TestSystemRoots: Go has read the system's authorities once; what is added to their file later counts too.
func TestSystemRoots(t *testing.T) {
	cert, _ := writePair(t)
	t.Setenv("SSL_CERT_FILE", cert)
	s := tlsconf.SystemRoots(nil)
	require.Nil(t, s.Pool(), "nothing has changed")
	other, _ := writePair(t)
	first, err := os.ReadFile(cert)
	require.NoError(t, err)
	second, err := os.ReadFile(other)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cert, append(first, second...), 0o600))
	pool := s.Pool()
	require.NotNil(t, pool)
	block, _ := pem.Decode(second)
	added, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	_, err = added.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	require.NoError(t, err)

	t.Setenv("SSL_CERT_FILE", "/nowhere.pem")
	require.Nil(t, tlsconf.SystemRoots(nil).Pool(), "a file that cannot be read leaves it to Go")
}
