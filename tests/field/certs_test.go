//go:build unix

package field

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority signs certificates for 127.0.0.1.
type authority struct {
	PEM  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last atomic.Int64 // serial number
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial := time.Now().UnixNano()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: fmt.Sprintf("authority %d", serial)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{PEM: pemOf("CERTIFICATE", der), cert: cert, key: key}
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// issue returns a certificate for servers and clients that expires after life, and its key, both in
// PEM. It is for 127.0.0.1, and for hosts: names and addresses.
func (a *authority) issue(t testing.TB, life time.Duration, hosts ...string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return a.certify(t, &private.PublicKey, life, hosts...), pemOf("PRIVATE KEY", encoded)
}

// certify is like issue, for a key that exists.
func (a *authority) certify(t testing.TB, public any, life time.Duration, hosts ...string) (cert string) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.last.Add(1)), Subject: pkix.Name{CommonName: "relay"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	require.NoError(t, err)
	return pemOf("CERTIFICATE", der)
}

// server returns the TLS configuration of a server with a certificate of a, for hosts as issue has
// it. It asks for client certificates of clients, unless that is nil.
func (a *authority) server(t testing.TB, clients *authority, hosts ...string) *tls.Config {
	t.Helper()
	cert, key := a.issue(t, time.Hour, hosts...)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	require.NoError(t, err)
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if clients != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		c.ClientCAs.AddCert(clients.cert)
	}
	return c
}

// swapTLS is a TLS configuration for a server that takes another one for each new connection after
// Store.
type swapTLS struct{ atomic.Pointer[tls.Config] }

func (s *swapTLS) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.Load(), nil }}
}

// secretDir is a directory whose files are replaced in different ways.
type secretDir struct {
	path string
	turn int
}

func newSecretDir(t testing.TB) *secretDir { return &secretDir{path: t.TempDir()} }

func (d *secretDir) file(name string) string { return filepath.Join(d.path, name) }

// put gives a file new content: by rename, in place, deleted for a moment before, or by a link that
// is swapped, in turn.
func (d *secretDir) put(t testing.TB, name, text string) string {
	t.Helper()
	path := d.file(name)
	d.turn++
	switch d.turn % 4 {
	case 0:
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	case 1:
		require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	case 2:
		require.NoError(t, os.RemoveAll(path))
		time.Sleep(50 * time.Millisecond)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	case 3:
		data := fmt.Sprintf("%s.%d", path, d.turn)
		require.NoError(t, os.WriteFile(data, []byte(text), 0o600))
		require.NoError(t, os.Symlink(data, path+".new"))
		require.NoError(t, os.Rename(path+".new", path))
	}
	return path
}
