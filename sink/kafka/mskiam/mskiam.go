// Package mskiam logs in to Amazon MSK by IAM (SASL mechanism AWS_MSK_IAM) with the default
// credential chain of the AWS SDK: environment, shared files, web identity, container and instance
// metadata.
package mskiam

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/aws_msk_iam_v2"
)

// Credentials are renewed this long before they expire.
const renewBefore = 5 * time.Minute

// Config says whose credentials are used.
type Config struct {
	Region  string // of the cluster; empty for that of the environment, or of the broker's name
	RoleARN string // to assume with the credentials of the chain; empty for these themselves
	Session string // name of the role's session, as CloudTrail shows it
	Timeout time.Duration

	// Hide, if not nil, is told of each text that must never be shown.
	Hide func(secrets ...string)
}

// Mechanism implements sasl.Mechanism. It is safe for concurrent use.
type Mechanism struct {
	cfg Config

	mu    sync.Mutex
	chain *aws.Config // nil until the first login
}

// New returns a mechanism. It reads nothing and connects to nothing.
func New(cfg Config) *Mechanism { return &Mechanism{cfg: cfg} }

// Name implements sasl.Mechanism.
func (*Mechanism) Name() string { return "AWS_MSK_IAM" }

// Start implements sasl.Mechanism: it signs the login to the broker that ctx names.
func (m *Mechanism) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	chain, err := m.load(ctx)
	if err != nil {
		return nil, nil, m.credentialsError(err)
	}
	region := m.region(chain, sasl.MetadataFromContext(ctx))
	if region == "" {
		return nil, nil, &Error{text: "the region of the cluster is not known: set sasl.region, such as eu-central-1, or AWS_REGION"}
	}
	found, err := chain.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, nil, m.credentialsError(err)
	}
	if m.cfg.Hide != nil {
		m.cfg.Hide(found.SecretAccessKey, found.SessionToken)
	}
	return (&aws_msk_iam_v2.Mechanism{Signer: v4.NewSigner(), Credentials: fixed(found), Region: region}).Start(ctx)
}

// fixed are credentials that were retrieved already.
type fixed aws.Credentials

// Retrieve implements aws.CredentialsProvider.
func (f fixed) Retrieve(context.Context) (aws.Credentials, error) { return aws.Credentials(f), nil }

// load returns the credential chain, which keeps and renews its credentials.
func (m *Mechanism) load(ctx context.Context) (*aws.Config, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.chain != nil {
		return m.chain, nil
	}
	early := func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = renewBefore }
	options := []func(*config.LoadOptions) error{
		config.WithCredentialsCacheOptions(early),
		// The SDK goes on with a request that nobody waits for any more.
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(m.cfg.Timeout)),
	}
	if m.cfg.Region != "" {
		options = append(options, config.WithRegion(m.cfg.Region))
	}
	chain, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	if m.cfg.RoleARN != "" {
		forSTS := chain.Copy()
		if forSTS.Region == "" {
			forSTS.Region = m.region(&chain, sasl.MetadataFromContext(ctx))
		}
		role := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(forSTS), m.cfg.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			if m.cfg.Session != "" {
				o.RoleSessionName = m.cfg.Session
			}
		})
		chain.Credentials = aws.NewCredentialsCache(role, early)
	}
	m.chain = &chain
	return m.chain, nil
}

// brokerName is the name of a broker of MSK, or of MSK Serverless.
var brokerName = regexp.MustCompile(`\.(?:kafka|kafka-serverless)\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?$`)

func (m *Mechanism) region(chain *aws.Config, broker *sasl.Metadata) string {
	switch {
	case m.cfg.Region != "":
		return m.cfg.Region
	case broker != nil && brokerName.MatchString(broker.Host):
		return brokerName.FindStringSubmatch(broker.Host)[1]
	}
	return chain.Region
}

// Error says why relay cannot sign a login. It holds no secret.
type Error struct {
	text      string
	permanent bool
}

func (e *Error) Error() string { return e.text }

// Permanent reports whether only an operator can resolve it.
func (e *Error) Permanent() bool { return e.permanent }

