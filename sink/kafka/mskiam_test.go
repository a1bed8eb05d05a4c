package kafka

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestMSKIAM logs in with credentials of the environment at a broker that judges the signed
// message.
func TestMSKIAM(t *testing.T) { //nolint:paralleltest // the environment
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "aws-password")
	t.Setenv("AWS_SESSION_TOKEN", "aws-session-token")
	b := fake(t, kfake.NumBrokers(1))
	b.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
		if req.(*kmsg.SASLHandshakeRequest).Mechanism != "AWS_MSK_IAM" {
			resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		}
		return resp, nil, true
	})
	b.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		payload := req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes
		var signed map[string]string
		if json.Unmarshal(payload, &signed) != nil || !strings.Contains(signed["x-amz-credential"], "/eu-central-1/kafka-cluster/") {
			resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
			resp.ErrorMessage = kmsg.StringPtr("Access denied to " + string(payload))
		}
		return resp, nil, true
	})
	cfg := config(t, b.ListenAddrs())
	cfg.SASL = SASL{Mechanism: saslMSKIAM, MSKIAM: MSKIAM{Region: "eu-central-1"}}
	s := open(t, cfg)
	require.NoError(t, s.Prepare(within(t, patient), []string{"a"}))
	require.NoError(t, s.Publish(within(t, patient), messages(0, 10, "a")))

	cfg.SASL.Region = "us-east-1"
	err := open(t, cfg).Prepare(within(t, patient), []string{"a"})
	require.ErrorContains(t, err, "kafka-cluster:Connect")
	require.NotContains(t, err.Error(), "aws-session-token")
	require.NotContains(t, err.Error(), "aws-password")
}

func TestMSKIAMIsValidated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sasl      SASL
		key, says string
	}{
		"good":           {SASL{Mechanism: saslMSKIAM}, "", ""},
		"all":            {SASL{Mechanism: saslMSKIAM, MSKIAM: MSKIAM{"us-gov-west-1", "arn:aws-us-gov:iam::123456789012:role/path/relay"}}, "", ""},
		"not a region":   {SASL{Mechanism: saslMSKIAM, MSKIAM: MSKIAM{Region: "Frankfurt"}}, "sasl.region", "eu-central-1"},
		"not a role":     {SASL{Mechanism: saslMSKIAM, MSKIAM: MSKIAM{RoleARN: "relay"}}, "sasl.role_arn", "ARN"},
		"with a user":    {SASL{Mechanism: saslMSKIAM, User: "relay", Password: "p"}, "sasl.mechanism", "remove the other keys"},
		"of another":     {SASL{Mechanism: saslPlain, User: "relay", Password: "p", MSKIAM: MSKIAM{Region: "eu-central-1"}}, "sasl.mechanism", "are for aws_msk_iam"},
		"without a name": {SASL{MSKIAM: MSKIAM{Region: "eu-central-1"}}, "sasl.mechanism", "are for aws_msk_iam"},
	} {
		cfg := config(t, []string{"127.0.0.1:9092"})
		cfg.SASL = c.sasl
		err := cfg.Validate()
		if c.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, c.says, name)
		var keyed interface{ Key() string }
		require.ErrorAs(t, err, &keyed, name)
		require.Equal(t, c.key, keyed.Key(), name)
	}
}
