package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/source/sourcetest"
)

// bearerCluster is a cluster that answers each token by judge, which is given the client's message.
func bearerCluster(t *testing.T, judge func(message string) (challenge, refusal string)) string {
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
		resp.SASLAuthBytes = []byte(challenge)
		if refusal != "" {
			resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, kmsg.StringPtr(refusal)
		}
		return resp, nil, true
	})
	return c.ListenAddrs()[0]
}

// addOAuthCases: tokens that come from a token endpoint, which may repeat what it is sent, and so
// may the broker.
func addOAuthCases(t *testing.T, cases map[string]secretCase, api *sourcetest.Server) {
	t.Helper()
	clientSecret, token := marked("oauth-client"), "MARK-access-token.s3cr3t"
	serve := func(status int, body func(r *http.Request) string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body(r))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	good := serve(http.StatusOK, func(*http.Request) string {
		return fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, token)
	})
	sent := func(r *http.Request) string {
		return fmt.Sprintf("you sent %s %s", r.Header.Get("Authorization"), r.PostForm.Encode())
	}
	takes := bearerCluster(t, func(string) (string, string) { return "", "" })
	for name, c := range map[string]struct{ broker, url, reaches string }{
		"good":                   {takes, good, "exactly_once"},
		"broker echoes, refusal": {bearerCluster(t, func(m string) (string, string) { return "", "you sent " + m }), good, "refused the bearer token"},
		"broker echoes, answer":  {bearerCluster(t, func(m string) (string, string) { return "you sent " + m, "" }), good, "refused the bearer token"},
		"endpoint echoes": {takes, serve(http.StatusBadRequest, func(r *http.Request) string {
			return fmt.Sprintf(`{"error":"invalid_client","error_description":%q}`, sent(r))
		}), "invalid_client"},
		"endpoint echoes a code": {takes, serve(http.StatusBadRequest, func(r *http.Request) string { return fmt.Sprintf(`{"error":%q}`, sent(r)) }), "status 400"},
		"endpoint echoes a page": {takes, serve(http.StatusOK, func(r *http.Request) string { return "<html>" + sent(r) }), "holds no token"},
		"no token": {takes, serve(http.StatusOK, func(*http.Request) string {
			return fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer"}`, token+" and more")
		}), "characters that no bearer token has"},
		"unreachable": {takes, "http://127.0.0.1:1/token", "nothing listens there"},
	} {
		source, secrets := secretSource(api.URL())
		timeout := "2s"
		if c.reaches == "exactly_once" {
			timeout = "10s"
		}
		cases["oauth/"+name] = secretCase{
			config: source + fmt.Sprintf("sinks: [{name: kafka, type: kafka, topic_prefix: OWN., request_timeout: %s, create: {partitions: 1}, brokers: [%q], "+
				"sasl: {mechanism: oauthbearer, token_url: %q, client_id: relay, client_secret: %q}}]\nadmin: {listen: ADMIN, token: %q}\n",
				timeout, c.broker, c.url, clientSecret, marked("admin-token")),
			env:     map[string]string{"KEY": apiMark},
			secrets: append(secrets, clientSecret, token), reaches: c.reaches, only: reaching,
		}
	}
}
