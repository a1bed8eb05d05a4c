package kafka

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/conf/given"
	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
	"workos-relay/conf/unit"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// Config is the configuration of a sink of type kafka.
type Config struct {
	Brokers            []string      `yaml:"brokers" default:"[127.0.0.1:9092]" doc:"Addresses (host:port) to learn the cluster from. One that answers is enough; two or three survive the loss of a broker at start."`
	TopicPrefix        string        `yaml:"topic_prefix" doc:"Put before each routed topic and the dead letter, as it stands." example:"workos."`
	Create             Create        `yaml:"create" doc:"How missing topics are created."`
	Compression        string        `yaml:"compression" default:"auto" enum:"auto,none,gzip,snappy,lz4,zstd" doc:"Codec of the record batches; consumers decompress by themselves. auto takes lz4, and gzip or none if the cluster refuses that. lz4 costs the least time, zstd the least space."`
	Timestamp          string        `yaml:"timestamp" default:"publish" enum:"publish,event" doc:"Time of a record. publish: when relay publishes it, so that retention counts from then. event: the event's created_at; the topic's retention.ms and message.timestamp.before.max.ms then hold for the age of the event, and relay warns if they are too short. Dead letters and positions always have the time of publishing."`
	TLS                tlsconf.TLS   `yaml:"tls" doc:"TLS to the brokers."`
	SASL               SASL          `yaml:"sasl" doc:"Authentication by SASL. Without tls, plain sends the password in the clear."`
	ClientID           string        `yaml:"client_id" default:"relay" doc:"Client id shown in the brokers' logs, quotas and metrics."`
	RequestTimeout     time.Duration `yaml:"request_timeout" default:"10s" doc:"How long one request may wait for its answer, a produce request for its acknowledgement by all in-sync replicas. Then it is tried again, for ever and in order; idempotence keeps the retry from becoming a duplicate."`
	MaxRequestBytes    unit.Bytes    `yaml:"max_request_bytes" default:"0" doc:"Largest produce request that the brokers, or a proxy before them, take; an event that needs a larger one can never be published. With 0 relay sends at most 1000000 bytes in a request unless one event is larger, and less once connections are closed on large requests."`
	TransactionTimeout time.Duration `yaml:"transaction_timeout" default:"15s" doc:"exactly_once only: how long a relay that died may hold back consumers that read committed, before the broker aborts its transaction. At most the brokers' transaction.max.timeout.ms."`

	// Files follows the files that the configuration names; nil reads them at each connection.
	Files *livefile.Set `yaml:"-"`
	// Password is sasl.password if a file holds it; nil for SASL.Password.
	Password *livefile.Current `yaml:"-"`
	// ClientSecret is sasl.client_secret if a file holds it; nil for SASL.ClientSecret.
	ClientSecret *livefile.Current `yaml:"-"`
	// RelayID and Lane name the relay and its lane; with them the sink names what it owns on the
	// cluster.
	RelayID string `yaml:"-"`
	Lane    string `yaml:"-"`
	// DeadLetter is the topic of dead letters, prefix included; empty for none.
	DeadLetter string `yaml:"-"`
	// State are the topics that keep the newest version of each object.
	State []sink.StateTopic `yaml:"-"`
	// OwnedFile is where the sink remembers which topics it has created. Empty: it remembers none,
	// and changes none later.
	OwnedFile string `yaml:"-"`
	// Logger may be nil.
	Logger *zap.Logger `yaml:"-"`
}

// Identity names what a sink of this configuration writes to. Brokers change and are no part of it.
func (c Config) Identity() string { return "kafka topics " + c.TopicPrefix + "*" }

// key is a key of the sink as messages name it.
func (c Config) key(name string) string {
	if c.Lane == "" {
		return name
	}
	return "sinks[" + c.Lane + "]." + name
}

