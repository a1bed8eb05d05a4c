package oauth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/sink/kafka/oauth"
)

const (
	patient = time.Minute
	mark    = "MARK-client-s3cr3t%+/&="
)

// endpoint is a token endpoint whose answer a test decides.
type endpoint struct {
	*httptest.Server
	mu    sync.Mutex
	forms []url.Values
}

func newEndpoint(t *testing.T, answer http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		e.mu.Lock()
		e.forms = append(e.forms, r.PostForm)
		e.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) asked() []url.Values {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.forms
}

func answerJSON(status int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func config(address string) oauth.Config {
	return oauth.Config{URL: address, ClientID: "relay", Secret: livefile.Fixed(secret.String(mark)), Timeout: patient}
}

// jwt returns a JWT with claims and a signature of nobody.
func jwt(claims map[string]any) string {
	payload, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	for name, inHeader := range map[string]bool{"secret in the header": true, "secret in the body": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
				user, password, basic := r.BasicAuth()
				user, _ = url.QueryUnescape(user)
				password, _ = url.QueryUnescape(password)
				if !inHeader {
					user, password = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
				}
				if basic != inHeader || user != "relay" || password != mark {
					answerJSON(http.StatusUnauthorized, map[string]any{"error": "invalid_client"})(w, r)
					return
				}
				answerJSON(http.StatusOK, map[string]any{"access_token": "abc.def", "token_type": "Bearer", "expires_in": 3600})(w, r)
			})
			cfg := config(e.URL)
			cfg.Scope, cfg.Audience = "kafka.write  kafka.read", "kafka"
			var hidden []string
			cfg.Hide = func(secrets ...string) { hidden = append(hidden, secrets...) }
			s := oauth.New(cfg)
			for range 3 {
				token, err := s.Token(t.Context())
				require.NoError(t, err)
				require.Equal(t, "abc.def", token.Text)
				require.InDelta(t, time.Hour, time.Until(token.Expires), float64(patient))
			}
			forms := e.asked()
			form := forms[len(forms)-1]
			require.Equal(t, "client_credentials", form.Get("grant_type"))
			require.Equal(t, "kafka.write kafka.read", form.Get("scope"))
			require.Equal(t, "kafka", form.Get("audience"))
			require.LessOrEqual(t, len(forms), 2, "it is kept, and the way to authenticate is tried once")
			require.Contains(t, hidden, "abc.def")
		})
	}
}

// TestSecretFileIsReadAgain: the secret may change while relay runs.
func TestSecretFileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("one\n"), 0o600))
	file, err := livefile.Secret(nil, livefile.File{Key: "sasl.client_secret_file", Path: path}, nil)
	require.NoError(t, err)
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		answerJSON(http.StatusOK, map[string]any{"access_token": "for-" + password, "token_type": "bearer", "expires_in": 3600})(w, r)
	})
	cfg := config(e.URL)
	cfg.Secret = livefile.FromFile(file)
	s := oauth.New(cfg)
	first, err := s.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, "for-one", first.Text)
	require.NoError(t, os.WriteFile(path, []byte("two\n"), 0o600))
	s.Forget(first)
	second, err := s.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, "for-two", second.Text)
	s.Forget(first)
	third, err := s.Token(t.Context())
	require.NoError(t, err)
	require.Same(t, second, third, "another token than the one refused stays")
}

// TestRenewal: a token is renewed after four fifths of its life. A failure then does no harm while
// the old one is valid, and is not repeated for each connection.
func TestRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		count, down := 0, false
		cfg := config("http://login.example/token")
		cfg.Transport = roundTrip(func(*http.Request) (int, string) {
			mu.Lock()
			defer mu.Unlock()
			count++
			if down {
				return http.StatusServiceUnavailable, "later"
			}
			return http.StatusOK, fmt.Sprintf(`{"access_token":"t%d","token_type":"Bearer","expires_in":100}`, count)
		})
		s := oauth.New(cfg)
		get := func() string {
			t.Helper()
			token, err := s.Token(t.Context())
			require.NoError(t, err)
			return token.Text
		}
		require.Equal(t, "t1", get())
		time.Sleep(79 * time.Second)
		require.Equal(t, "t1", get())
		time.Sleep(2 * time.Second)
		require.Equal(t, "t2", get())
		mu.Lock()
		down = true
		mu.Unlock()
		time.Sleep(81 * time.Second)
		before := count
		for range 100 {
			require.Equal(t, "t2", get(), "the old one is valid")
		}
		require.LessOrEqual(t, count, before+2, "both ways to authenticate at most")
		time.Sleep(20 * time.Second)
		for range 100 {
			_, err := s.Token(t.Context())
			require.ErrorContains(t, err, "status 503; relay tries again")
			var e *oauth.Error
			require.ErrorAs(t, err, &e)
			require.False(t, e.Permanent())
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, count, before+20)
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(20 * time.Second)
		require.NotEqual(t, "t2", get())
	})
}

