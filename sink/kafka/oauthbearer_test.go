package kafka

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/sink"
)

// bearerBroker is a cluster whose brokers take OAUTHBEARER.
type bearerBroker struct {
	*kfake.Cluster
	mu    sync.Mutex
	first [][]byte // first messages of the exchanges
}

// newBearerBroker answers first messages of OAUTHBEARER by judge: a challenge that is not empty
// refuses the token, and so does an error.
func newBearerBroker(t *testing.T, judge func(message string) (challenge string, err *kerr.Error)) *bearerBroker {
	t.Helper()
	b := &bearerBroker{Cluster: fake(t, kfake.NumBrokers(1))}
	b.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
		resp.SupportedMechanisms = []string{"OAUTHBEARER"}
		if req.(*kmsg.SASLHandshakeRequest).Mechanism != "OAUTHBEARER" {
			resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		}
		return resp, nil, true
	})
	b.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		message := req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes
		b.mu.Lock()
		b.first = append(b.first, message)
		b.mu.Unlock()
		challenge, err := judge(string(message))
		resp.SASLAuthBytes = []byte(challenge)
		if err != nil {
			resp.ErrorCode = err.Code
			resp.ErrorMessage = kmsg.StringPtr("refused " + string(message))
		}
		return resp, nil, true
	})
	return b
}

func (b *bearerBroker) exchanges() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.first
}

// unsigned returns a JWT that nobody has signed.
func unsigned(claims map[string]any) string {
	payload, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

// tokenEndpoint answers every request with a token that has claims.
func tokenEndpoint(t *testing.T, claims map[string]any) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": unsigned(claims), "token_type": "Bearer", "expires_in": 3600})
	}))
	t.Cleanup(s.Close)
	return s
}

func withClient(url string) SASL {
	return SASL{Mechanism: saslOAuthBearer, OAuth: OAuth{TokenURL: url, ClientID: "relay", ClientSecret: "client-password"}}
}

func TestTokensFromAnEndpoint(t *testing.T) {
	t.Parallel()
	b := newBearerBroker(t, func(string) (string, *kerr.Error) { return "", nil })
	endpoint := tokenEndpoint(t, map[string]any{"sub": "relay"})
	cfg := config(t, b.ListenAddrs())
	cfg.SASL = withClient(endpoint.URL)
	cfg.SASL.Extensions = map[string]string{"logicalCluster": "lkc-1", "identityPoolId": "pool-1"}
	s := open(t, cfg)
	require.NoError(t, s.Prepare(within(t, patient), []string{"a"}))
	require.NoError(t, s.Publish(within(t, patient), messages(0, 100, "a")))
	for _, message := range b.exchanges() {
		require.Equal(t, "n,,\x01auth=Bearer "+unsigned(map[string]any{"sub": "relay"})+"\x01identityPoolId=pool-1\x01logicalCluster=lkc-1\x01\x01", string(message))
	}
}

// TestRefusedTokens: what a broker refuses is explained by what the token says of itself, and the
// token is shown nowhere.
func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	invalid := func(string) (string, *kerr.Error) { return `{"status":"invalid_token"}`, nil }
	for name, c := range map[string]struct {
		judge  func(string) (string, *kerr.Error)
		claims map[string]any
		says   []string
	}{
		"expired":        {invalid, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, []string{"the token expired 1h", "renew the token", "invalid_token"}},
		"not valid yet":  {invalid, map[string]any{"iat": time.Now().Add(time.Hour).Unix()}, []string{"valid only in", "clock"}},
		"wrong audience": {invalid, map[string]any{"aud": "another"}, []string{`audience "another"`, "sasl.audience"}},
		"by error code":  {func(string) (string, *kerr.Error) { return "", kerr.SaslAuthenticationFailed }, map[string]any{"aud": "another"}, []string{`audience "another"`, "sasl.extensions"}},
		"echo":           {func(m string) (string, *kerr.Error) { return "you sent " + m, nil }, map[string]any{"aud": "another"}, []string{"you sent"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBearerBroker(t, c.judge)
			cfg := config(t, b.ListenAddrs())
			cfg.SASL = withClient(tokenEndpoint(t, c.claims).URL)
			err := open(t, cfg).Prepare(within(t, patient), []string{"a"})
			t.Log(err)
			for _, says := range append(c.says, "the broker refused the bearer token of sasl.token_url") {
				require.ErrorContains(t, err, says)
			}
			require.NotContains(t, err.Error(), unsigned(c.claims))
			require.NotContains(t, err.Error(), "password")
			var fatal *sink.FatalError
			require.NotErrorAs(t, err, &fatal, "the next token may be accepted")
			var advice interface{ OperatorAdvice() string }
			require.ErrorAs(t, err, &advice)
			require.Contains(t, advice.OperatorAdvice(), "correct sasl")
		})
	}
}

