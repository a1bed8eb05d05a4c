//go:build unix

package field

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
)

// issuer is an OAuth server: a token endpoint and the keys that verify its tokens.
type issuer struct {
	*httptest.Server
	key    *rsa.PrivateKey
	tokens atomic.Int64
}

func newIssuer(t testing.TB, life time.Duration) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	i := &issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		encode := base64.RawURLEncoding.EncodeToString
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", "n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes()),
		}}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, secret, _ := r.BasicAuth(); secret != "client-password" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
			return
		}
		i.tokens.Add(1)
		audience := r.PostFormValue("audience")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": i.sign(audience, time.Now(), life), "token_type": "Bearer", "expires_in": int(life.Seconds())})
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// sign returns a token of user admin for an audience, by a clock that shows now.
func (i *issuer) sign(audience string, now time.Time, life time.Duration) string {
	header, _ := json.Marshal(map[string]string{"alg": "RS256", "kid": "one", "typ": "JWT"})
	claims, _ := json.Marshal(map[string]any{
		"iss": "relay-test", "sub": "admin", "aud": audience, "scope": "kafka", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(life).Unix(),
	})
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	signature, _ := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// oauthKafka starts an Apache Kafka with a listener that verifies tokens of i and ends sessions
// after 10 s. It returns the addresses of its plain listener and of that one.
func oauthKafka(t testing.TB, i *issuer) (plain, oauth string) {
	t.Helper()
	if os.Getenv("RELAY_TEST_KAFKA") == "" {
		t.Skip("needs Apache Kafka: run .ci/kafka/start, and set RELAY_TEST_KAFKA to what it prints")
	}
	base := 0
	for try := 21092; base == 0 && try < 29000; try += 100 {
		free := true
		for offset := 0; offset <= 60; offset += 10 {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", try+offset))
			if free = free && err == nil; err == nil {
				require.NoError(t, l.Close())
			}
		}
		if free {
			base = try
		}
	}
	dir := t.TempDir()
	t.Cleanup(func() { _ = exec.Command("../../.ci/kafka/stop", "--dir", dir).Run() })                                                                             //nolint:gosec,noctx // a script of this repository
	out, err := exec.CommandContext(t.Context(), "../../.ci/kafka/start", "--dir", dir, "--port-base", fmt.Sprint(base), "--jwks", i.URL+"/jwks").CombinedOutput() //nolint:gosec // a script of this repository
	require.NoError(t, err, "%s", out)
	return fmt.Sprintf("127.0.0.1:%d", base), fmt.Sprintf("127.0.0.1:%d", base+60)
}

// oauthLoad is for how long TestKafkaWithOAuth publishes: a few sessions, or what
// RELAY_TEST_OAUTH_LOAD says, such as 2m.
func oauthLoad(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("RELAY_TEST_OAUTH_LOAD")
	if text == "" {
		return 25 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// TestKafkaWithOAuth runs against a real Kafka that verifies tokens and ends each session after
// 10 s.
func TestKafkaWithOAuth(t *testing.T) {
	t.Parallel()
	login := newIssuer(t, 20*time.Second)
	plain, address := oauthKafka(t, login)
	t.Run("sessions end", func(t *testing.T) {
		t.Parallel()
		sessionsEnd(t, login, plain, address)
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		refusesTokens(t, login, address)
	})
}

// sessionsEnd publishes with tokens from a token endpoint that live for 20 s. Events flow in both
// modes, each once, and relay says nothing of sessions.
func sessionsEnd(t *testing.T, login *issuer, plain, address string) {
	t.Helper()
	api := newAPI(t)
	relays := map[string]*relay{}
	buses := map[string]*kafka{}
	for _, mode := range []string{"exactly_once", "at_least_once"} {
		k := newKafka(t, []string{plain})
		k.ID = strings.ReplaceAll(mode, "_", "") + k.ID
		k.Prefix = k.ID + "."
		buses[mode] = k
		r := newRelay(t, mode, fmt.Sprintf("id: %s\ndelivery: %s\n", k.ID, mode)+sourceConfig(api.URL())+fmt.Sprintf(
			"sinks: [{name: kafka, type: kafka, brokers: [%q], topic_prefix: %s, sasl: {mechanism: oauthbearer, token_url: %q, client_id: relay, client_secret: client-password, audience: kafka}}]\n",
			address, k.Prefix, login.URL+"/token"))
		r.Start(t)
		relays[mode] = r
	}
	appendEvents(t, api, source.UserCreated, 5, 0)
	sent := 5
	began := map[string]int{} // how much relay had said when events began to flow; the broker has just started
	for mode, r := range relays {
		r.Await(t, func() bool { return buses[mode].count(t) >= sent }, "%s: events flow", mode)
		began[mode] = len(r.Output())
	}
	for end := time.Now().Add(oauthLoad(t)); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		appendEvents(t, api, source.UserCreated, 5, 0)
		sent += 5
	}
	for mode, r := range relays {
		r.Await(t, func() bool { return buses[mode].count(t) >= sent }, "%s: all %d events are there", mode, sent)
		require.Equal(t, sent, buses[mode].count(t), mode)
		require.Zero(t, r.verify(t, exitDone).Faults, mode)
		require.Equal(t, exitDone, r.Stop(t))
		for line := range strings.Lines(r.Output()[began[mode]:]) {
			if strings.Contains(line, "does not fit the schema") { // of events of the tests
				continue
			}
			require.NotContains(t, line, " WARN ", mode)
			require.NotContains(t, line, " ERROR ", mode)
		}
		t.Logf("%s: %d events, %d tokens", mode, sent, login.tokens.Load())
	}
}

// refusesTokens shows what a real Kafka does not accept, with the message that says which it is.
func refusesTokens(t *testing.T, login *issuer, address string) {
	t.Helper()
	api := newAPI(t)
	for name, c := range map[string]struct{ token, says string }{
		"wrong audience": {login.sign("another", time.Now(), time.Hour), `audience \"another\"`},
		"expired":        {login.sign("kafka", time.Now().Add(-2*time.Hour), time.Hour), "the token expired"},
		"clock ahead":    {login.sign("kafka", time.Now().Add(time.Hour), time.Hour), "valid only in"},
		"another key":    {newIssuer(t, time.Hour).sign("kafka", time.Now(), time.Hour), "knows the key"},
		"not a JWT":      {"opaque-token", "not a JWT"},
		"cut":            {login.sign("kafka", time.Now(), time.Hour)[:300], "knows the key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := t.TempDir() + "/token"
			require.NoError(t, os.WriteFile(file, []byte(c.token), 0o600))
			id := "refused" + strings.ReplaceAll(name, " ", "-")
			r := newRelay(t, "relay", fmt.Sprintf("id: %s\n", id)+sourceConfig(api.URL())+fmt.Sprintf(
				"sinks: [{name: kafka, type: kafka, events: [dsync.user.created], brokers: [%q], topic_prefix: refused., sasl: {mechanism: oauthbearer, token_file: %q}}]\n", address, file))
			r.Start(t)
			r.Says(t, c.says)
			require.NotContains(t, r.Output(), c.token)
			require.NotContains(t, r.Output(), "sasl.password")
			// The next token is accepted without a restart.
			if name == "expired" {
				require.NoError(t, os.WriteFile(file, []byte(login.sign("kafka", time.Now(), time.Hour)), 0o600))
				r.AwaitState(t, "kafka", "running")
			}
			r.Stop(t)
		})
	}
}
