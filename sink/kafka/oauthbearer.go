package kafka

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/sasl"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
	"workos-relay/sink/kafka/internal/client"
	"workos-relay/sink/kafka/oauth"
)

// OAuth says how relay gets tokens for oauthbearer.
type OAuth struct {
	TokenURL          string            `yaml:"token_url" doc:"Token endpoint for oauthbearer: relay gets tokens there by the grant client_credentials and renews them. With http the client's secret goes in the clear." example:"https://login.example.com/oauth2/token"`
	TokenCAFile       string            `yaml:"token_ca_file" doc:"PEM file with the authorities to trust for token_url instead of the system's. New content is used for the next request."`
	TokenCA           tlsconf.PEM       `yaml:"token_ca" doc:"PEM text of the authorities, in place of token_ca_file."`
	ClientID          string            `yaml:"client_id" doc:"Client at token_url."`
	ClientSecret      secret.String     `yaml:"client_secret" doc:"Secret of the client."`
	ClientKeyFile     string            `yaml:"client_key_file" doc:"PEM file with the client's private key (RSA, P-256, P-384, P-521 or Ed25519), which signs an assertion (RFC 7523) in place of client_secret. It may be encrypted. New content is used for the next request."`
	ClientKey         secret.String     `yaml:"client_key" file:"own" doc:"PEM text of the client's private key, in place of client_key_file."`
	Passphrase        secret.String     `yaml:"client_key_passphrase" file:"own" doc:"Passphrase of the client's private key, if that is encrypted."`
	PassphraseFile    string            `yaml:"client_key_passphrase_file" example:"/run/secrets/client_key_passphrase" doc:"File that holds client_key_passphrase, instead of client_key_passphrase itself. White space at its end is dropped. New content takes effect without a reload, together with a new key."`
	ClientKeyID       string            `yaml:"client_key_id" doc:"Id of the key, for the header kid of the assertion."`
	ClientCertFile    string            `yaml:"client_certificate_file" doc:"PEM file with the certificate of client_key_file, for the header x5t#S256 of the assertion, by which Microsoft Entra ID finds the key."`
	ClientCert        tlsconf.PEM       `yaml:"client_certificate" doc:"PEM text of the certificate, in place of client_certificate_file."`
	AssertionAudience string            `yaml:"assertion_audience" doc:"Audience of the assertion. Empty: token_url."`
	Scope             string            `yaml:"scope" doc:"Scopes to ask token_url for, separated by blanks."`
	Audience          string            `yaml:"audience" doc:"Audience to ask token_url for, if it takes one."`
	Extensions        map[string]string `yaml:"extensions" doc:"Extensions of oauthbearer, which go to the broker with each token. Confluent Cloud asks for logicalCluster and identityPoolId." example:"{logicalCluster: lkc-abc123, identityPoolId: pool-abc1}"`
}

// inUse reports whether a key of the section is set.
func (o OAuth) inUse() bool {
	return o.TokenURL != "" || o.TokenCAFile != "" || o.TokenCA != "" || o.ClientID != "" || o.ClientSecret.IsSet() || o.hasKey() || o.hasPassphrase() ||
		o.ClientKeyID != "" || o.hasCert() || o.AssertionAudience != "" || o.Scope != "" || o.Audience != "" || len(o.Extensions) > 0
}

// hasKey reports whether the client signs assertions.
func (o OAuth) hasKey() bool { return o.ClientKeyFile != "" || o.ClientKey.IsSet() }

// hasCert reports whether assertions name a certificate.
func (o OAuth) hasCert() bool { return o.ClientCertFile != "" || o.ClientCert != "" }

func (o OAuth) hasPassphrase() bool { return o.Passphrase.IsSet() || o.PassphraseFile != "" }

// keyFiles returns the client's key with its certificate and its passphrase.
func (c Config) keyFiles() livefile.KeyFiles {
	o := c.SASL.OAuth
	return livefile.KeyFiles{
		Cert:       tlsconf.Either(c.key("sasl.client_certificate"), o.ClientCertFile, string(o.ClientCert)),
		Key:        tlsconf.Either(c.key("sasl.client_key"), o.ClientKeyFile, o.ClientKey.Reveal()),
		Passphrase: tlsconf.Either(c.key("sasl.client_key_passphrase"), o.PassphraseFile, o.Passphrase.Reveal()),
	}
}

