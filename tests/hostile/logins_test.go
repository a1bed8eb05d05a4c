//go:build linux

package hostile

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/tests/testkit"
)

// Marked secrets, which no output may show.
const (
	clientSecret = "MARK-client-s3cr3t"
	awsSecret    = "MARK-aws-s3cr3t"
	awsToken     = "MARK-aws-token"
)

// loginBroker starts a broker that answers each login as judge says, which is given the client's
// message.
func loginBroker(t *testing.T, judge func(message string) (challenge, refusal string)) string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	c.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return req.ResponseKind(), nil, true
	})
	c.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		challenge, refusal := judge(string(req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes))
		if resp.SASLAuthBytes = []byte(challenge); refusal != "" {
			resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr(refusal)
		}
		return resp, nil, true
	})
	return c.ListenAddrs()[0]
}

// unsigned returns a JWT that nobody has signed. Its signature is marked.
func unsigned(claims map[string]any) string {
	payload, _ := json.Marshal(claims)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + ".MARK-signature"
}

// faultyLogin is the sasl section of a sink, and what relay says of it.
type faultyLogin struct {
	broker, sasl string
	says         []string
}

// requireExplained runs check and run with a sink for each login. Both name the cause of each
// within bounded time, and show no secret.
func requireExplained(t *testing.T, logins map[string]faultyLogin, secrets []string, env ...string) {
	t.Helper()
	api := newAPI(t)
	text := fmt.Sprintf("source: {endpoint: %q, api_key: %s}\nsinks:\n", api.URL(), apiKey)
	for name, l := range logins {
		text += fmt.Sprintf("  - {name: %s, type: kafka, events: [user.created], brokers: [%q], request_timeout: 15s, sasl: {%s}}\n", name, l.broker, l.sasl)
	}
	r := testkit.NewRelay(t, relayBinary, "relay", text, env...)
	hidden := func(where, shown string) {
		for _, secret := range append(slices.Clone(secrets), "MARK", "client_assertion=") {
			require.NotContains(t, shown, secret, where)
		}
	}
	begin := time.Now()
	code, stdout, stderr := r.Run(t, "check", "--timeout", "60s")
	require.Less(t, time.Since(begin), time.Duration(len(logins)+1)*30*time.Second) // some 10 s for each that hangs, on a quiet machine
	require.Equal(t, 1, code, stdout+stderr)
	hidden("check", stdout+stderr)
	r.Start(t)
	for name, l := range logins {
		_, section, found := strings.Cut(stdout, "sink "+name+" ")
		require.True(t, found, stdout)
		section, _, _ = strings.Cut(section, "\nsink ")
		section = strings.Join(strings.Fields(section), " ")
		for _, says := range l.says {
			require.Contains(t, section, says, "check, %s", name)
			r.Await(t, func() bool {
				for line := range strings.Lines(r.Output()) {
					if strings.Contains(line, fmt.Sprintf(`"lane": %q`, name)) && strings.Contains(strings.ReplaceAll(line, `\"`, `"`), says) {
						return true
					}
				}
				return false
			}, "run, %s: %s", name, says)
		}
	}
	status, _ := r.Status()
	hidden("run", r.Output()+fmt.Sprintf("%+v", status)+r.Metrics())
	r.Stop(t)
}

