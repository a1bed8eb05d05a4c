package kafka

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
	"workos-relay/sink"
)

// certificates makes its own authority and a server certificate for 127.0.0.1, and returns
// the server's side and the authority's file.
func certificates(t *testing.T) (*tls.Config, string) {
	t.Helper()
	make := func(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
		require.NoError(t, err)
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(cryptorand.Reader, template, parent, &key.PublicKey, parentKey)
		require.NoError(t, err)
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return cert, key
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca, caKey := make(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	cert, key := make(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "broker"}, NotBefore: from, NotAfter: to,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, caKey)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600))
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}, file
}

// TestConnectionFaults checks that a connection which cannot work says what is most likely wrong,
// and that what no waiting mends is told apart from what it may.
func TestConnectionFaults(t *testing.T) {
	t.Parallel()
	serverTLS, authority := certificates(t)
	_, otherAuthority := certificates(t)
	saslUser := []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right"), kfake.Superuser("SCRAM-SHA-256", "relay", "right")}
	credentials := func(mechanism, password string) SASL {
		return SASL{Mechanism: mechanism, User: "relay", Password: secret.String(password)}
	}
	for _, c := range []struct {
		name   string
		broker []kfake.Opt
		change func(*Config)
		says   string // "" where the connection works
		fatal  bool
		waits  bool // for a file that relay follows
	}{
		{name: "plain", change: func(*Config) {}},
		{name: "tls", broker: []kfake.Opt{kfake.TLS(serverTLS)}, change: func(c *Config) { c.TLS.CAFile = authority }},
		{name: "sasl plain", broker: saslUser, change: func(c *Config) { c.SASL = credentials(saslPlain, "right") }},
		{name: "sasl scram", broker: saslUser, change: func(c *Config) { c.SASL = credentials(saslSCRAM256, "right") }},
		{name: "sasl over tls", broker: append(saslUser, kfake.TLS(serverTLS)), change: func(c *Config) {
			c.SASL, c.TLS.CAFile = credentials(saslPlain, "right"), authority
		}},

		{name: "wrong password, plain", broker: saslUser, change: func(c *Config) { c.SASL = credentials(saslPlain, "wrong") }, says: "sasl.user or sasl.password is wrong"},
		{name: "wrong password, scram", broker: saslUser, change: func(c *Config) { c.SASL = credentials(saslSCRAM256, "wrong") }, says: "sasl.user or sasl.password is wrong"},
		{name: "wrong mechanism", broker: saslUser, change: func(c *Config) { c.SASL = credentials(saslSCRAM512, "right") }, says: "sasl"},
		{name: "sasl missing", broker: saslUser, change: func(*Config) {}, says: "expects TLS or SASL"},
		{name: "plain client, tls port", broker: []kfake.Opt{kfake.TLS(serverTLS)}, change: func(*Config) {}, says: "expects TLS or SASL"},
		{name: "tls client, plain port", change: func(c *Config) {
			c.TLS.CAFile = authority
			c.RequestTimeout = time.Second // there is no answer at all
		}, says: "TLS is on"},
		{name: "unknown authority", broker: []kfake.Opt{kfake.TLS(serverTLS)}, change: func(c *Config) { c.TLS.CAFile = otherAuthority }, says: "set tls.ca_file", waits: true},
		{name: "unknown authority, system's", broker: []kfake.Opt{kfake.TLS(serverTLS)}, change: func(c *Config) { c.TLS.Enabled = true }, says: "set tls.ca_file", fatal: true},
		{name: "wrong password, in a file", broker: saslUser, change: func(c *Config) {
			file := filepath.Join(t.TempDir(), "password")
			require.NoError(t, os.WriteFile(file, []byte("wrong"), 0o600))
			password, err := livefile.Secret(nil, livefile.File{Key: "sasl.password_file", Path: file}, nil)
			require.NoError(t, err)
			c.SASL, c.Password = credentials(saslPlain, "wrong"), livefile.FromFile(password)
		}, says: "sasl.user or sasl.password is wrong", waits: true},
		{name: "wrong name", broker: []kfake.Opt{kfake.TLS(serverTLS)}, change: func(c *Config) {
			c.TLS = tlsconf.TLS{CAFile: authority, ServerName: "kafka.example.com"}
		}, says: "set tls.server_name", fatal: true},
		{name: "client certificate wanted", broker: []kfake.Opt{kfake.TLS(&tls.Config{Certificates: serverTLS.Certificates, ClientAuth: tls.RequireAnyClientCert})},
			change: func(c *Config) { c.TLS.CAFile = authority }, says: "client certificate"},
		{name: "nobody listens", change: func(c *Config) { c.Brokers = []string{"127.0.0.1:1"} }, says: "does not accept connections"},
		{name: "no such name", change: func(c *Config) { c.Brokers = []string{"kafka.invalid:9092"} }, says: "does not resolve"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, fake(t, append(c.broker, kfake.NumBrokers(1))...).ListenAddrs())
			warnings, warned := observer.New(zapcore.WarnLevel)
			cfg.Logger = zap.New(warnings)
			c.change(&cfg)
			s := open(t, cfg)
			err := s.Prepare(within(t, patient), []string{"a"})
			_, inspectErr := s.Inspect(within(t, patient), []string{"a"})
			if c.says == "" {
				require.NoError(t, err)
				require.NoError(t, inspectErr)
				require.NoError(t, s.Publish(within(t, patient), messages(0, 10, "a")))
				return
			}
			t.Log(err)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, inspectErr, c.says)
			require.NotContains(t, err.Error(), "right")
			require.NotContains(t, err.Error(), "wrong\"")
			var fatal *sink.FatalError
			switch {
			case c.fatal:
				require.ErrorAs(t, err, &fatal)
			case c.waits:
				require.NotErrorAs(t, err, &fatal)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			published := make(chan error, 1)
			go func() { published <- s.Publish(ctx, messages(0, 10, "a")) }()
			require.Eventually(t, func() bool { return warned.Len() > 0 }, patient, 10*time.Millisecond)
			cancel()
			err = <-published
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorContains(t, err, c.says, "what stopped it is in the error of Publish, too")
		})
	}
}

