package tlsconf_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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
		"key without cert":    {tlsconf.TLS{KeyFile: key}, "tls.key_file has no cert_file beside it"},
		"cert without key":    {tlsconf.TLS{CertFile: cert}, "tls.cert_file has no key_file beside it"},
		"key is a cert":       {tlsconf.TLS{CertFile: cert, KeyFile: cert}, "tls.key_file"},
		"missing certificate": {tlsconf.TLS{CertFile: "/nowhere.pem", KeyFile: key}, "/nowhere.pem"},
	} {
		_, err := bad.section.Open(nil, "")
		require.ErrorContains(t, err, bad.says, name)
	}
}

// TestFilesAreFollowed: the next connection uses what the files hold then, and the version tells
// that something has changed.
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

// trusts reports whether a pool holds the certificate of a file; a nil pool holds what Go has read.
func trusts(t *testing.T, pool *x509.CertPool, text []byte) bool {
	t.Helper()
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	_, err = cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// authority returns a certificate that signs itself.
func authority(t *testing.T) []byte {
	t.Helper()
	cert, _ := writePair(t)
	text, err := os.ReadFile(cert)
	require.NoError(t, err)
	return text
}

// TestSystemRoots: Go has read the system's authorities once; what is added to their file later
// counts too, and what is taken out does not any more.
func TestSystemRoots(t *testing.T) {
	first, second := authority(t), authority(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(texts ...[]byte) { require.NoError(t, os.WriteFile(file, slices.Concat(texts...), 0o600)) }
	write(first)
	t.Setenv("SSL_CERT_FILE", file)
	t.Setenv("SSL_CERT_DIR", t.TempDir())
	s := tlsconf.SystemRoots(nil)
	require.Nil(t, s.Pool(), "nothing has changed")

	write(first, second)
	pool := s.Pool()
	require.True(t, trusts(t, pool, first))
	require.True(t, trusts(t, pool, second))
	require.Same(t, pool, s.Pool(), "the same until something changes")
	write(second)
	require.False(t, trusts(t, s.Pool(), first))
	require.True(t, trusts(t, s.Pool(), second))
	write([]byte("half of a"))
	require.True(t, trusts(t, s.Pool(), second), "what cannot be used leaves what was there before")
	require.NoError(t, os.Remove(file))
	require.True(t, trusts(t, s.Pool(), second))

	t.Setenv("SSL_CERT_FILE", "/nowhere.pem")
	require.Nil(t, tlsconf.SystemRoots(nil).Pool(), "a file that cannot be read leaves it to Go")
}

// TestSystemDirectories: the directories of SSL_CERT_DIR are followed as the file is: files that
// come, go and change, links, and directories that are not there yet. Files that are no
// certificates are of no account.
func TestSystemDirectories(t *testing.T) {
	base := authority(t)
	file, one, two := filepath.Join(t.TempDir(), "ca.pem"), t.TempDir(), filepath.Join(t.TempDir(), "later")
	require.NoError(t, os.WriteFile(file, base, 0o600))
	t.Setenv("SSL_CERT_FILE", file)
	t.Setenv("SSL_CERT_DIR", one+":"+two)
	first, second, third := authority(t), authority(t), authority(t)
	write := func(path string, text []byte) { require.NoError(t, os.WriteFile(path, text, 0o600)) }
	write(filepath.Join(one, "first"), first)
	write(filepath.Join(one, "README"), []byte("no certificate"))
	s := tlsconf.SystemRoots(nil)
	require.Nil(t, s.Pool())
	holds := func(what string, want ...[]byte) {
		t.Helper()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			pool := s.Pool()
			if !assert.NotNil(c, pool) {
				return
			}
			for i, text := range [][]byte{base, first, second, third} {
				assert.Equal(c, slices.ContainsFunc(want, func(w []byte) bool { return bytes.Equal(w, text) }), trusts(t, pool, text), "%s: %d", what, i)
			}
		}, time.Minute, 50*time.Millisecond)
	}
	write(filepath.Join(one, "second"), second)
	holds("one is added", base, first, second)
	version := s.Pool()
	require.NoError(t, os.Symlink("second", filepath.Join(one, "5ed36f99.0")))
	time.Sleep(1100 * time.Millisecond)
	require.Same(t, version, s.Pool(), "a link to a file of the same directory is nothing new")
	require.NoError(t, os.Remove(filepath.Join(one, "first")))
	holds("one is taken out", base, second)
	require.NoError(t, os.Mkdir(two, 0o700))
	target := filepath.Join(t.TempDir(), "third")
	write(target, third)
	require.NoError(t, os.Symlink(target, filepath.Join(two, "third")))
	holds("another directory, by a link", base, second, third)
	write(target, first)
	holds("the target changes", base, second, first)
	write(file, third)
	holds("the file changes too", third, second, first)
	require.NoError(t, os.RemoveAll(one))
	holds("a directory is taken away", third, first)
	require.NoError(t, os.RemoveAll(two))
	write(file, base)
	holds("only the file is left", base)
}