// validateTwins reports a text that stands beside the file that holds the same.
func (o OAuth) validateTwins() error {
	for _, twice := range []struct {
		name string
		text bool
		file string
	}{
		{"token_ca", o.TokenCA != "", o.TokenCAFile}, {"client_key", o.ClientKey.IsSet(), o.ClientKeyFile},
		{"client_certificate", o.ClientCert != "", o.ClientCertFile}, {"client_key_passphrase", o.Passphrase.IsSet(), o.PassphraseFile},
	} {
		if twice.text && twice.file != "" {
			return &keyError{"sasl." + twice.name + "_file", fmt.Errorf("sasl.%s_file stands beside sasl.%s, and only one of them can hold: remove one", twice.name, twice.name)}
		}
	}
	return nil
}

// validateOAuth reports the first fault of the section for oauthbearer.
func (s SASL) validateOAuth() error {
	fault := func(key, text string) error { return &keyError{"sasl." + key, errors.New(text)} }
	switch {
	case s.TokenFile == "" && s.TokenURL == "":
		return fault("token_file", "sasl.token_file is missing: oauthbearer reads the token from it, or gets tokens from sasl.token_url")
	case s.TokenFile != "" && s.TokenURL != "":
		return fault("token_url", "sasl.token_file and sasl.token_url are both set: remove one")
	case s.TokenFile != "":
		o := s.OAuth
		if o.Extensions = nil; o.inUse() {
			return fault("token_url", "sasl.token_url is missing: the keys for a client at a token endpoint need it, and a token in sasl.token_file needs none of them")
		}
		return validateExtensions(s.Extensions)
	}
	if err := validateTokenURL(s.TokenURL); err != nil {
		return &keyError{"sasl.token_url", err}
	}
	if err := s.validateTwins(); err != nil {
		return err
	}
	switch {
	case s.ClientID == "":
		return fault("client_id", "sasl.client_id is missing: sasl.token_url gives tokens to a client")
	case s.ClientSecret.IsSet() && s.hasKey():
		return fault("client_key_file", "sasl.client_secret and sasl.client_key_file are both set: remove one")
	case !s.ClientSecret.IsSet() && !s.hasKey():
		return fault("client_secret", "sasl.client_secret is missing: the client needs it, or sasl.client_key_file, to get tokens")
	case !s.hasKey() && (s.ClientKeyID != "" || s.hasCert() || s.hasPassphrase() || s.AssertionAudience != ""):
		return fault("client_key_file", "sasl.client_key_file is missing: the other keys of an assertion need it")
	}
	return validateExtensions(s.Extensions)
}

// validateTokenURL never repeats an address, which may hold a secret.
func validateTokenURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("sasl.token_url is not a URL: write https://host/path, such as https://login.example.com/oauth2/token")
	case u.User != nil:
		return errors.New("sasl.token_url holds credentials, which would end up in logs: use sasl.client_id and sasl.client_secret")
	case u.Fragment != "":
		return errors.New("sasl.token_url has a #: write the address alone")
	case regexp.MustCompile(`(?i)secret|password|assertion|token=`).MatchString(u.RawQuery):
		return errors.New("sasl.token_url holds a secret after the ?, which would end up in logs: use sasl.client_id and sasl.client_secret")
	}
	return nil
}

// What RFC 7628 and KIP-342 allow in the names and values of extensions.
var (
	extensionName  = regexp.MustCompile(`^[A-Za-z]+$`)
	extensionValue = regexp.MustCompile(`^[\x21-\x7e \t\r\n]+$`)
)

// knownExtensions are those that services ask for by this name. Brokers ignore others, so a name
// that is almost one of these is taken for a mistake.
var knownExtensions = []string{"logicalCluster", "identityPoolId"}