func topicACL(topic string, op kmsg.ACLOperation) kfake.ACL {
	return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: topic, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
}

// TestMissingPermissions gives a user some permissions and not others.
func TestMissingPermissions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		acls []kfake.ACL
		says []string // in one error of Prepare; none if it works
	}{
		{"all", []kfake.ACL{topicACL("a", kmsg.ACLOperationAll), topicACL("b", kmsg.ACLOperationAll)}, nil},
		{"write only", []kfake.ACL{topicACL("a", kmsg.ACLOperationWrite), topicACL("b", kmsg.ACLOperationWrite)}, nil},
		{"none", nil, []string{"a, b: ", "kafka-acls", "User:relay", "--operation Write"}},
		{"no write", []kfake.ACL{topicACL("a", kmsg.ACLOperationAll), topicACL("b", kmsg.ACLOperationDescribe)},
			[]string{"b: ", "may not write", "kafka-acls", "--operation Write --operation Describe --topic b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.SeedTopics(3, "a", "b"), kfake.EnableSASL(), kfake.EnableACLs(),
				kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "relay", "secret", c.acls...))
			cfg := config(t, cluster.ListenAddrs())
			cfg.SASL = SASL{Mechanism: saslPlain, User: "relay", Password: "secret"}
			s := open(t, cfg)
			err := s.Prepare(within(t, patient), []string{"a", "b"})
			if len(c.says) == 0 {
				require.NoError(t, err)
				require.NoError(t, s.Publish(within(t, patient), messages(0, 10, "a", "b")))
				return
			}
			t.Log(err)
			var fatal *sink.FatalError
			require.ErrorAs(t, err, &fatal)
			for _, says := range c.says {
				require.ErrorContains(t, err, says)
			}
		})
	}
}

