package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// encryptedPair returns a self-signed certificate for 127.0.0.1 with its key, the key encrypted
// with a passphrase and as it is.
func encryptedPair(t *testing.T, passphrase string) (cert, encrypted, plain string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	key, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	block, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", key, []byte(passphrase), x509.PEMCipherAES256) //nolint:staticcheck // the way of openssl ec -aes256
	require.NoError(t, err)
	text := func(b *pem.Block) string { return string(pem.EncodeToMemory(b)) }
	return text(&pem.Block{Type: "CERTIFICATE", Bytes: der}), text(block), text(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})
}

// addKeyCases: private keys with a passphrase, and in the configuration itself, wherever relay
// takes one.
func addKeyCases(t *testing.T, cases map[string]secretCase, api *sourcetest.Server) {
	t.Helper()
	passphrase := marked("passphrase")
	cert, encrypted, plain := encryptedPair(t, passphrase)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(plain))
	require.NoError(t, err)
	bus := natsServer(t, func(o *server.Options) {
		o.TLS, o.TLSConfig = true, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	})
	// The first line of a PEM text that is not the same for every key.
	inPEM := func(text string) string { return strings.Split(strings.TrimSpace(text), "\n")[1] }
	certFile, keyFile := secretFile(t, cert), secretFile(t, encrypted)
	files := fmt.Sprintf("ca_file: %q, cert_file: %q, key_file: %q", certFile, certFile, keyFile)
	const inline = `ca: "${CERT}", cert: "${CERT}", key: "${PRIVATE}"`
	wrong := "the passphrase is wrong, or the key is damaged"
	for name, c := range map[string]struct{ tls, reaches string }{
		"passphrase":           {fmt.Sprintf("%s, key_passphrase: %q", files, passphrase), "connected to NATS"},
		"passphrase from file": {fmt.Sprintf("%s, key_passphrase_file: %q", files, secretFile(t, passphrase+"\n")), "connected to NATS"},
		"wrong passphrase":     {fmt.Sprintf("%s, key_passphrase: %q", files, passphrase+"!"), wrong},
		"wrong file":           {fmt.Sprintf("%s, key_passphrase_file: %q", files, secretFile(t, passphrase+"!\n")), wrong},
		"passphrase twice":     {fmt.Sprintf("%s, key_passphrase: %q, key_passphrase_file: %q", files, passphrase, keyFile), "only one of them can hold"},
		"no key":               {fmt.Sprintf("ca_file: %q, key_passphrase: %q", certFile, passphrase), "has no key_file beside it"},
		"in the configuration": {inline, "connected to NATS"},
		"beside a file":        {inline + fmt.Sprintf(", key_file: %q", keyFile), "only one of them can hold"},
		"without line breaks":  {fmt.Sprintf("cert: \"${CERT}\", key: %q", strings.ReplaceAll(plain, "\n", " ")), "PEM without its line breaks"},
		"key as certificate":   {`cert: "${PRIVATE}", key: "${PRIVATE}"`, "do not hold a certificate and its key"},
		"key as authority":     {`ca: "${PRIVATE}"`, "holds no PEM certificate"},
	} {
		source, secrets := secretSource(api.URL())
		cases["key/"+name] = secretCase{
			config: source + fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q, stream: OWN, topic_prefix: OWN., ack_timeout: 2s, tls: {%s}}]\nadmin: {listen: ADMIN, token: %q}\n",
				bus, c.tls, marked("admin-token")),
			env:     map[string]string{"KEY": apiMark, "CERT": cert, "PRIVATE": plain},
			secrets: append(secrets, passphrase, inPEM(plain), inPEM(encrypted)), reaches: c.reaches, only: reaching,
		}
	}
	for name, c := range map[string]struct{ config, reaches string }{
		"admin":            {fmt.Sprintf("sinks: [{name: out, type: stdout}]\nadmin: {listen: ADMIN, tls: {cert: \"${CERT}\", key: \"${ENCRYPTED}\", client_ca: \"${CERT}\", key_passphrase: %q}}\n", passphrase), ""},
		"admin, wrong":     {fmt.Sprintf("sinks: [{name: out, type: stdout}]\nadmin: {listen: ADMIN, tls: {cert_file: %q, key_file: %q, key_passphrase: %q}}\n", certFile, keyFile, passphrase+"!"), wrong},
		"collector, wrong": {fmt.Sprintf("sinks: [{name: out, type: stdout}]\ntelemetry: {traces: {endpoint: \"https://127.0.0.1:1\", tls: {%s, key_passphrase: %q}}}\nadmin: {listen: ADMIN}\n", files, passphrase+"!"), wrong},
		"metrics, wrong":   {fmt.Sprintf("sinks: [{name: out, type: stdout}]\ntelemetry: {metrics: {endpoint: \"https://127.0.0.1:1\", tls: {%s, key_passphrase: %q}}}\nadmin: {listen: ADMIN}\n", files, passphrase+"!"), wrong},
		"Kafka, wrong":     {fmt.Sprintf("sinks: [{name: kafka, type: kafka, brokers: [\"127.0.0.1:1\"], tls: {%s, key_passphrase: %q}}]\nadmin: {listen: ADMIN}\n", files, passphrase+"!"), wrong},
		"OAuth": {fmt.Sprintf("sinks: [{name: kafka, type: kafka, brokers: [\"127.0.0.1:1\"], request_timeout: 1s, sasl: {mechanism: oauthbearer, token_url: \"http://127.0.0.1:1/token\", client_id: relay, "+
			"client_key: \"${ENCRYPTED}\", client_certificate: \"${CERT}\", client_key_passphrase: %q}}]\nadmin: {listen: ADMIN}\n", passphrase), "127.0.0.1:1"},
		"OAuth, wrong": {fmt.Sprintf("sinks: [{name: kafka, type: kafka, brokers: [\"127.0.0.1:1\"], sasl: {mechanism: oauthbearer, token_url: \"http://127.0.0.1:1/token\", client_id: relay, "+
			"client_key_file: %q, client_key_passphrase: %q}}]\nadmin: {listen: ADMIN}\n", keyFile, passphrase+"!"), wrong},
	} {
		source, secrets := secretSource(api.URL())
		cases["key/"+name] = secretCase{
			config: source + c.config, env: map[string]string{"KEY": apiMark, "CERT": cert, "PRIVATE": plain, "ENCRYPTED": encrypted},
			secrets: append(secrets, passphrase, inPEM(plain), inPEM(encrypted)), reaches: c.reaches, only: reaching,
		}
	}
	source, secrets := secretSource(api.URL())
	cases["key/source, wrong"] = secretCase{
		config: strings.Replace(source, "  endpoint:", fmt.Sprintf("  tls: {%s, key_passphrase: %q}\n  endpoint:", files, passphrase+"!"), 1) + "sinks: [{name: out, type: stdout}]\nadmin: {listen: ADMIN}\n",
		env:    map[string]string{"KEY": apiMark}, secrets: append(secrets, passphrase), reaches: wrong, only: reaching,
	}
}
