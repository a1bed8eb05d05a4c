package mskiam

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/stretchr/testify/require"
)

const (
	patient = time.Minute
	broker  = "b-1.example.kafka.eu-central-1.amazonaws.com"
	marked  = "MARK-aws-s3cr3t"
)

// start logs in to a broker.
func start(t *testing.T, m *Mechanism, host string) (map[string]string, error) {
	t.Helper()
	exchange, payload, err := m.Start(sasl.WithMetadata(t.Context(), &sasl.Metadata{Host: host, Port: 9098}))
	if err != nil {
		require.NotContains(t, err.Error(), marked)
		return nil, err
	}
	done, _, err := exchange.Next(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, done)
	var signed map[string]string
	require.NoError(t, json.Unmarshal(payload, &signed))
	return signed, nil
}

// verify checks a login as a broker does: it signs the same request with the credentials that the
// access key belongs to, and compares the signatures.
func verify(t *testing.T, signed map[string]string, host, region string, creds aws.Credentials) {
	t.Helper()
	require.Equal(t, "2020_10_22", signed["version"])
	require.Equal(t, host, signed["host"])
	require.Equal(t, "kafka-cluster:Connect", signed["action"])
	at, err := time.Parse("20060102T150405Z", signed["x-amz-date"])
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, patient)
	require.Equal(t, fmt.Sprintf("%s/%s/%s/kafka-cluster/aws4_request", creds.AccessKeyID, at.Format("20060102"), region), signed["x-amz-credential"])
	query := url.Values{"Action": {signed["action"]}, "X-Amz-Expires": {signed["x-amz-expires"]}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "kafka://"+host+"/?"+query.Encode(), nil)
	require.NoError(t, err)
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	again, _, err := v4.NewSigner().PresignHTTP(t.Context(), creds, req, empty, "kafka-cluster", region, at)
	require.NoError(t, err)
	u, err := url.Parse(again)
	require.NoError(t, err)
	require.Equal(t, u.Query().Get("X-Amz-Signature"), signed["x-amz-signature"], "the signature is that of the secret")
	require.Equal(t, creds.SessionToken, signed["x-amz-security-token"])
}

// clean removes every setting of AWS from the environment, and gives IMDS and STS an address on
// loopback at which nobody listens.
func clean(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
			require.NoError(t, os.Unsetenv(name))
		}
	}
	dir := t.TempDir()
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": filepath.Join(dir, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials"),
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(name, value)
	}
}

func withKeys(t *testing.T) aws.Credentials {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
	t.Setenv("AWS_SECRET_ACCESS_KEY", marked)
	return aws.Credentials{AccessKeyID: "AKIAENVIRONMENT", SecretAccessKey: marked}
}