// TestFaultyOAuth: tokens, clients and clocks that are wrong, each with its own sink.
func TestFaultyOAuth(t *testing.T) {
	t.Parallel()
	refuses := loginBroker(t, func(string) (string, string) { return `{"status":"invalid_token"}`, "" })
	byCode := loginBroker(t, func(m string) (string, string) { return "", "unknown identity pool; you sent " + m })
	hour := func(n int) int64 { return time.Now().Add(time.Duration(n) * time.Hour).Unix() }
	claims := map[string]map[string]any{
		"/expired":  {"exp": hour(-1)},
		"/audience": {"aud": "another", "exp": hour(1)},
		"/early":    {"iat": hour(1), "exp": hour(2)},
	}
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		w.Header().Set("Content-Type", "application/json")
		refuse := func(code string) {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": "you sent " + r.Header.Get("Authorization") + " " + r.PostForm.Encode()})
		}
		switch c := claims[r.URL.Path]; {
		case c != nil:
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": unsigned(c), "token_type": "Bearer", "expires_in": 3600})
		case r.URL.Path == "/clock":
			w.Header().Set("Date", time.Now().Add(90*time.Minute).UTC().Format(http.TimeFormat))
			refuse("invalid_client")
		case r.URL.Path == "/target":
			refuse("invalid_target")
		case r.URL.Path == "/scope":
			refuse("invalid_scope")
		case r.URL.Path == "/hangs":
			<-r.Context().Done()
		}
	}))
	t.Cleanup(endpoint.Close)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(unsigned(claims["/expired"])), 0o600))
	client := func(path string) string {
		return fmt.Sprintf("mechanism: oauthbearer, token_url: %q, client_id: relay, client_secret: %s", endpoint.URL+path, clientSecret)
	}
	requireExplained(t, map[string]faultyLogin{
		"file":      {refuses, fmt.Sprintf("mechanism: oauthbearer, token_file: %q", file), []string{"the token expired 1h", "correct the clock, else renew the token", "sasl.token_file"}},
		"expired":   {refuses, client("/expired"), []string{"the token expired 1h", "sasl.token_url"}},
		"audience":  {refuses, client("/audience"), []string{`audience "another"`, "set sasl.audience or sasl.scope"}},
		"early":     {refuses, client("/early"), []string{"the token is valid only in", "the clock of this machine or of the issuer is wrong: correct it"}},
		"extension": {byCode, client("/audience") + ", extensions: {identityPoolId: pool-none}", []string{"check sasl.extensions"}},
		"clock":     {refuses, client("/clock"), []string{"invalid_client", "the clock of this machine is 1h", "behind the endpoint's: correct the one that is wrong"}},
		"target":    {refuses, client("/target"), []string{"the audience is unknown or not granted to this client: correct sasl.audience"}},
		"scope":     {refuses, client("/scope"), []string{"correct sasl.scope"}},
		"hangs":     {refuses, client("/hangs"), []string{"no complete answer within 10s", "/hangs"}},
		"nobody":    {refuses, fmt.Sprintf("mechanism: oauthbearer, token_url: \"http://127.0.0.1:1/token\", client_id: relay, client_secret: %s", clientSecret), []string{"nothing listens there: correct sasl.token_url"}},
	}, []string{unsigned(claims["/expired"]), unsigned(claims["/audience"])})

	for sasl, says := range map[string]string{
		client("/token") + ", extensions: {logical_cluster: lkc-1}": "write logicalCluster",
		client("/token") + ", extensions: {auth: " + awsToken + "}": "the name auth stands for the token itself",
		"mechanism: aws_msk_iam, region: Frankfurt":                 "is not a region: write for example eu-central-1",
		"mechanism: aws_msk_iam, role_arn: relay":                   "is not the ARN of a role",
	} {
		r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: \"http://127.0.0.1:1\", api_key: %s}\nsinks: [{name: kafka, type: kafka, sasl: {%s}}]\n", apiKey, sasl))
		code, stdout, stderr := r.Run(t, "check")
		require.Equal(t, 2, code, sasl)
		require.Contains(t, strings.Join(strings.Fields(stdout+stderr), " "), says)
		require.NotContains(t, stdout+stderr, "MARK")
	}
}

// awsEnvironment is an environment without a setting of AWS of this machine. IMDS and STS are at
// these addresses.
func awsEnvironment(t *testing.T, imds, sts string, more ...string) []string {
	t.Helper()
	dir := t.TempDir()
	var env []string
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "AWS_") {
			env = append(env, name+"=")
		}
	}
	return append(append(env, "AWS_CONFIG_FILE="+filepath.Join(dir, "config"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(dir, "credentials"),
		"AWS_EC2_METADATA_SERVICE_ENDPOINT="+imds, "AWS_ENDPOINT_URL_STS="+sts, "AWS_MAX_ATTEMPTS=1"), more...)
}

