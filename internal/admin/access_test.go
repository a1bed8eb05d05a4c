package admin_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/conf/livefile"
	"workos-relay/internal/admin"
	"workos-relay/internal/telemetry"
	"workos-relay/pipeline"
)

const token = "0123456789abcdef-the-token"

// recorder is a Control that notes what it is asked.
type recorder struct {
	mu    sync.Mutex
	asked []string
}

func (c *recorder) note(what string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, what)
	return nil
}

func (c *recorder) Pause(lane string) error  { return c.note("pause " + lane) }
func (c *recorder) Resume(lane string) error { return c.note("resume " + lane) }
func (c *recorder) Poll(lane string) error   { return c.note("poll " + lane) }

func (c *recorder) Snapshot(lane string, entities []string) error {
	return c.note(strings.TrimSpace("snapshot " + lane + " " + strings.Join(entities, ",")))
}

func (c *recorder) Reload(context.Context) (admin.Reloaded, error) {
	return admin.Reloaded{Changes: []string{"source.poll_interval: from 1s to 2s"}, Lanes: []string{}}, c.note("reload")
}

func (c *recorder) SetCheckpoint(_ context.Context, lane string, to admin.Destination) (admin.Moved, error) {
	if to.To == "nowhere" {
		return admin.Moved{}, &admin.Refusal{Code: http.StatusBadRequest, Err: errors.New("nowhere to be found")}
	}
	return admin.Moved{Lane: lane, Mode: checkpoint.AtLeastOnce}, c.note("move " + lane + " to " + to.To + to.From)
}

// served is a server with a lane that is paused and one that runs.
func served(control admin.Control, s admin.Security) admin.Config {
	now := time.Now()
	return admin.Config{
		Metrics: telemetry.NewMetrics("1").Handler(), PollInterval: everySecond, Control: control, Security: s,
		Lanes: func() []pipeline.Status {
			return []pipeline.Status{running("nats", now), {Lane: "kafka", State: pipeline.Stopped}}
		},
	}
}

func send(t *testing.T, client *http.Client, method, url string, header http.Header, host, body string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Host = host
	resp, err := client.Do(req)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, string(text), resp.Header
}

