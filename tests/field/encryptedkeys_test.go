//go:build unix

package field

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/conf/livefile"
	"workos-relay/internal/testaddr"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// Passphrases of the keys in conf/livefile/testdata/keys.
const (
	passphrase      = "correct-horse"
	laterPassphrase = "battery-staple"
)

// encryptedKey returns a key that openssl has encrypted, and a certificate of a for it.
func encryptedKey(t testing.TB, a *authority, name, phrase string) (cert, key string) {
	t.Helper()
	path := "../../conf/livefile/testdata/keys/" + name
	v, err := livefile.PrivateKey(nil, livefile.KeyFiles{Key: livefile.File{Key: "key", Path: path}, Passphrase: livefile.File{Key: "passphrase", Text: phrase}})
	require.NoError(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return a.certify(t, v.Latest().Public(), time.Hour), string(text)
}

// indented returns a PEM text as a YAML block below a key.
func indented(text string, depth int) string {
	space := "\n" + strings.Repeat(" ", depth)
	return "|" + space + strings.ReplaceAll(strings.TrimSpace(text), "\n", space) + "\n"
}

// TestEncryptedKeys: every connection of relay that has a private key has an encrypted one, in a
// file or in the configuration. A new key with a new passphrase is used without a signal.
func TestEncryptedKeys(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	api := newFarAPI(t, a.server(t, a), backlog(20))
	bus := newNATS(t, func(o *server.Options) {
		o.TLS, o.TLSConfig = true, a.server(t, a)
	})
	dir := newSecretDir(t)
	put := func(name, phrase string) {
		cert, key := encryptedKey(t, a, name, phrase)
		dir.put(t, "cert", cert)
		dir.put(t, "passphrase", phrase+"\n")
		dir.put(t, "key", key)
	}
	dir.put(t, "ca", a.PEM)
	put("pbkdf2-sha256-aes256.pem", passphrase)
	open := &conns{}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := open.listen(network, address)
		return tls.NewListener(l, a.server(t, a)), err
	}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	ecCert, ecKey := encryptedKey(t, a, "pem-aes256-ec.pem", passphrase)
	rsaCert, rsaKey := encryptedKey(t, a, "pem-3des-rsa.pem", passphrase)
	files := fmt.Sprintf("{ca_file: %q, cert_file: %q, key_file: %q, key_passphrase_file: %q}", dir.file("ca"), dir.file("cert"), dir.file("key"), dir.file("passphrase"))
	config := fmt.Sprintf(`
source: {endpoint: "https://%s", api_key: %s, poll_interval: 200ms, tls: %s}
admin:
  listen: %q
  tls:
    key_passphrase: "${PHRASE}"
    cert: %s    key: %s    client_ca: %s
sinks:
  - {name: nats, type: nats, url: %q, tls: %s}
  - name: kafka
    type: kafka
    brokers: [%q]
    tls: {ca: "${CA}", cert: "${CERT}", key: "${KEY}", key_passphrase: "${PHRASE}"}
`, api.address, apiKey, files, testaddr.Free(t), indented(rsaCert, 6), indented(rsaKey, 6), indented(a.PEM, 6), strings.Replace(bus.URL, "nats://", "tls://", 1), files, cluster.ListenAddrs()[0])
	r := newRelay(t, "relay", config, "PHRASE="+passphrase, "CA="+a.PEM, "CERT="+ecCert, "KEY="+ecKey)
	code, out, stderr := r.Check(t)
	require.Zero(t, code, out+stderr)
	r.Start(t)
	cert, key := a.issue(t, time.Hour)
	mine := newSecretDir(t)
	trust := []nats.Option{nats.RootCAs(mine.put(t, "ca", a.PEM)), nats.ClientCert(mine.put(t, "cert", cert), mine.put(t, "key", key))}
	js := bus.connect(t, trust...)
	carried := func(n int, what string) {
		t.Helper()
		r.Await(t, func() bool { return countEvents(js, stream) == n }, "events on NATS: %s", what)
		last := api.IDs(sourcetest.Filter{})[n-1]
		r.Await(t, func() bool {
			_, out, _ := r.Run(t, "status", "--json") // over TLS, with the encrypted key
			return strings.Count(out, last) >= 2
		}, "events on Kafka: %s", what)
	}
	carried(20, "the backlog")

	put("renewed.pem", laterPassphrase)
	r.Says(t, used)
	time.Sleep(3 * time.Second) // longer than Interval: the pair has changed as a whole
	bus.restart(t)
	js = bus.connect(t, trust...)
	appendEvents(t, api.Server, source.UserCreated, 5, 0)
	carried(25, "after key, certificate and passphrase have changed")

	dir.put(t, "passphrase", "marked-wrong-passphrase")
	r.Says(t, "cannot be decrypted with")
	appendEvents(t, api.Server, source.UserCreated, 5, 0)
	carried(30, "with the key of before")
	code, out, stderr = r.Run(t, "check")
	require.Equal(t, exitFailed, code, out+stderr)
	shown := strings.Join(strings.Fields(out+stderr), " ")
	require.Contains(t, shown, "tls.key_file "+dir.file("key")+" cannot be decrypted with")
	require.Contains(t, shown, "tls.key_passphrase_file "+dir.file("passphrase")+": the passphrase is wrong, or the key is damaged; correct the passphrase, or the key")
	all := r.Output() + out + stderr
	for _, secret := range []string{passphrase, laterPassphrase, "marked-wrong-passphrase", "PRIVATE KEY", strings.Split(ecKey, "\n")[5]} {
		require.NotContains(t, all, secret)
	}
	require.Equal(t, exitDone, r.Stop(t))

	r.WriteConfig(t, strings.ReplaceAll(config, fmt.Sprintf(", key_passphrase_file: %q", dir.file("passphrase")), ""))
	for _, command := range []string{"check", "run"} {
		code, out, stderr = r.Run(t, command)
		require.NotZero(t, code)
		require.Contains(t, strings.Join(strings.Fields(out+stderr), " "), "is encrypted, and relay has no passphrase for it: set", command)
	}
}
