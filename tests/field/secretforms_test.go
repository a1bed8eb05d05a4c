//go:build unix

package field

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"workos-relay/internal/testaddr"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// secretForms are the ways in which platforms give secrets to a process and replace them. Each puts
// files into dir; put is called again with the next content.
var secretForms = map[string]struct {
	env string // variable that names the directory, if the platform sets one
	put func(t testing.TB, dir string, files map[string]string)
}{
	// systemd hands over credentials in files that only their owner may read, and makes them again
	// when the unit refreshes them.
	"systemd credentials": {"CREDENTIALS_DIRECTORY", func(t testing.TB, dir string, files map[string]string) {
		for name, text := range files {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, name)))
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o400))
		}
	}},
	// The kubelet writes a new directory, points ..data to it in one step, and removes the old one.
	// The files are links through ..data.
	"Kubernetes volume": {"", func(t testing.TB, dir string, files map[string]string) {
		next, err := os.MkdirTemp(dir, "..2026_")
		require.NoError(t, err)
		for name, text := range files {
			require.NoError(t, os.WriteFile(filepath.Join(next, name), []byte(text), 0o600))
		}
		data := filepath.Join(dir, "..data")
		before, _ := os.Readlink(data)
		require.NoError(t, os.Symlink(filepath.Base(next), data+"_tmp"))
		require.NoError(t, os.Rename(data+"_tmp", data))
		for name := range files {
			if link := filepath.Join(dir, name); before == "" {
				require.NoError(t, os.Symlink(filepath.Join("..data", name), link))
			}
		}
		if before != "" {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, before)))
		}
	}},
	// Vault Agent renders each template to a new file and renames it over the old one, one after
	// the other.
	"Vault Agent": {"", func(t testing.TB, dir string, files map[string]string) {
		for name, text := range files {
			path := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(path+".tmp", []byte(text), 0o600))
			require.NoError(t, os.Rename(path+".tmp", path))
			time.Sleep(300 * time.Millisecond)
		}
	}},
	// SPIFFE Helper writes each file in place, one after the other, and other tools do so in
	// pieces.
	"SPIFFE Helper": {"", func(t testing.TB, dir string, files map[string]string) {
		for name, text := range files {
			file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
			require.NoError(t, err)
			for len(text) > 0 {
				n := min(len(text), max(7, len(text)/3))
				_, err = file.WriteString(text[:n])
				require.NoError(t, err)
				text = text[n:]
				time.Sleep(30 * time.Millisecond)
			}
			require.NoError(t, file.Close())
		}
	}},
}

// keysSeen passes requests with good keys on to an API, as WorkOS does while a key is replaced, and
// refuses others.
type keysSeen struct {
	api *sourcetest.Server

	mu   sync.Mutex
	good map[string]bool
	seen []string
}

func (k *keysSeen) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	key := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	k.mu.Lock()
	k.seen = append(k.seen, key)
	good := k.good[key]
	k.mu.Unlock()
	if !good {
		http.Error(w, `{"message":"Unauthorized"}`, http.StatusUnauthorized)
		return
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	k.api.ServeHTTP(w, req)
}

func (k *keysSeen) accept(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.good[key] = true
}

func (k *keysSeen) used(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.seen, key)
}

// wrong returns the keys that were never good.
func (k *keysSeen) wrong() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(k.seen), func(key string) bool { return k.good[key] })
}