// Create says whether and how missing topics are created.
type Create struct {
	Enabled           bool              `yaml:"enabled" default:"true" doc:"Create missing topics, and change topics that relay created to what is configured here. If false, a missing topic stops the start by name."`
	Partitions        int               `yaml:"partitions" named:"true" default:"6" doc:"Partitions of a created topic. relay never changes the count of one that exists: more partitions would send keys elsewhere, and so break the order of a key once."`
	ReplicationFactor int               `yaml:"replication_factor" named:"true" default:"1" doc:"Replicas of a topic, at most the number of brokers; -1 takes the cluster's default. With 1 an acknowledged event is lost with its broker's disk: use 3 in production, with min.insync.replicas 2."`
	Config            map[string]string `yaml:"config" doc:"Topic settings, by Kafka's names." example:"{retention.ms: \"604800000\", min.insync.replicas: \"2\"}"`
	MaxTopics         int               `yaml:"max_topics" named:"true" default:"500" doc:"Most topics that the placeholders of routes may make in this sink; those that exist count. An event that needs one more is held back, with those behind it, until this is raised. At most 2000."`
	AllowDeletion     bool              `yaml:"allow_deletion" default:"false" doc:"Also apply a change that deletes stored messages: a lower retention.ms or retention.bytes, another cleanup.policy. Without it relay only names such a change."`
	Adopt             bool              `yaml:"adopt" default:"false" doc:"Treat every topic that relay publishes to as created by relay, for topics of which checkpoint.dir does not tell that. Only if nobody else configures them."`

	given.Keys // of those above
}

// SASL is the authentication to the brokers.
type SASL struct {
	Mechanism string        `yaml:"mechanism" default:"none" enum:"none,plain,scram-sha-256,scram-sha-512,oauthbearer,aws_msk_iam" doc:"SASL mechanism of the listener."`
	User      string        `yaml:"user" doc:"User name for plain and scram."`
	Password  secret.String `yaml:"password" doc:"Password for plain and scram."`
	TokenFile string        `yaml:"token_file" doc:"File with the bearer token for oauthbearer. New content is used for the next connection."`

	OAuth  `yaml:",inline"`
	MSKIAM `yaml:",inline"`
}

// The bounds of the durations and sizes in Config.
const (
	minRequestTimeout     = 100 * time.Millisecond
	maxRequestTimeout     = 10 * time.Minute
	minTransactionTimeout = time.Second
	maxTransactionTimeout = 15 * time.Minute // default of the brokers' transaction.max.timeout.ms

	minRequestBytes = 16 * unit.KiB // a position fits
	maxRequestBytes = client.MaxMessageBytes
	maxPartitions   = 100_000
	maxReplicas     = 1000
)

// SASL mechanisms as the configuration names them.
const (
	saslNone        = "none"
	saslPlain       = "plain"
	saslSCRAM256    = "scram-sha-256"
	saslSCRAM512    = "scram-sha-512"
	saslOAuthBearer = "oauthbearer"
)

// keyError is a fault of the configuration and the key that holds it.
type keyError struct {
	key string
	err error
}

func (e *keyError) Error() string { return e.err.Error() }
func (e *keyError) Unwrap() error { return e.err }

// Key returns the dotted path of the key at fault, relative to Config.
func (e *keyError) Key() string { return e.key }

// Validate reports the faults that the tags cannot express, joined. Empty strings stand for the
// defaults.
func (c Config) Validate() error {
	var faults []error
	fault := func(key string, err error) { faults = append(faults, &keyError{key, err}) }
	if len(c.Brokers) == 0 {
		fault("brokers", errors.New("no broker is named: give at least one host:port"))
	}
	for _, b := range c.Brokers {
		if err := validateBroker(b); err != nil {
			fault("brokers", err)
		}
	}
	if c.TopicPrefix != "" {
		if reason := illegalTopicCharacters(c.TopicPrefix); reason != "" {
			fault("topic_prefix", fmt.Errorf("topic_prefix %q %s", c.TopicPrefix, reason))
		}
	}
	if _, err := client.CodecsOf(c.Compression); err != nil {
		fault("compression", err)
	}
	if c.RequestTimeout < minRequestTimeout || c.RequestTimeout > maxRequestTimeout {
		fault("request_timeout", fmt.Errorf("request_timeout %s is not between %s and %s", c.RequestTimeout, minRequestTimeout, maxRequestTimeout))
	}
	if c.TransactionTimeout < minTransactionTimeout || c.TransactionTimeout > maxTransactionTimeout {
		fault("transaction_timeout", fmt.Errorf("transaction_timeout %s is not between %s and %s", c.TransactionTimeout, minTransactionTimeout, maxTransactionTimeout))
	}
	if n := c.MaxRequestBytes; n != 0 && (n < minRequestBytes || n > maxRequestBytes) {
		fault("max_request_bytes", fmt.Errorf("max_request_bytes %d is not between %d and %d; 0 lets relay find the limit out", n, minRequestBytes, maxRequestBytes))
	}
	return errors.Join(append(faults, c.Create.validate(), c.SASL.validate())...)
}