func TestMayNotCreate(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"),
		kfake.User("PLAIN", "relay", "secret", topicACL("a", kmsg.ACLOperationDescribe), topicACL("a", kmsg.ACLOperationWrite)))
	cfg := config(t, cluster.ListenAddrs())
	cfg.SASL = SASL{Mechanism: saslPlain, User: "relay", Password: "secret"}
	err := open(t, cfg).Prepare(within(t, patient), []string{"a"})
	t.Log(err)
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "may not create it")
	require.ErrorContains(t, err, "--operation Create")
}

// TestPermissionRevoked takes a permission away while messages flow: Publish ends once the refusal
// has lasted, and says what was stored before.
func TestPermissionRevoked(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a", "b")
	s.publisher.grace = 300 * time.Millisecond
	batch := append(messages(0, 10, "a"), messages(10, 30, "a", "b")...)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "b", Err: kerr.TopicAuthorizationFailed, Count: -1})
	err := s.Publish(within(t, patient), batch)
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "--operation Write --operation Describe --topic b")
	require.Equal(t, 11, sink.Durable(err, len(batch)), "up to the first message of topic b")
}

func TestProducerIDRefused(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a")
	s.publisher.grace = 300 * time.Millisecond
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.ClusterAuthorizationFailed, Count: -1})
	err := s.Publish(within(t, patient), messages(0, 10, "a"))
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "--operation IdempotentWrite --cluster")
	require.Zero(t, sink.Durable(err, 10))
}

// TestRealLeastPrivilege checks on a real broker that Write and Describe on a topic are all that
// publishing needs.
func TestRealLeastPrivilege(t *testing.T) {
	plain := realBrokers(t)
	topic := unique(t, "granted")[0]
	require.NoError(t, open(t, config(t, plain)).Prepare(within(t, patient), []string{topic}))
	admin := kadm.NewClient(reader(t, plain))
	grant := kadm.NewACLs().Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite, kadm.OpDescribe).Allow("User:relay").AllowHosts("*")
	_, err := admin.CreateACLs(within(t, patient), grant)
	require.NoError(t, err)
	host, port, err := net.SplitHostPort(plain[0])
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	cfg := config(t, []string{net.JoinHostPort(host, strconv.Itoa(number+20))})
	cfg.SASL = SASL{Mechanism: saslSCRAM256, User: "relay", Password: "relay-secret"}
	s := open(t, cfg)
	require.Eventually(t, func() bool { return s.Prepare(within(t, patient), []string{topic}) == nil }, patient, 100*time.Millisecond)
	batch := messages(0, 100, topic)
	require.NoError(t, s.Publish(within(t, patient), batch))
	requireStored(t, plain, batch, topic)
	holds, err := s.Holds(within(t, patient), []string{topic})
	require.NoError(t, err)
	require.True(t, holds)
	status, err := s.Inspect(within(t, patient), []string{topic})
	require.NoError(t, err)
	require.True(t, status[0].Exists)
	require.Contains(t, status[0].Detail, "relay may write")
	advice, err := s.Advice(within(t, patient), []string{topic})
	require.NoError(t, err)
	require.Contains(t, advice.Warnings[0], "--operation DescribeConfigs")
	large := messages(100, 3, topic)
	large[1].Body = make([]byte, 2<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large[1].Body)
	err = s.Publish(within(t, patient), large)
	var rejected *sink.RejectedError
	require.ErrorAs(t, err, &rejected, "the limit cannot be read, and the broker judges")
	require.Equal(t, 1, sink.Durable(err, len(large)))
}