// transport answers without a network, for synthetic time.
type transport func(*http.Request) (int, string)

func roundTrip(f func(*http.Request) (int, string)) http.RoundTripper { return transport(f) }

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := f(r)
	rec := httptest.NewRecorder()
	rec.Header().Set("Content-Type", "application/json")
	rec.WriteHeader(status)
	_, _ = rec.WriteString(body)
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// TestOneRequestForMany: connections that are made at once share a request.
func TestOneRequestForMany(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, answerJSON(http.StatusOK, map[string]any{"access_token": "t", "token_type": "Bearer", "expires_in": 100}))
	s := oauth.New(config(e.URL))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { _, _ = s.Token(t.Context()) })
	}
	all.Wait()
	require.Len(t, e.asked(), 1)
}

// TestLifeFromTheToken: without expires_in the claim exp counts.
func TestLifeFromTheToken(t *testing.T) {
	t.Parallel()
	exp := time.Now().Add(30 * time.Minute).Truncate(time.Second)
	for name, c := range map[string]struct {
		token string
		want  time.Time
	}{
		"a JWT":              {jwt(map[string]any{"exp": exp.Unix()}), exp},
		"a JWT without":      {jwt(map[string]any{"exp": "soon"}), time.Now().Add(time.Minute)},
		"opaque":             {"opaque", time.Now().Add(time.Minute)},
		"a JWT of yesterday": {jwt(map[string]any{"exp": time.Now().Add(-24 * time.Hour).Unix()}), time.Now().Add(time.Minute)},
	} {
		e := newEndpoint(t, answerJSON(http.StatusOK, map[string]any{"access_token": c.token, "token_type": "Bearer"}))
		token, err := oauth.New(config(e.URL)).Token(t.Context())
		require.NoError(t, err, name)
		require.WithinDuration(t, c.want, token.Expires, patient, name)
	}
}

