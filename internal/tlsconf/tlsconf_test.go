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

	"github.com/stretchr/testify/require"

	"workos-relay/internal/tlsconf"
)

// writePair writes a self-signed certificate and its key.
func writePair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
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

func TestBuild(t *testing.T) {
	c, err := tlsconf.TLS{}.Build()
	require.NoError(t, err)
	require.Nil(t, c, "a section that is not there asks for no TLS")

	cert, key := writePair(t)
	c, err = tlsconf.TLS{CAFile: cert, CertFile: cert, KeyFile: key, ServerName: "bus"}.Build()
	require.NoError(t, err)
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
		_, err := bad.section.Build()
		require.ErrorContains(t, err, bad.says, name)
	}
}