// TestNoToken: an endpoint that gives none is named, with what to do, in place of a broker that
// seems not to answer.
func TestNoToken(t *testing.T) {
	t.Parallel()
	answering := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc // nil for an endpoint that is not there
		says    string
		fatal   bool
	}{
		"refused":     {answering(http.StatusUnauthorized, `{"error":"invalid_client"}`), "invalid_client; check sasl.client_id", true},
		"unreachable": {nil, "nothing listens there", false},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then it is noticed that the client goes away
			<-r.Context().Done()
		}, "no complete answer within", false},
		"down": {answering(http.StatusBadGateway, ""), "status 502", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBearerBroker(t, func(string) (string, *kerr.Error) { return "", nil })
			address := "http://127.0.0.1:1/token"
			if c.handler != nil {
				s := httptest.NewServer(c.handler)
				t.Cleanup(s.Close)
				address = s.URL
			}
			cfg := config(t, b.ListenAddrs())
			cfg.SASL, cfg.RequestTimeout = withClient(address), 2*time.Minute // a token has ten seconds of it
			err := open(t, cfg).Prepare(within(t, patient), []string{"a"})
			t.Log(err)
			require.ErrorContains(t, err, "cannot log in to kafka without a token: ")
			require.ErrorContains(t, err, "getting a token from sasl.token_url "+address)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "request_timeout")
			require.NotContains(t, err.Error(), "client-password")
			var fatal *sink.FatalError
			require.Equal(t, c.fatal, errors.As(err, &fatal), "fatal")
			require.Empty(t, b.exchanges())
		})
	}
}

// TestTokenIsExchangedAfterARefusal: a token that a broker refuses is not used again, so that a new
// key of the issuer or a revocation needs no restart.
func TestTokenIsExchangedAfterARefusal(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]func() (string, *kerr.Error){
		"challenge":  func() (string, *kerr.Error) { return `{"status":"invalid_token"}`, nil },
		"error code": func() (string, *kerr.Error) { return "", kerr.SaslAuthenticationFailed },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			given := 0
			endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				given++
				w.Header().Set("Content-Type", "application/json")
				_, _ = fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":3600}`, given)
			}))
			t.Cleanup(endpoint.Close)
			b := newBearerBroker(t, func(m string) (string, *kerr.Error) {
				if strings.Contains(m, "Bearer t1\x01") {
					return refusal()
				}
				return "", nil
			})
			cfg := config(t, b.ListenAddrs())
			cfg.SASL = withClient(endpoint.URL)
			s := open(t, cfg)
			require.Eventually(t, func() bool { return s.Prepare(within(t, patient), []string{"a"}) == nil }, patient, 10*time.Millisecond)
			require.NoError(t, s.Publish(within(t, patient), messages(0, 10, "a")))
		})
	}
}