func TestWhoMayDoWhat(t *testing.T) {
	open, guarded, metrics := admin.Security{}, admin.Security{Token: token}, admin.Security{Token: token, OpenMetrics: true}
	bearer := http.Header{"Authorization": {"Bearer " + token}}
	basic := http.Header{"Authorization": {"Basic OjAxMjM0NTY3ODlhYmNkZWYtdGhlLXRva2Vu"}} // the token, of no user
	wrong := http.Header{"Authorization": {"Bearer " + token + "!"}, "Relay-Request": {"1"}}
	asked := http.Header{"Relay-Request": {"1"}}
	with := func(h http.Header, name, value string) http.Header {
		h = h.Clone()
		h.Set(name, value)
		return h
	}
	for _, c := range []struct {
		name     string
		security admin.Security
		method   string
		path     string
		header   http.Header
		host     string // of the request, if it is not the address
		code     int
		contains string
	}{
		{"a probe asks nobody", guarded, "GET", "/healthz", nil, "anything.example", 200, "ok"},
		{"nor does the other", guarded, "GET", "/readyz", nil, "anything.example", 503, `"ready": false`},
		{"with the token it tells why", guarded, "GET", "/readyz", bearer, "anything.example", 503, "kafka"},
		{"on loopback too", open, "GET", "/readyz", nil, "", 503, "kafka"},
		{"a wrong token does not fail a probe", guarded, "GET", "/healthz", wrong, "", 200, "ok"},
		{"loopback reads", open, "GET", "/api/v1/status", nil, "", 200, `"writable": true`},
		{"loopback scrapes", open, "GET", "/metrics", nil, "", 200, "relay_"},
		{"loopback writes", open, "POST", "/api/v1/poll", asked, "", 200, "nats"},
		{"by the name localhost", open, "POST", "/api/v1/poll", asked, "localhost:8080", 200, "nats"},
		{"by the other loopback", open, "GET", "/", nil, "[::1]:8080", 200, "relay"},
		{"a form of a page has no such header", open, "POST", "/api/v1/poll", http.Header{"Content-Type": {"text/plain"}}, "", 403, "Relay-Request"},
		{"a page of another origin", open, "POST", "/api/v1/poll", with(asked, "Origin", "https://evil.example"), "", 403, "another origin"},
		{"a page of another site", open, "POST", "/api/v1/poll", with(asked, "Sec-Fetch-Site", "cross-site"), "", 403, "another origin"},
		{"its own page", open, "POST", "/api/v1/poll", with(asked, "Sec-Fetch-Site", "same-origin"), "", 200, "nats"},
		{"a name that was rebound to loopback", open, "GET", "/api/v1/status", nil, "evil.example", 403, "evil.example"},
		{"with a port too", open, "POST", "/api/v1/poll", asked, "evil.example:80", 403, "evil.example"},
		{"one that looks alike", open, "GET", "/", nil, "localhost.evil.example", 403, "localhost.evil"},

		{"without the token nothing is read", guarded, "GET", "/api/v1/status", nil, "", 401, "admin.token"},
		{"not even the list", guarded, "GET", "/", nil, "", 401, "admin.token"},
		{"nor the metrics", guarded, "GET", "/metrics", nil, "", 401, "admin.token"},
		{"unless they are open", metrics, "GET", "/metrics", nil, "", 200, "relay_"},
		{"which opens nothing else", metrics, "GET", "/api/v1/status", nil, "", 401, "admin.token"},
		{"the header is not a token", guarded, "POST", "/api/v1/poll", asked, "", 401, "admin.token"},
		{"a wrong token", guarded, "POST", "/api/v1/poll", wrong, "", 401, "admin.token"},
		{"an empty one", guarded, "GET", "/", http.Header{"Authorization": {"Bearer "}}, "", 401, "admin.token"},
		{"the token under any name", guarded, "GET", "/api/v1/status", bearer, "relay.example", 200, `"writable": true`},
		{"a scheme is written as one likes", guarded, "GET", "/metrics", http.Header{"Authorization": {"bearer " + token}}, "", 200, "relay_"},
		{"the token alone writes", guarded, "POST", "/api/v1/poll", bearer, "", 200, "nats"},
		{"as a password it reads", guarded, "GET", "/api/v1/status", basic, "", 200, `"writable": true`},
		{"a browser sends that by itself", guarded, "POST", "/api/v1/poll", basic, "", 403, "Relay-Request"},
		{"so that its page adds the header", guarded, "POST", "/api/v1/poll", with(basic, "Relay-Request", "1"), "", 200, "nats"},
		{"and no other page", guarded, "POST", "/api/v1/poll", with(with(basic, "Relay-Request", "1"), "Origin", "https://evil.example"), "", 403, "another origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			control := &recorder{}
			base := start(t, served(control, c.security))
			code, body, header := send(t, http.DefaultClient, c.method, base+c.path, c.header, c.host, "")
			require.Equal(t, c.code, code, body)
			require.Contains(t, body, c.contains)
			require.NotContains(t, body, token)
			require.Equal(t, code == 401, header.Get("WWW-Authenticate") != "")
			require.Equal(t, c.method == "POST" && code == 200, len(control.asked) > 0, "what is refused is not done")
		})
	}
}