func validateExtensions(extensions map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(extensions)) {
		fault := func(format string, args ...any) error {
			return &keyError{"sasl.extensions", fmt.Errorf("sasl.extensions: "+format, args...)}
		}
		plain := strings.NewReplacer("_", "", "-", "").Replace(name)
		for _, known := range knownExtensions {
			if name != known && strings.EqualFold(plain, known) {
				return fault("%.60q is unknown: write %s", name, known)
			}
		}
		switch {
		case name == "auth":
			return fault("the name auth stands for the token itself: remove it")
		case !extensionName.MatchString(name):
			return fault("%.60q is not a name of an extension: write letters A to Z and a to z only", name)
		case !extensionValue.MatchString(extensions[name]):
			return fault("the value of %s is empty or has characters other than printable ASCII", name)
		}
	}
	return nil
}

// clientFollowsFile reports whether what proves the client comes from a file that relay follows.
func (c Config) clientFollowsFile() bool {
	return c.ClientSecret.Follows() || c.SASL.ClientKeyFile != "" || c.SASL.PassphraseFile != ""
}

// tokenTimeout is how long one request for a token may take: less than the request of Kafka that
// waits for it, so that its error is told.
func (c Config) tokenTimeout() time.Duration { return min(c.RequestTimeout*2/3, 10*time.Second) }

// newBearer returns the mechanism oauthbearer.
func (c Config) newBearer() (sasl.Mechanism, error) {
	if c.SASL.TokenURL == "" {
		tokens, err := client.TokenFile(c.Files, livefile.File{Key: c.key("sasl.token_file"), Path: c.SASL.TokenFile})
		if err != nil {
			return nil, err
		}
		return client.NewBearer(tokens, "sasl.token_file", c.SASL.Extensions), nil
	}
	cfg := oauth.Config{
		URL: c.SASL.TokenURL, ClientID: c.SASL.ClientID, Secret: c.ClientSecret, Scope: c.SASL.Scope, Audience: c.SASL.Audience,
		Timeout: c.tokenTimeout(), Hide: c.Files.Hide,
	}
	if cfg.Secret == nil {
		cfg.Secret = livefile.Fixed(c.SASL.ClientSecret)
	}
	if c.SASL.TokenCAFile == "" && c.SASL.TokenCA == "" {
		cfg.Roots = tlsconf.SystemRoots(c.Files).Pool
	} else {
		pool, err := livefile.Authorities(c.Files, tlsconf.Either(c.key("sasl.token_ca"), c.SASL.TokenCAFile, string(c.SASL.TokenCA)))
		if err != nil {
			return nil, err
		}
		cfg.Roots = pool.Latest
	}
	var err error
	if c.SASL.hasKey() {
		if cfg.Signer, err = c.signer(); err != nil {
			return nil, err
		}
	}
	return client.NewBearer(oauth.New(cfg), "sasl.token_url", c.SASL.Extensions), nil
}

// signer returns what signs the client's assertions.
func (c Config) signer() (*oauth.Signer, error) {
	s := &oauth.Signer{KeyID: c.SASL.ClientKeyID, Audience: c.SASL.AssertionAudience}
	key, err := livefile.PrivateKey(c.Files, c.keyFiles())
	if err != nil {
		return nil, err
	}
	s.Key = func() (crypto.Signer, error) { return key.Latest(), nil }
	if !c.SASL.hasCert() {
		return s, s.Check()
	}
	pair, err := livefile.Pair(c.Files, c.keyFiles())
	if err != nil {
		return nil, err
	}
	s.Key = func() (crypto.Signer, error) {
		signer, ok := pair.Latest().PrivateKey.(crypto.Signer)
		if !ok {
			return nil, errors.New("the key of sasl.client_key_file cannot sign")
		}
		return signer, nil
	}
	s.Certificate = func() (*x509.Certificate, error) { return leafOf(pair.Latest()) }
	return s, s.Check()
}

func leafOf(pair *tls.Certificate) (*x509.Certificate, error) {
	if pair.Leaf != nil {
		return pair.Leaf, nil
	}
	return x509.ParseCertificate(pair.Certificate[0])
}