// advice says what to change for the error codes of AWS.
var advice = map[string]string{
	"AccessDenied":                  "these credentials may not assume the role: allow sts:AssumeRole for them, and name them in the trust policy of the role (sasl.role_arn or AWS_ROLE_ARN)",
	"AccessDeniedException":         "these credentials may not assume the role: allow sts:AssumeRole for them, and name them in the trust policy of the role (sasl.role_arn or AWS_ROLE_ARN)",
	"ExpiredToken":                  "the credentials have expired: renew AWS_SESSION_TOKEN or what the shared file holds",
	"ExpiredTokenException":         "the credentials have expired: renew AWS_SESSION_TOKEN, the shared file or the web identity token",
	"InvalidIdentityToken":          "the web identity token is not one that the role trusts: check the identity provider and its audience",
	"IDPRejectedClaim":              "the identity provider rejects the web identity token: renew it",
	"InvalidClientTokenId":          "the access key does not exist or is not active: check AWS_ACCESS_KEY_ID or the shared file",
	"UnrecognizedClientException":   "the access key does not exist or is not active: check AWS_ACCESS_KEY_ID or the shared file",
	"SignatureDoesNotMatch":         "the secret of the access key is wrong, or the clock of this machine is: check both",
	"RequestExpired":                "the clock of this machine is wrong: correct it",
	"InvalidSignatureException":     "the clock of this machine is wrong, or the secret of the access key is: check both",
	"RegionDisabledException":       "STS is not active in this region: activate it, or use another sasl.region",
	"ValidationError":               "sasl.role_arn is not the ARN of a role: correct it",
	"PackedPolicyTooLargeException": "the session policy is too large",
}

// fromMetadata reports whether the last place where credentials were sought is the metadata of an
// instance: the chain has found none before.
func fromMetadata(err error) bool {
	return strings.Contains(err.Error(), "no EC2 IMDS role found") || strings.Contains(err.Error(), "ec2imds")
}

// onlyMetadata reports whether the credentials can come from nothing but the metadata of an
// instance: neither from another place nor from STS.
func (m *Mechanism) onlyMetadata() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.chain != nil && m.cfg.RoleARN == "" && aws.IsCredentialsProvider(m.chain.Credentials, (*ec2rolecreds.Provider)(nil))
}

// codeForm leaves no room for a secret.
var codeForm = regexp.MustCompile(`^[A-Za-z]{3,40}$`)

// credentialsError returns the *Error for an error of the SDK.
func (m *Mechanism) credentialsError(err error) error {
	const what = "getting AWS credentials: "
	var (
		api    smithy.APIError
		shared config.SharedConfigLoadError
		asked  config.SharedConfigProfileNotExistError
		op     *net.OpError
	)
	switch {
	case errors.As(err, &api):
		code := api.ErrorCode()
		if !codeForm.MatchString(code) {
			code = "an error without a code"
		}
		hint := advice[code]
		if hint == "" {
			hint = "look up this code in the documentation of AWS STS"
		}
		if strings.Contains(api.ErrorMessage(), "Signature expired") || strings.Contains(api.ErrorMessage(), "not yet current") {
			hint = advice["RequestExpired"]
		}
		return &Error{text: what + code + "; " + hint, permanent: advice[code] != ""}
	case errors.As(err, &asked):
		return &Error{text: what + "the profile that AWS_PROFILE names is not in the shared files: correct AWS_PROFILE or the files", permanent: true}
	case errors.As(err, &shared):
		return &Error{text: what + "a shared file of AWS cannot be read: correct what AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name, or ~/.aws", permanent: true}
	case m.onlyMetadata() && errors.Is(err, context.DeadlineExceeded):
		return &Error{text: what + fmt.Sprintf("there are none in the environment or the shared files, and the metadata of an instance does not answer within %s: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "+
			"a web identity, or give the machine a role and let relay reach 169.254.169.254", m.cfg.Timeout)}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{text: what + fmt.Sprintf("no complete answer within %s; check the way to AWS STS or to the metadata of the instance", m.cfg.Timeout)}
	case fromMetadata(err):
		return &Error{text: what + "there are none in the environment or the shared files, and the metadata of an instance gives none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, " +
			"a web identity, or give the machine a role"}
	case errors.As(err, &op):
		return &Error{text: what + "AWS STS cannot be reached: check the network, proxies and sasl.region"}
	}
	return &Error{text: what + "the AWS SDK gives none; check AWS_PROFILE, AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE and the shared files"}
}