// TestFaults: each fault is told apart, says what to change, and repeats no secret.
func TestFaults(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	ok := func(body map[string]any) http.HandlerFunc { return answerJSON(http.StatusOK, body) }
	oauthError := func(code, description string) http.HandlerFunc {
		return answerJSON(http.StatusBadRequest, map[string]any{"error": code, "error_description": description})
	}
	elsewhere := newEndpoint(t, ok(map[string]any{"access_token": "t", "token_type": "Bearer"}))
	for name, c := range map[string]struct {
		answer    http.HandlerFunc
		says      []string
		permanent bool
	}{
		"wrong secret":   {oauthError("invalid_client", "AADSTS7000215: Invalid client secret provided"), []string{"invalid_client (AADSTS7000215", "sasl.client_secret"}, true},
		"wrong audience": {oauthError("invalid_target", ""), []string{"sasl.audience"}, true},
		"wrong scope":    {oauthError("invalid_scope", "no such scope"), []string{"no such scope", "sasl.scope"}, true},
		"wrong grant":    {oauthError("unauthorized_client", ""), []string{"client_credentials"}, true},
		"another code":   {oauthError("invalid_tenant", "x"), []string{"invalid_tenant", "sasl.token_url"}, true},
		"no code":        {oauthError("Not A Code "+mark, "x"), []string{"status 400", "token endpoint"}, false},
		"overloaded":     {answerJSON(http.StatusTooManyRequests, nil), []string{"429", "tries again"}, false},
		"down":           {answerJSON(http.StatusBadGateway, map[string]any{"error": "server_error"}), []string{"server_error", "tries again"}, false},
		"unauthorized":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, []string{"401", "sasl.client_secret"}, true},
		"HTML": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("<html>log in " + mark))
		}, []string{"a page of HTML", "token endpoint"}, false},
		"HTML, not found": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusNotFound)
		}, []string{"404", "HTML"}, false},
		"JSON of something else": {ok(map[string]any{"hello": mark}), []string{"holds no token", "application/json"}, false},
		"a number for a token":   {ok(map[string]any{"access_token": 7}), []string{"holds no token"}, false},
		"nothing":                {func(http.ResponseWriter, *http.Request) {}, []string{"holds no token"}, false},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat(" ", 64<<10))); err != nil {
					return
				}
			}
		}, []string{"holds no token"}, false},
		"a token that is none":     {ok(map[string]any{"access_token": "two words " + mark, "token_type": "Bearer"}), []string{"characters that no bearer token has"}, false},
		"a token with a separator": {ok(map[string]any{"access_token": "a\x01auth=b", "token_type": "Bearer"}), []string{"characters that no bearer token has"}, false},
		"another kind of token":    {ok(map[string]any{"access_token": "t", "token_type": "DPoP"}), []string{"not a bearer token"}, false},
		"expired":                  {ok(map[string]any{"access_token": "t", "token_type": "Bearer", "expires_in": -5}), []string{"expired already"}, false},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/?x="+url.QueryEscape(mark), http.StatusTemporaryRedirect)
		}, []string{"redirects to " + elsewhere.URL, "does not follow"}, false},
		"echo of the request": {func(w http.ResponseWriter, r *http.Request) {
			_, password, _ := r.BasicAuth()
			oauthError("invalid_request", "you sent "+r.Header.Get("Authorization")+password+r.PostForm.Encode())(w, r)
		}, []string{"invalid_request", "repeats the secret"}, true},
		"echo in the type": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/"+r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusNotFound)
		}, []string{"404"}, false},
		"hang": {func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		}, []string{"no complete answer within 300ms"}, false},
		"clock ahead": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
			oauthError("invalid_client", "assertion is not valid yet")(w, r)
		}, []string{"the clock of this machine is 1h0m", "ahead of the endpoint's"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(newEndpoint(t, c.answer).URL)
			if name == "hang" {
				cfg.Timeout = 300 * time.Millisecond
			}
			_, err := oauth.New(cfg).Token(t.Context())
			require.Error(t, err)
			t.Log(err)
			for _, says := range append(c.says, "getting a token from sasl.token_url http://127.0.0.1") {
				require.ErrorContains(t, err, says)
			}
			require.NotContains(t, err.Error(), "s3cr3t")
			require.NotContains(t, err.Error(), base64.StdEncoding.EncodeToString([]byte(url.QueryEscape("relay") + ":" + url.QueryEscape(mark)))[:12])
			var e *oauth.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.permanent, e.Permanent())
		})
	}
	require.Empty(t, elsewhere.asked(), "no secret is sent to another address")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	plain := newEndpoint(t, func(http.ResponseWriter, *http.Request) {})
	for address, says := range map[string]string{
		"http://127.0.0.1:1/token":   "nothing listens there",
		"http://login.invalid/token": "does not resolve",
		tls.URL:                      "sasl.token_ca_file",
		strings.Replace(plain.URL, "http://", "https://", 1): "does not speak TLS",
	} {
		_, err := oauth.New(config(address)).Token(t.Context())
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "s3cr3t")
	}
	cfg := config(tls.URL)
	pool := x509.NewCertPool()
	pool.AddCert(tls.Certificate())
	cfg.Roots = func() *x509.CertPool { return pool }
	_, err := oauth.New(cfg).Token(t.Context())
	require.ErrorContains(t, err, "status 404", "the authority is trusted")
}

// TestGivenUp: a caller that no longer waits does not count as a failure of the endpoint.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	var slow sync.Mutex
	slow.Lock()
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		slow.Lock()
		defer slow.Unlock()
		answerJSON(http.StatusOK, map[string]any{"access_token": "t", "token_type": "Bearer", "expires_in": 100})(w, r)
	})
	s := oauth.New(config(e.URL))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { _, err := s.Token(ctx); done <- err }()
	<-asked
	waiting, stop := context.WithCancel(t.Context())
	go func() { _, err := s.Token(waiting); done <- err }()
	stop()
	require.ErrorIs(t, <-done, context.Canceled)
	cancel()
	require.Error(t, <-done)
	slow.Unlock()
	_, err := s.Token(t.Context())
	require.NoError(t, err)
}