// validateBroker never repeats an address that may hold a password or a token.
func validateBroker(addr string) error {
	if bare := addr[:max(strings.LastIndexByte(addr, ':'), 0)]; strings.Contains(bare, ":") && (net.ParseIP(bare) != nil || net.ParseIP(addr) != nil) {
		return errors.New("an address in brokers is not host:port; write an IPv6 address in brackets, such as [2001:db8::1]:9092")
	}
	if host, _, err := net.SplitHostPort(addr); err == nil && strings.HasPrefix(addr, "[") && strings.Contains(host, "%") {
		// %25 is how a URL writes the zone of an IPv6 address.
		if ip, err := netip.ParseAddr(host); err != nil || strings.HasPrefix(ip.Zone(), "25") && len(ip.Zone()) > 2 {
			return errors.New("an address in brokers is not host:port; write an IPv6 address with its zone as [fe80::1%eth0]:9092")
		}
		return validatePort(addr)
	}
	if strings.ContainsAny(addr, "@?#%/ ") || strings.Count(addr, ":") > 1 && !strings.HasPrefix(addr, "[") {
		return errors.New("an address in brokers is not host:port, such as kafka.example.com:9092; give user and password under sasl, and each " +
			"broker as a separate element")
	}
	return validatePort(addr)
}

func validatePort(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("broker %q is not host:port, such as kafka.example.com:9092: %w", addr, err)
	}
	if n, err := strconv.Atoi(port); host == "" || err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("broker %q is not host:port, such as kafka.example.com:9092", addr)
	}
	return nil
}

func (c Create) validate() error {
	if !c.Enabled {
		return nil
	}
	var faults []error
	if c.Partitions < 1 || c.Partitions > maxPartitions {
		faults = append(faults, &keyError{"create.partitions", fmt.Errorf("create.partitions is %d: it must be at least 1 and at most %d", c.Partitions, maxPartitions)})
	}
	if c.ReplicationFactor != -1 && (c.ReplicationFactor < 1 || c.ReplicationFactor > maxReplicas) {
		faults = append(faults, &keyError{"create.replication_factor", fmt.Errorf(
			"create.replication_factor is %d: it must be at least 1 and at most %d, or -1 for the cluster's default", c.ReplicationFactor, maxReplicas)})
	}
	if n := c.MaxTopics; c.Has("max_topics", n != 0) && (n < 1 || n > mostTopics) {
		faults = append(faults, &keyError{"create.max_topics", fmt.Errorf("create.max_topics is %d: it must be at least 1 and at most %d", n, mostTopics)})
	}
	return errors.Join(faults...)
}

func (s SASL) validate() error {
	if err := s.validateMSKIAM(); err != nil {
		return err
	}
	switch s.Mechanism {
	case saslMSKIAM:
	case "", saslNone:
		if s.User != "" || s.Password.IsSet() || s.TokenFile != "" || s.inUse() {
			return &keyError{"sasl.mechanism", errors.New("credentials are given, but sasl.mechanism is none: name the listener's mechanism")}
		}
	case saslPlain, saslSCRAM256, saslSCRAM512:
		if s.User == "" {
			return &keyError{"sasl.user", fmt.Errorf("sasl.user is missing: %s needs it", s.Mechanism)}
		}
		if !s.Password.IsSet() {
			return &keyError{"sasl.password", fmt.Errorf("sasl.password is missing: %s needs it", s.Mechanism)}
		}
		if s.inUse() {
			return &keyError{"sasl.mechanism", fmt.Errorf("sasl.mechanism is %s, and the keys of a token endpoint or extensions are for oauthbearer: remove them, or name oauthbearer", s.Mechanism)}
		}
	case saslOAuthBearer:
		return s.validateOAuth()
	default:
		return &keyError{"sasl.mechanism", fmt.Errorf("sasl.mechanism %q is not known: use none, plain, scram-sha-256, scram-sha-512, oauthbearer or aws_msk_iam", s.Mechanism)}
	}
	return nil
}