// TestSecretsInEveryForm: API key, Kafka password and client certificate, webhook secret, admin
// token and authorities are replaced in each way that platforms have, all at once. relay uses them
// without a signal, never a piece of one, and shows none.
func TestSecretsInEveryForm(t *testing.T) {
	t.Parallel()
	for name, form := range secretForms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			open, now := &conns{}, &swapTLS{}
			next := func(n int) (files map[string]string, a *authority) {
				a = newAuthority(t)
				cert, key := a.issue(t, time.Hour)
				return map[string]string{
					"api_key": fmt.Sprintf("sk_test_marked_number_%d", n), "password": fmt.Sprintf("marked-password-number-%d", n),
					"webhook": fmt.Sprintf("whsec_marked_number_%d", n), "token": fmt.Sprintf("marked-token-number-%d", n),
					"ca": a.PEM, "cert": cert, "key": key,
				}, a
			}
			files, a := next(0)
			now.Store(a.server(t, a))
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.ListenFn(func(network, address string) (net.Listener, error) {
				l, err := open.listen(network, address)
				return tls.NewListener(l, now.config()), err
			}), kfake.Superuser("SCRAM-SHA-256", "relay", files["password"]), kfake.Superuser("SCRAM-SHA-256", "test", "test"))
			require.NoError(t, err)
			t.Cleanup(cluster.Close)
			change := func(password string) { // on the cluster
				ours := a.server(t, nil).Clone()
				ours.InsecureSkipVerify = true
				client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.SASL(scram.Auth{User: "test", Pass: "test"}.AsSha256Mechanism()), kgo.DialTLSConfig(ours))
				require.NoError(t, err)
				defer client.Close()
				_, err = kadm.NewClient(client).AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "relay", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: password}})
				require.NoError(t, err)
			}
			dir := t.TempDir()
			form.put(t, dir, files)
			at, env := dir, []string(nil)
			if form.env != "" {
				at, env = "${"+form.env+"}", []string{form.env + "=" + dir}
			}
			api := sourcetest.New(sourcetest.WithAPIKey(apiKey))
			keys := &keysSeen{good: map[string]bool{files["api_key"]: true}, api: api}
			srv := httptest.NewServer(keys)
			t.Cleanup(srv.Close)
			adminAt, webhookAt := testaddr.Free(t), testaddr.Free(t)
			r := newRelay(t, "relay", strings.ReplaceAll(fmt.Sprintf(`
source: {endpoint: %q, api_key_file: "DIR/api_key", poll_interval: 200ms, webhook: {listen: %q, secret_file: "DIR/webhook"}}
admin: {listen: %q, token_file: "DIR/token"}
sinks:
  - name: kafka
    type: kafka
    brokers: [%q]
    topic_prefix: forms.
    sasl: {mechanism: scram-sha-256, user: relay, password_file: "DIR/password"}
    tls: {ca_file: "DIR/ca", cert_file: "DIR/cert", key_file: "DIR/key"}
`, srv.URL, webhookAt, adminAt, cluster.ListenAddrs()[0]), "DIR", at), env...)
			r.Start(t)
			ask := func(req *http.Request, err error) int {
				require.NoError(t, err)
				resp, err := onceClient.Do(req)
				if err != nil {
					return 0
				}
				_ = resp.Body.Close()
				return resp.StatusCode
			}
			status := func(token string) int {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+adminAt+"/api/v1/status", nil)
				req.Header.Set("Authorization", "Bearer "+token)
				return ask(req, err)
			}
			wake := func(secret string) int {
				body := fmt.Sprintf(`{"id":"event_%d"}`, time.Now().UnixNano())
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+webhookAt+"/workos/webhook", strings.NewReader(body))
				req.Header.Set("WorkOS-Signature", sourcetest.SignWebhook(secret, time.Now(), []byte(body)))
				return ask(req, err)
			}
			carried := func(n int) {
				t.Helper()
				id := appendEvents(t, api, source.UserCreated, 5, 0)[4]
				r.Await(t, func() bool {
					_, out, _ := r.Run(t, "status", "--json")
					return strings.Contains(out, id)
				}, "events flow with secrets %d", n)
			}
			carried(0)
			for n := 1; n <= 2; n++ {
				old := files
				renewed, by := next(n)
				change(renewed["password"])
				keys.accept(renewed["api_key"])
				files, a = renewed, by
				form.put(t, dir, files)
				r.Await(t, func() bool { return status(files["token"]) == 200 }, "the new token is good")
				require.Equal(t, 401, answered(t, func() int { return status(old["token"]) }), "the old token is not")
				r.Await(t, func() bool { return wake(files["webhook"]) == 200 }, "the new webhook secret is good")
				require.Equal(t, 401, answered(t, func() int { return wake(old["webhook"]) }), "the old secret is not")
				r.Await(t, func() bool { return keys.used(files["api_key"]) }, "the new key is used")
				now.Store(a.server(t, a))
				open.drop()
				carried(n)
			}
			require.Equal(t, exitDone, r.Stop(t))
			require.Contains(t, r.Output(), used)
			require.Empty(t, keys.wrong(), "a piece of a key was used")
			for _, secret := range []string{"sk_test_marked", "marked-password", "whsec_marked", "marked-token", "PRIVATE KEY"} {
				require.NotContains(t, r.Output(), secret)
			}
		})
	}
}