func TestControls(t *testing.T) {
	for _, c := range []struct {
		method, path, body string
		code               int
		contains           string
		asked              []string
	}{
		{"POST", "/api/v1/poll", "", 200, `"name": "nats"`, []string{"poll nats"}}, // the other has stopped
		{"POST", "/api/v1/poll?lane=kafka&lane=nats", "", 200, `"name": "kafka"`, []string{"poll kafka", "poll nats"}},
		{"POST", "/api/v1/lanes/kafka/snapshot", `{"entities": ["user", "role"]}`, 202, `"name": "kafka"`, []string{"snapshot kafka user,role"}},
		{"POST", "/api/v1/lanes/kafka/snapshot", `{"entity": "user"}`, 400, "entity", nil},
		{"POST", "/api/v1/resume?lane=nats", "", 200, `"state": "running"`, []string{"resume nats"}},
		{"POST", "/api/v1/pause?lane=no", "", 404, `there is no lane \"no\"; the lanes are nats, kafka`, nil},
		{"POST", "/api/v1/reload", "", 200, `from 1s to 2s`, []string{"reload"}},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "earliest"}`, 200, `"lane": "nats"`, []string{"move nats to earliest"}},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "nowhere"}`, 400, "nowhere to be found", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{}`, 400, "one of to, from and reset", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "earliest", "reset": true}`, 400, "one of to, from and reset", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"too": "earliest"}`, 400, "unknown member /too", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"To": "earliest"}`, 400, "unknown member /To", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "latest", "to": "earliest"}`, 400, "duplicate member /to", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "latest"} {"to": "earliest"}`, 400, "after top-level value", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "latest"}x`, 400, "after top-level value", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", "{\"to\": \"\xff\"}", 400, "UTF-8", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": 7}`, 400, "/to", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "latest", "skip": "yes"}`, 400, "/skip", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `null`, 400, "not a JSON object", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", ``, 400, "not a JSON object", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "late`, 400, "not as expected", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint?to=latest", `{"to": "latest"}`, 400, `unknown parameter \"to\"`, nil},
		{"POST", "/api/v1/pause", `{"lane": "kafka"}`, 400, "takes no body", nil},
		{"POST", "/api/v1/pause?lanes=kafka", "", 400, `unknown parameter \"lanes\"`, nil},
		{"POST", "/api/v1/pause?lane=%zz", "", 400, "malformed", nil},
		{"POST", "/api/v1/pause?lane=kafka;x", "", 400, "malformed", nil},
		{"POST", "/api/v1/pause?lane=", "", 404, "there is no lane", nil},
		{"POST", "/api/v1/reload", "{}", 400, "takes no body", nil},
		{"POST", "//api/v1/pause", "", 404, "no such path", nil},
		{"POST", "/x/../api/v1/pause", "", 404, "no such path", nil},
		{"POST", "/%2e%2e/api/v1/pause", "", 404, "no such path", nil},
		{"POST", "/api/v1/pause/", "", 404, "no such path", nil},
		{"PUT", "/api/v1/lanes/nats%2F..%2Fnats/checkpoint", `{"to": "latest"}`, 404, "no such path", nil},
		{"PUT", "/api/v1/lanes/nats/checkpoint", `{"to": "` + strings.Repeat("x", 5000) + `"}`, 400, "too large", nil},
		{"POST", "/api/v1/lanes/nats/checkpoint", `{"to": "earliest"}`, 405, "only PUT", nil},
		{"GET", "/api/v1/pause", "", 405, "only POST", nil},
	} {
		t.Run(c.method+" "+c.path+" "+c.body[:min(30, len(c.body))], func(t *testing.T) {
			control := &recorder{}
			base := start(t, served(control, admin.Security{}))
			code, body, _ := send(t, http.DefaultClient, c.method, base+c.path, http.Header{"Relay-Request": {"1"}}, "", c.body)
			require.Equal(t, c.code, code, body)
			require.Contains(t, body, c.contains)
			require.Equal(t, c.asked, control.asked)
		})
	}
	base := start(t, served(nil, admin.Security{}))
	code, _, _ := send(t, http.DefaultClient, "POST", base+"/api/v1/pause", http.Header{"Relay-Request": {"1"}}, "", "")
	require.Equal(t, http.StatusNotFound, code, "without a controller there is no such path")
	_, body, _ := send(t, http.DefaultClient, "GET", base+"/api/v1/status", nil, "", "")
	require.Contains(t, body, `"writable": false`)
}

// TestContentTypes: a body of another kind than JSON is refused.
func TestContentTypes(t *testing.T) {
	for _, c := range []struct {
		types []string
		code  int
	}{
		{nil, 200},
		{[]string{"application/json"}, 200},
		{[]string{"Application/JSON; charset=UTF-8"}, 200},
		{[]string{"application/json; charset=utf-16"}, 400},
		{[]string{"application/x-www-form-urlencoded"}, 400},
		{[]string{"text/plain"}, 400},
		{[]string{""}, 400},
		{[]string{"application/json", "text/plain"}, 400},
		{[]string{"application/json; ="}, 400},
	} {
		control := &recorder{}
		base := start(t, served(control, admin.Security{}))
		code, body, _ := send(t, http.DefaultClient, "PUT", base+"/api/v1/lanes/nats/checkpoint", http.Header{"Relay-Request": {"1"}, "Content-Type": c.types}, "", `{"to": "latest"}`)
		require.Equal(t, c.code, code, "%q: %s", c.types, body)
		require.Equal(t, c.code == 200, len(control.asked) == 1, "what is refused is not done")
		if c.code != 200 {
			require.Contains(t, body, "Content-Type: application/json")
		}
	}
}

func TestAnOpenAddressIsRefused(t *testing.T) {
	for _, listen := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:80", "relay.example:80"} {
		_, err := admin.Listen(t.Context(), admin.Config{Listen: listen})
		require.ErrorContains(t, err, "admin.listen: "+listen)
		require.ErrorContains(t, err, "set admin.token")
	}
	s, err := admin.Listen(t.Context(), admin.Config{Listen: "0.0.0.0:0", Security: admin.Security{Token: token}})
	require.NoError(t, err)
	require.Error(t, s.Secure(admin.Security{}), "nor can it be opened later")
	require.NoError(t, s.Close(t.Context()))
}