// TestRealSecurity meets the listeners of a real broker.
func TestRealSecurity(t *testing.T) {
	t.Parallel()
	plain := realBrokers(t)[0]
	dir := os.Getenv("RELAY_TEST_KAFKA_DIR")
	if dir == "" {
		t.Skip("needs the directory of a real Kafka: set RELAY_TEST_KAFKA_DIR to the --dir of .ci/kafka/start")
	}
	host, port, err := net.SplitHostPort(plain)
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	saslAddr, tlsAddr := net.JoinHostPort(host, strconv.Itoa(number+20)), net.JoinHostPort(host, strconv.Itoa(number+30))
	authority := filepath.Join(dir, "ca.pem")
	as := func(mechanism, user, password string) func(*Config) {
		return func(c *Config) {
			c.Brokers = []string{saslAddr}
			c.SASL = SASL{Mechanism: mechanism, User: user, Password: secret.String(password)}
		}
	}
	existing := unique(t, "existing")[0]
	require.NoError(t, open(t, config(t, []string{plain})).Prepare(within(t, patient), []string{existing}))
	for _, c := range []struct {
		name   string
		change func(*Config)
		topic  string
		says   string
		fatal  bool
	}{
		{"sasl plain", as(saslPlain, "admin", "admin-secret"), "", "", false},
		{"scram 256", as(saslSCRAM256, "admin", "admin-secret"), "", "", false},
		{"scram 512", as(saslSCRAM512, "admin", "admin-secret"), "", "", false},
		{"tls", func(c *Config) { c.Brokers, c.TLS.CAFile = []string{tlsAddr}, authority }, "", "", false},
		{"wrong password, plain", as(saslPlain, "admin", "wrong"), "", "sasl.user or sasl.password is wrong", true},
		{"wrong password, scram", as(saslSCRAM512, "admin", "wrong"), "", "sasl.user or sasl.password is wrong", true},
		{"unknown user", as(saslSCRAM256, "nobody", "wrong"), "", "sasl.user or sasl.password is wrong", true},
		{"mechanism not offered", func(c *Config) {
			file := filepath.Join(t.TempDir(), "token")
			require.NoError(t, os.WriteFile(file, []byte("token"), 0o600))
			c.Brokers, c.SASL = []string{saslAddr}, SASL{Mechanism: saslOAuthBearer, TokenFile: file}
		}, "", "does not offer sasl.mechanism oauthbearer", true},
		{"sasl client, plain port", func(c *Config) {
			as(saslPlain, "admin", "admin-secret")(c)
			c.Brokers = []string{plain}
		}, "", "check sasl.mechanism and the port", false},
		{"plain client, sasl port", func(c *Config) { c.Brokers = []string{saslAddr} }, "", "expects TLS or SASL", false},
		{"plain client, tls port", func(c *Config) { c.Brokers = []string{tlsAddr} }, "", "the listener expects TLS; ", false},
		{"tls client, plain port", func(c *Config) { c.TLS.CAFile = authority }, "", "not a TLS listener", false},
		{"unknown authority", func(c *Config) { c.Brokers, c.TLS.Enabled = []string{tlsAddr}, true }, "", "set tls.ca_file", true},
		{"no permission, topic is there", as(saslPlain, "relay", "relay-secret"), existing, "--operation Write", true},
		{"no permission, topic is not there", as(saslPlain, "relay", "relay-secret"), "", "kafka-acls", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(t, []string{plain})
			c.change(&cfg)
			s := open(t, cfg)
			topic := c.topic
			if topic == "" {
				topic = unique(t, "new")[0]
			}
			err := s.Prepare(within(t, patient), []string{topic})
			if c.says == "" {
				require.NoError(t, err)
				batch := messages(0, 50, topic)
				require.NoError(t, s.Publish(within(t, patient), batch))
				requireStored(t, []string{plain}, batch, topic)
				return
			}
			t.Log(err)
			require.ErrorContains(t, err, c.says)
			var fatal *sink.FatalError
			require.Equal(t, c.fatal, errors.As(err, &fatal), "fatal")
		})
	}
}