func TestOAuthIsValidated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change    func(*SASL)
		key, says string
	}{
		"good":                    {func(*SASL) {}, "", ""},
		"with a query":            {func(s *SASL) { s.TokenURL += "?p=policy" }, "", ""},
		"known extensions":        {func(s *SASL) { s.Extensions = map[string]string{"logicalCluster": "lkc-1", "identityPoolId": "p"} }, "", ""},
		"an extension of another": {func(s *SASL) { s.Extensions = map[string]string{"traceId": "a b"} }, "", ""},
		"a token file alone": {func(s *SASL) {
			*s = SASL{Mechanism: saslOAuthBearer, TokenFile: "f", OAuth: OAuth{Extensions: map[string]string{"a": "b"}}}
		}, "", ""},

		"nothing":                 {func(s *SASL) { *s = SASL{Mechanism: saslOAuthBearer} }, "sasl.token_file", "is missing"},
		"both":                    {func(s *SASL) { s.TokenFile = "f" }, "sasl.token_url", "are both set"},
		"a client without":        {func(s *SASL) { s.TokenURL, s.TokenFile = "", "f" }, "sasl.token_url", "is missing"},
		"not a URL":               {func(s *SASL) { s.TokenURL = "login.example.com" }, "sasl.token_url", "is not a URL"},
		"another scheme":          {func(s *SASL) { s.TokenURL = "ftp://login.example.com" }, "sasl.token_url", "is not a URL"},
		"credentials in it":       {func(s *SASL) { s.TokenURL = "https://relay:unseen@login.example.com" }, "sasl.token_url", "credentials"},
		"a secret in it":          {func(s *SASL) { s.TokenURL += "?client_secret=unseen" }, "sasl.token_url", "holds a secret"},
		"a fragment":              {func(s *SASL) { s.TokenURL += "#x" }, "sasl.token_url", "has a #"},
		"no client":               {func(s *SASL) { s.ClientID = "" }, "sasl.client_id", "is missing"},
		"no secret":               {func(s *SASL) { s.ClientSecret = "" }, "sasl.client_secret", "is missing"},
		"secret and key":          {func(s *SASL) { s.ClientKeyFile = "f" }, "sasl.client_key_file", "both set"},
		"key id without a key":    {func(s *SASL) { s.ClientKeyID = "f" }, "sasl.client_key_file", "is missing"},
		"extension, snake":        {func(s *SASL) { s.Extensions = map[string]string{"logical_cluster": "x"} }, "sasl.extensions", "write logicalCluster"},
		"extension, lower":        {func(s *SASL) { s.Extensions = map[string]string{"identitypoolid": "x"} }, "sasl.extensions", "write identityPoolId"},
		"extension, auth":         {func(s *SASL) { s.Extensions = map[string]string{"auth": "x"} }, "sasl.extensions", "auth"},
		"extension, digits":       {func(s *SASL) { s.Extensions = map[string]string{"a1": "x"} }, "sasl.extensions", "letters"},
		"extension, no value":     {func(s *SASL) { s.Extensions = map[string]string{"a": ""} }, "sasl.extensions", "empty"},
		"extension, separator":    {func(s *SASL) { s.Extensions = map[string]string{"a": "b\x01c=d"} }, "sasl.extensions", "printable"},
		"extension, not in ASCII": {func(s *SASL) { s.Extensions = map[string]string{"a": "é"} }, "sasl.extensions", "printable"},
		"for plain":               {func(s *SASL) { s.Mechanism, s.User, s.Password = saslPlain, "u", "p" }, "sasl.mechanism", "are for oauthbearer"},
		"for none":                {func(s *SASL) { s.Mechanism = saslNone }, "sasl.mechanism", "name the listener's mechanism"},
	} {
		cfg := config(t, []string{"127.0.0.1:9092"})
		cfg.SASL = withClient("https://login.example.com/token")
		c.change(&cfg.SASL)
		err := cfg.Validate()
		if c.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, c.says, name)
		require.NotContains(t, err.Error(), "unseen", name)
		var keyed interface{ Key() string }
		require.ErrorAs(t, err, &keyed, name)
		require.Equal(t, c.key, keyed.Key(), name)
	}
}

func TestTokenFileWithAWholeAnswer(t *testing.T) {
	t.Parallel()
	for _, content := range []string{`{"access_token":"abc"}`, "<html>log&nbsp;in</html>"} {
		file := filepath.Join(t.TempDir(), "token")
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		_, err := Config{SASL: SASL{Mechanism: saslOAuthBearer, TokenFile: file}}.mechanism()
		require.ErrorContains(t, err, "write the value of access_token alone")
		require.NotContains(t, err.Error(), "abc")
	}
}