func TestTheTokenCanBeChanged(t *testing.T) {
	s, err := admin.Listen(t.Context(), admin.Config{Listen: "127.0.0.1:0", Security: admin.Security{Token: token}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	reads := func(with string) int {
		code, _, _ := send(t, http.DefaultClient, "GET", "http://"+s.Addr().String()+"/", http.Header{"Authorization": {"Bearer " + with}}, "", "")
		return code
	}
	require.Equal(t, []int{200, 401}, []int{reads(token), reads("another-token-of-its-own")})
	require.NoError(t, s.Secure(admin.Security{Token: "another-token-of-its-own"}))
	require.Equal(t, []int{401, 200}, []int{reads(token), reads("another-token-of-its-own")})
	require.ErrorContains(t, s.Secure(admin.Security{TLS: tlsFiles("a", "b", "")}), "whether TLS is spoken")
	require.Equal(t, 200, reads("another-token-of-its-own"))
}

// authority signs certificates into files.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key, a.file, _ = a.make("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	return a
}

// issue writes a certificate for servers and clients, and its key.
func (a *authority) issue(name string) (cert, key string) {
	_, _, cert, key = a.make(name, &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	return cert, key
}

func (a *authority) make(name string, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, string, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	require.NoError(a.t, err)
	template.SerialNumber, template.Subject = serial, pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(a.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	certFile, keyFile := filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	require.NoError(a.t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(a.t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return cert, key, certFile, keyFile
}

func tlsFiles(cert, key, clientCA string) admin.TLS {
	return admin.TLS{
		Pair:     livefile.KeyFiles{Cert: livefile.File{Key: "admin.tls.cert_file", Path: cert}, Key: livefile.File{Key: "admin.tls.key_file", Path: key}},
		ClientCA: livefile.File{Key: "admin.tls.client_ca_file", Path: clientCA},
	}
}

func TestClientCertificates(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	certFile, keyFile := ours.issue("server")
	security := admin.Security{TLS: tlsFiles(certFile, keyFile, ours.file)}
	cfg := served(&recorder{}, security)
	cfg.Listen = "127.0.0.1:0"
	s, err := admin.Listen(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	client := func(by *authority) *http.Client {
		c := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		if by != nil {
			cert, key := by.issue("client")
			pair, err := tls.LoadX509KeyPair(cert, key)
			require.NoError(t, err)
			c.Certificates = []tls.Certificate{pair}
		}
		transport := &http.Transport{TLSClientConfig: c}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	base := "https://" + s.Addr().String()
	for _, c := range []struct {
		name         string
		client       *http.Client
		method, path string
		header       http.Header
		code         int
	}{
		{"a probe needs none", client(nil), "GET", "/healthz", nil, 200},
		{"without one nothing is read", client(nil), "GET", "/api/v1/status", nil, 401},
		{"one of ours reads", client(ours), "GET", "/api/v1/status", nil, 200},
		{"and writes", client(ours), "POST", "/api/v1/poll", http.Header{"Relay-Request": {"1"}}, 200},
		{"but not for a page", client(ours), "POST", "/api/v1/poll", nil, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body, _ := send(t, c.client, c.method, base+c.path, c.header, "", "")
			require.Equal(t, c.code, code, body)
		})
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/api/v1/status", nil)
	require.NoError(t, err)
	resp, err := client(theirs).Do(req)
	if err == nil {
		require.NoError(t, resp.Body.Close())
	}
	require.Error(t, err, "of another authority")

	cli, err := admin.NewClient(s.Addr().String(), security)
	require.NoError(t, err)
	status, err := cli.Status(t.Context())
	require.NoError(t, err, "relay's own commands show the server's certificate")
	require.True(t, status.Writable)

	_, _ = ours.issue("server") // renewed in place
	later := time.Now().Add(time.Minute)
	require.NoError(t, os.Chtimes(certFile, later, later))
	renewed, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", s.Addr().String())
	require.NoError(t, err)
	require.Equal(t, renewed.Certificate[0], conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
	require.NoError(t, conn.Close())
}

func TestClientErrors(t *testing.T) {
	base := start(t, served(&recorder{}, admin.Security{Token: token}))
	ask := func(addr string, s admin.Security) error {
		c, err := admin.NewClient(addr, s)
		require.NoError(t, err)
		_, err = c.Status(t.Context())
		return err
	}
	addr := strings.TrimPrefix(base, "http://")
	require.NoError(t, ask(addr, admin.Security{Token: token}))
	var answer *admin.AnswerError
	require.ErrorAs(t, ask(addr, admin.Security{Token: "wrong"}), &answer)
	require.Equal(t, http.StatusUnauthorized, answer.Code)

	const nobody = "127.0.0.1:1" // a port that the system gives to none
	var unreachable *admin.UnreachableError
	require.ErrorAs(t, ask(nobody, admin.Security{}), &unreachable)
	require.ErrorContains(t, unreachable, "no relay answers on "+nobody)
}