// securityTokens is a fake STS.
func securityTokens(t *testing.T, status int, refusal string, life time.Duration) (asked func() []url.Values) {
	t.Helper()
	var forms []url.Values
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		forms = append(forms, r.PostForm)
		w.Header().Set("Content-Type", "text/xml")
		if refusal != "" {
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>you sent %s</Message></Error></ErrorResponse>", refusal, marked)
			return
		}
		action := r.PostForm.Get("Action")
		_, _ = fmt.Fprintf(w, "<%[1]sResponse><%[1]sResult><Credentials><AccessKeyId>ASIAROLE%[2]d</AccessKeyId><SecretAccessKey>%[3]s-role</SecretAccessKey>"+
			"<SessionToken>%[3]s-token</SessionToken><Expiration>%[4]s</Expiration></Credentials></%[1]sResult></%[1]sResponse>",
			action, len(forms), marked, time.Now().Add(life).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(s.Close)
	t.Setenv("AWS_ENDPOINT_URL_STS", s.URL)
	return func() []url.Values { return forms }
}

func role(n int) aws.Credentials {
	return aws.Credentials{AccessKeyID: fmt.Sprintf("ASIAROLE%d", n), SecretAccessKey: marked + "-role", SessionToken: marked + "-token"}
}

func TestCredentialChain(t *testing.T) { //nolint:paralleltest // the environment
	t.Run("environment", func(t *testing.T) {
		clean(t)
		creds := withKeys(t)
		signed, err := start(t, New(Config{Region: "us-west-2", Timeout: patient}), "broker.example.com")
		require.NoError(t, err)
		verify(t, signed, "broker.example.com", "us-west-2", creds)
	})
	t.Run("region of the broker's name", func(t *testing.T) {
		clean(t)
		creds := withKeys(t)
		signed, err := start(t, New(Config{Timeout: patient}), broker)
		require.NoError(t, err)
		verify(t, signed, broker, "eu-central-1", creds)
	})
	t.Run("shared files", func(t *testing.T) {
		clean(t)
		require.NoError(t, os.WriteFile(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), []byte("[relay]\naws_access_key_id = AKIAFILE\naws_secret_access_key = "+marked+"\n"), 0o600))
		require.NoError(t, os.WriteFile(os.Getenv("AWS_CONFIG_FILE"), []byte("[profile relay]\nregion = ap-south-1\n"), 0o600))
		t.Setenv("AWS_PROFILE", "relay")
		signed, err := start(t, New(Config{Timeout: patient}), "broker.example.com")
		require.NoError(t, err)
		verify(t, signed, "broker.example.com", "ap-south-1", aws.Credentials{AccessKeyID: "AKIAFILE", SecretAccessKey: marked})
	})
	t.Run("role", func(t *testing.T) {
		clean(t)
		withKeys(t)
		asked := securityTokens(t, 0, "", time.Hour)
		var hidden []string
		m := New(Config{RoleARN: "arn:aws:iam::123456789012:role/relay", Session: "relay-a", Timeout: patient, Hide: func(s ...string) { hidden = append(hidden, s...) }})
		for range 3 {
			signed, err := start(t, m, broker)
			require.NoError(t, err)
			verify(t, signed, broker, "eu-central-1", role(1))
		}
		require.Len(t, asked(), 1, "the credentials are kept")
		require.Equal(t, "relay-a", asked()[0].Get("RoleSessionName"))
		require.Equal(t, "arn:aws:iam::123456789012:role/relay", asked()[0].Get("RoleArn"))
		require.Contains(t, hidden, marked+"-token")
	})
	t.Run("role, renewed before expiry", func(t *testing.T) {
		clean(t)
		withKeys(t)
		securityTokens(t, 0, "", renewBefore/2) // so the next login renews them
		m := New(Config{RoleARN: "arn:aws:iam::123456789012:role/relay", Timeout: patient})
		for n := range 3 {
			signed, err := start(t, m, broker)
			require.NoError(t, err)
			verify(t, signed, broker, "eu-central-1", role(n+1))
		}
	})
	t.Run("web identity", func(t *testing.T) {
		clean(t)
		asked := securityTokens(t, 0, "", time.Hour)
		file := filepath.Join(t.TempDir(), "token")
		require.NoError(t, os.WriteFile(file, []byte("web-identity"), 0o600))
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
		t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod")
		signed, err := start(t, New(Config{Region: "eu-central-1", Timeout: patient}), broker)
		require.NoError(t, err)
		verify(t, signed, broker, "eu-central-1", role(1))
		require.Equal(t, "web-identity", asked()[0].Get("WebIdentityToken"))
	})
	t.Run("instance", func(t *testing.T) {
		clean(t)
		given := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/latest/api/token":
				w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
				_, _ = w.Write([]byte("imds"))
			case "/latest/meta-data/iam/security-credentials/":
				_, _ = w.Write([]byte("relay"))
			case "/latest/meta-data/iam/security-credentials/relay":
				given++
				_ = json.NewEncoder(w).Encode(map[string]any{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": fmt.Sprintf("ASIAROLE%d", given),
					"SecretAccessKey": marked + "-role", "Token": marked + "-token", "Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		t.Cleanup(s.Close)
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL)
		m := New(Config{Region: "eu-central-1", Timeout: patient})
		signed, err := start(t, m, broker)
		require.NoError(t, err)
		verify(t, signed, broker, "eu-central-1", role(1))
	})
}

func TestFaults(t *testing.T) { //nolint:paralleltest // the environment
	const arn = "arn:aws:iam::123456789012:role/relay"
	for name, c := range map[string]struct {
		set  func(t *testing.T)
		cfg  Config
		host string
		says string
	}{
		"no region":   {func(t *testing.T) { withKeys(t) }, Config{}, "broker.example.com", "set sasl.region"},
		"nothing":     {func(*testing.T) {}, Config{Region: "eu-central-1"}, broker, "give the machine a role"},
		"forbidden":   {func(t *testing.T) { withKeys(t); securityTokens(t, 403, "AccessDenied", 0) }, Config{RoleARN: arn}, broker, "AccessDenied; these credentials may not assume the role"},
		"expired":     {func(t *testing.T) { withKeys(t); securityTokens(t, 403, "ExpiredToken", 0) }, Config{RoleARN: arn}, broker, "the credentials have expired"},
		"clock":       {func(t *testing.T) { withKeys(t); securityTokens(t, 403, "RequestExpired", 0) }, Config{RoleARN: arn}, broker, "the clock of this machine is wrong"},
		"unknown key": {func(t *testing.T) { withKeys(t); securityTokens(t, 403, "InvalidClientTokenId", 0) }, Config{RoleARN: arn}, broker, "does not exist"},
		"another":     {func(t *testing.T) { withKeys(t); securityTokens(t, 400, "Unexpected", 0) }, Config{RoleARN: arn}, broker, "Unexpected; look up"},
		"no STS":      {func(t *testing.T) { withKeys(t) }, Config{RoleARN: arn}, broker, "cannot be reached"},
		"no profile":  {func(t *testing.T) { t.Setenv("AWS_PROFILE", "none") }, Config{Region: "eu-central-1"}, broker, "AWS_PROFILE"},
		"metadata hang": {func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			t.Cleanup(s.Close)
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL)
		}, Config{Region: "eu-central-1", Timeout: 300 * time.Millisecond}, broker, "the metadata of an instance does not answer within 300ms"},
		"hangs": {func(t *testing.T) {
			withKeys(t)
			s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				<-r.Context().Done()
			}))
			t.Cleanup(s.Close)
			t.Setenv("AWS_ENDPOINT_URL_STS", s.URL)
		}, Config{RoleARN: arn, Timeout: 300 * time.Millisecond}, broker, "no complete answer within 300ms"},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			c.set(t)
			if c.cfg.Timeout == 0 {
				c.cfg.Timeout = patient
			}
			_, err := start(t, New(c.cfg), c.host)
			require.ErrorContains(t, err, c.says)
			var e *Error
			require.ErrorAs(t, err, &e)
		})
	}
}