// TestAssertion: the endpoint can verify what the client signs, for each kind of key.
func TestAssertion(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for algorithm, key := range map[string]crypto.Signer{"RS256": rsaKey, "ES256": p256, "ES384": p384, "ES512": p521, "EdDSA": ed} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, answerJSON(http.StatusOK, map[string]any{"access_token": "t", "token_type": "Bearer", "expires_in": 100}))
			template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			require.NoError(t, err)
			cert, err := x509.ParseCertificate(der)
			require.NoError(t, err)
			cfg := config(e.URL)
			cfg.Signer = &oauth.Signer{
				Key: func() (crypto.Signer, error) { return key, nil }, KeyID: "key-1", Certificate: func() (*x509.Certificate, error) { return cert, nil },
			}
			require.NoError(t, cfg.Signer.Check())
			_, err = oauth.New(cfg).Token(t.Context())
			require.NoError(t, err)
			form := e.asked()[0]
			require.Equal(t, "relay", form.Get("client_id"))
			require.Empty(t, form.Get("client_secret"))
			require.Equal(t, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", form.Get("client_assertion_type"))
			header, claims := verified(t, form.Get("client_assertion"), key.Public())
			sum := sha256.Sum256(der)
			require.Equal(t, map[string]any{"alg": algorithm, "typ": "JWT", "kid": "key-1", "x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}, header)
			require.Equal(t, e.URL, claims["aud"])
			require.Equal(t, "relay", claims["iss"])
			require.Equal(t, "relay", claims["sub"])
			require.NotEmpty(t, claims["jti"])
			require.InDelta(t, time.Now().Add(5*time.Minute).Unix(), claims["exp"], patient.Seconds())
		})
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	require.ErrorContains(t, (&oauth.Signer{Key: func() (crypto.Signer, error) { return small, nil }}).Check(), "1024 bits")
	other := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, other, other, p384.Public(), p384)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	require.ErrorContains(t, (&oauth.Signer{
		Key: func() (crypto.Signer, error) { return p256, nil }, Certificate: func() (*x509.Certificate, error) { return cert, nil },
	}).Check(), "another key")
}

// verified checks the signature of an assertion and returns what it holds.
func verified(t *testing.T, text string, public crypto.PublicKey) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(text, ".")
	require.Len(t, parts, 3)
	for i, into := range []*map[string]any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(raw, into))
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	require.NoError(t, err)
	signed := []byte(parts[0] + "." + parts[1])
	switch k := public.(type) {
	case ed25519.PublicKey:
		require.True(t, ed25519.Verify(k, signed, signature))
	case *rsa.PublicKey:
		sum := sha256.Sum256(signed)
		require.NoError(t, rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature))
	case *ecdsa.PublicKey:
		h := map[int]crypto.Hash{256: crypto.SHA256, 384: crypto.SHA384, 521: crypto.SHA512}[k.Params().BitSize].New()
		_, _ = h.Write(signed)
		half := len(signature) / 2
		require.Equal(t, (k.Params().BitSize+7)/8, half)
		require.True(t, ecdsa.Verify(k, h.Sum(nil), new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])))
	}
	return header, claims
}

// TestDescribe: what relay says of a token that a broker has refused.
func TestDescribe(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, c := range map[string]struct {
		token string
		skew  time.Duration
		says  []string
	}{
		"opaque":           {"opaque", 0, []string{"not a JWT"}},
		"three parts":      {"a.b.c", 0, []string{"not a JWT"}},
		"expired":          {jwt(map[string]any{"exp": at(-time.Hour)}), 0, []string{"expired 1h0m0s ago", "correct the clock", "renew the token"}},
		"not yet":          {jwt(map[string]any{"exp": at(2 * time.Hour), "iat": at(time.Hour)}), 0, []string{"valid only in 1h0m0s", "clock"}},
		"not before":       {jwt(map[string]any{"exp": at(2 * time.Hour), "nbf": at(time.Hour)}), 0, []string{"valid only in 1h0m0s"}},
		"clock":            {jwt(map[string]any{"exp": at(time.Hour)}), -time.Hour, []string{"1h0m0s behind the token endpoint's"}},
		"wrong audience":   {jwt(map[string]any{"exp": at(time.Hour), "aud": []string{"api", "other"}, "iss": "https://idp", "sub": "relay", "scope": "a b"}), 0, []string{`audience "api other"`, `issuer "https://idp"`, `subject "relay"`, `scope "a b"`, "sasl.audience"}},
		"without claims":   {jwt(nil), 0, []string{"no audience", "no issuer"}},
		"claims of no use": {jwt(map[string]any{"exp": "x", "aud": 7, "iss": "a\x1b[31m", "scp": []string{"s"}}), 0, []string{"no audience", `scope "s"`}},
		"far away":         {jwt(map[string]any{"exp": 1e300, "iat": -1e300}), 0, []string{"no audience"}},
		"not an object":    {base64.RawURLEncoding.EncodeToString([]byte("{}")) + "." + base64.RawURLEncoding.EncodeToString([]byte("[]")) + ".x", 0, []string{"not a JWT"}},
		"claims too long":  {jwt(map[string]any{"aud": strings.Repeat("x", 5000)}), 0, []string{"audience"}},
	} {
		token := oauth.Parse(c.token)
		token.Skew = c.skew
		text := token.Describe(now)
		for _, says := range c.says {
			require.Contains(t, text, says, name)
		}
		require.NotContains(t, text, c.token+" ", name)
		require.NotContains(t, text, "\x1b", name)
		require.Less(t, len(text), 1000, name)
	}
}