// TestFaultyAWS: roles, regions, clocks and credentials of AWS that are wrong.
func TestFaultyAWS(t *testing.T) {
	t.Parallel()
	const nobody = "http://127.0.0.1:1"
	accepts := loginBroker(t, func(string) (string, string) { return "{}", "" })
	refuses := func(text string) string {
		return loginBroker(t, func(m string) (string, string) { return "", "[6c8a]: " + text + ": " + m })
	}
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		arn := r.PostForm.Get("RoleArn")
		code, text := arn[strings.LastIndexByte(arn, '/')+1:], "you sent "+awsSecret
		if code == "hangs" {
			<-r.Context().Done()
			return
		}
		if code == "SignatureDoesNotMatch" {
			text = "Signature expired: 20261130T000000Z is now earlier than 20261130T005500Z"
		}
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>", code, text)
	}))
	t.Cleanup(sts.Close)
	secrets := []string{awsSecret, awsToken}
	keys := []string{"AWS_ACCESS_KEY_ID=AKIAHOSTILE", "AWS_SECRET_ACCESS_KEY=" + awsSecret, "AWS_SESSION_TOKEN=" + awsToken}
	const region = "mechanism: aws_msk_iam, region: eu-central-1"
	role := func(code string) string {
		return region + ", role_arn: \"arn:aws:iam::123456789012:role/" + code + "\""
	}
	t.Run("with keys", func(t *testing.T) {
		t.Parallel()
		requireExplained(t, map[string]faultyLogin{
			"role":     {accepts, role("AccessDenied"), []string{"AccessDenied; these credentials may not assume the role: allow sts:AssumeRole"}},
			"expired":  {accepts, role("ExpiredToken"), []string{"ExpiredToken; the credentials have expired"}},
			"clock":    {accepts, role("SignatureDoesNotMatch"), []string{"the clock of this machine is wrong: correct it"}},
			"key":      {accepts, role("InvalidClientTokenId"), []string{"the access key does not exist or is not active"}},
			"disabled": {accepts, role("RegionDisabledException"), []string{"STS is not active in this region: activate it, or use another sasl.region"}},
			"hangs":    {accepts, role("hangs"), []string{"no complete answer within 10s; check the way to AWS STS"}},
			"missing":  {accepts, "mechanism: aws_msk_iam", []string{"the region of the cluster is not known: set sasl.region"}},
			"denied":   {refuses("Access denied"), region, []string{"allow them kafka-cluster:Connect"}},
			"late":     {refuses("Signature expired"), region, []string{"correct the clock of this machine, which may be off by 5 minutes"}},
			"region":   {refuses("Credential should be scoped to a valid region"), region, []string{"they are signed for another region; correct sasl.region"}},
			"session":  {refuses("The security token included in the request is expired"), region, []string{"they have expired; renew AWS_SESSION_TOKEN"}},
		}, secrets, awsEnvironment(t, nobody, sts.URL, keys...)...)
	})
	t.Run("without credentials", func(t *testing.T) {
		t.Parallel()
		requireExplained(t, map[string]faultyLogin{
			"nothing": {accepts, region, []string{"there are none in the environment or the shared files, and the metadata of an instance"}},
		}, secrets, awsEnvironment(t, nobody, nobody)...)
	})
	t.Run("metadata that hang", func(t *testing.T) {
		t.Parallel()
		imds := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		t.Cleanup(imds.Close)
		requireExplained(t, map[string]faultyLogin{
			"hangs": {accepts, region, []string{"there are none in the environment or the shared files, and the metadata of an instance does not answer within 10s"}},
		}, secrets, awsEnvironment(t, imds.URL, nobody)...)
	})
	t.Run("STS that nobody answers for", func(t *testing.T) {
		t.Parallel()
		requireExplained(t, map[string]faultyLogin{
			"sts": {accepts, role("relay"), []string{"AWS STS cannot be reached: check the network, proxies and sasl.region"}},
		}, secrets, awsEnvironment(t, nobody, nobody, keys...)...)
	})
}
