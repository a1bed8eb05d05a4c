package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/rawproduce"

	"workos-relay/internal/printable"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
	"workos-relay/sink/kafka/mskiam"
	"workos-relay/sink/kafka/oauth"
)

// explainer says what errors of a cluster mean, as far as the configuration tells, and what an
// operator should do. It never changes.
type explainer struct {
	cfg     Config
	cluster *client.Cluster
}

// explain puts what err most likely means before it. A broker that does not like a client usually
// just hangs up, so the likely reason follows from the configuration. An error that says so
// already, on its own or inside, is left as it is.
func (e *explainer) explain(err error) error { return explained(e.hint(err), err) }

// prepareError says what an error of prepare means, and whether it will pass.
func (e *explainer) prepareError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var fatal *sink.FatalError
	switch {
	case errors.As(err, &fatal):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("preparing kafka topics: %w", e.interrupted(ctx, err))
	case client.NeedsOperator(err) && !e.cfg.mendedByFile(err):
		return &sink.FatalError{Err: e.explain(err)}
	}
	return e.explain(err)
}

// interrupted returns err with why ctx has ended. What the brokers refuse is explained, although
// relay would have asked them again.
func (e *explainer) interrupted(ctx context.Context, err error) error {
	if client.NeedsOperator(err) {
		return fmt.Errorf("%w (%w)", e.explain(err), context.Cause(ctx))
	}
	return errors.Join(context.Cause(ctx), err)
}

func explained(hint string, err error) error {
	var already *explanation
	if hint == "" || errors.As(err, &already) {
		return err
	}
	return &explanation{hint, err}
}

// explanation is an error behind what it most likely means.
type explanation struct {
	hint string
	err  error
}

func (e *explanation) Error() string {
	return e.hint + ": " + printable.Clip(e.err.Error(), 2*printable.Limit)
}

func (e *explanation) Unwrap() error { return e.err }

// OperatorAdvice says what an operator should do if the brokers refuse the connection for what it
// proves.
func (e *explanation) OperatorAdvice() string {
	switch {
	case !client.NeedsOperator(e.err):
		return ""
	case client.IsCredentials(e.err):
		return "correct sasl of this sink, or the user on the Kafka cluster"
	default:
		return "correct tls of this sink, or the certificates of the brokers"
	}
}

func (e *explainer) hint(err error) string {
	if hint := e.tlsHint(err); hint != "" {
		return hint
	}
	if hint := e.saslHint(err); hint != "" {
		return hint
	}
	var (
		op        *net.OpError
		route     *rawproduce.Error
		throttled *client.ThrottledError
		bad       *client.BadAnswerError
	)
	switch {
	case errors.As(err, &throttled), client.IsNoRequest(err):
		return "" // it says what it means
	case errors.As(err, &route):
		return "the leader of a partition has just changed or is not known yet"
	case errors.As(err, &op) && op.Op == "dial":
		return e.dialHint(op)
	case errors.Is(err, kafkago.ClusterAuthorizationFailed):
		return "the brokers do not let relay do this; grant it by " + e.clusterACL("IdempotentWrite")
	case errors.Is(err, client.ErrExpectsTLS):
		return "the listener expects TLS; enable tls, or use the port of a plain listener"
	case errors.As(err, &bad) && bad.Address != "":
		return fmt.Sprintf("kafka broker %s sends what relay cannot read; check that a listener of Kafka has this address, and what lies between it and relay", bad.Address)
	case errors.As(err, &bad):
		return "a kafka broker sends what relay cannot read; check that listeners of Kafka have the addresses in brokers, and what lies between them and relay"
	case client.IsHangUp(err):
		return e.hangUpHint(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		if e.cluster.HasAnswered("") {
			return fmt.Sprintf("no answer from the brokers within request_timeout %s, although they have answered before: they are overloaded or not reachable now, or the link is slow; if they usually take that long, raise request_timeout", e.cfg.RequestTimeout)
		}
		return fmt.Sprintf("no answer from the brokers within request_timeout %s: they are overloaded or not reachable, or the listener expects something else (TLS is %s, SASL is %s here)",
			e.cfg.RequestTimeout, onOff(e.cfg.TLS.InUse()), e.mechanismName())
	}
	return ""
}

func (e *explainer) tlsHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		expired   x509.CertificateInvalidError
		header    tls.RecordHeaderError
		op        *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return "the broker's certificate is signed by an authority that relay does not trust; set tls.ca_file to the cluster's authority, or add the authority to that file: relay uses it by itself"
	case errors.As(err, &host):
		return "the broker's certificate is for another name; use that name in brokers and the cluster's advertised.listeners, or set tls.server_name"
	case errors.As(err, &expired):
		return "the broker's certificate is not valid now or not for a server; renew it"
	case errors.As(err, &header):
		return "the broker does not speak TLS on this port; use the port of its TLS listener, or remove tls"
	case errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Err.Error(), "expired certificate"):
		return "the broker says that the client certificate of tls.cert_file has expired or is not valid yet; renew it: relay uses the new file by itself"
	case errors.As(err, &op) && op.Op == "remote error":
		return "the broker refused the TLS handshake; most likely it asks for a client certificate that it trusts (tls.cert_file, tls.key_file)"
	}
	return ""
}

func (e *explainer) saslHint(err error) string {
	var (
		token *oauth.Error
		login *client.LoginError
		cloud *mskiam.Error
	)
	bearer, isBearer := e.cluster.SASL.(*client.Bearer)
	switch {
	case errors.Is(err, client.ErrTokenRefused):
		return "cannot log in to kafka"
	case errors.As(err, &token):
		return "cannot log in to kafka without a token"
	case errors.As(err, &cloud):
		return "cannot log in to kafka without AWS credentials"
	case errors.Is(err, kafkago.SASLAuthenticationFailed) && e.mechanismName() == saslMSKIAM:
		return iamRefusal(err)
	case errors.As(err, &login):
		return "the broker did not renew the session of a connection, so relay connects again"
	case errors.Is(err, kafkago.SASLAuthenticationFailed) && isBearer:
		return fmt.Sprintf("the broker refused the bearer token of %s: %s; check sasl.extensions if the service asks for them", bearer.From, bearer.DescribeLast())
	case errors.Is(err, kafkago.SASLAuthenticationFailed):
		return fmt.Sprintf("the broker refused the credentials; most likely sasl.user or sasl.password is wrong, or the user has none for %s", e.mechanismName())
	case errors.Is(err, kafkago.UnsupportedSASLMechanism):
		return fmt.Sprintf("the listener does not offer sasl.mechanism %s; name one that it does", e.mechanismName())
	case errors.Is(err, kafkago.IllegalSASLState):
		return "the listener does not expect SASL as configured; check sasl.mechanism and the port"
	}
	return ""
}

func (e *explainer) dialHint(op *net.OpError) string {
	addr := "a broker"
	if op.Addr != nil {
		addr = op.Addr.String()
	}
	var dns *net.DNSError
	reason := "cannot be reached"
	switch {
	case errors.As(op, &dns):
		addr, reason = printable.Text(dns.Name), "is a name that does not resolve"
	case errors.Is(op, syscall.ECONNREFUSED):
		reason = "does not accept connections: it is down, or the port is wrong"
	}
	hint := fmt.Sprintf("kafka broker %s %s", addr, reason)
	if !slices.Contains(e.cfg.Brokers, addr) {
		hint += "; if it is not one of brokers, the cluster gave it as advertised.listeners, which must be reachable from here"
	}
	return hint
}

// hangUpHint says why a broker may have closed the connection. TLS and SASL cannot be the reason if
// it has answered a request before.
func (e *explainer) hangUpHint(err error) string {
	credentials := "sasl.user or sasl.password is wrong" //nolint:gosec // none itself
	if e.mechanismName() == saslOAuthBearer {
		credentials = "the bearer token is not one that it accepts"
	} else if e.mechanismName() == saslMSKIAM {
		credentials = "the IAM credentials may not connect to this cluster" //nolint:gosec // none itself
	}
	if b, ok := e.cluster.SASL.(*client.Bearer); ok && b.LastExpired() { // brokers accept it for some seconds more, and hang up on the first request
		return fmt.Sprintf("the broker closed the connection; most likely because of the bearer token of %s: %s", b.From, b.DescribeLast())
	}
	var hungUp *client.HungUpError
	if known := errors.As(err, &hungUp); known && hungUp.Answered || !known && e.cluster.HasAnswered("") {
		if known && hungUp.Request >= client.SuspiciousRequest {
			return fmt.Sprintf("the connection was closed on a request of %d bytes; if this goes on, the broker or a proxy before it limits the size of a request "+
				"(socket.request.max.bytes of an Apache Kafka; 1046528 bytes on Azure Event Hubs)", hungUp.Request)
		}
		return "the broker closed the connection, although it has answered before: it restarts, or it does not take this request"
	}
	switch {
	case e.mechanismName() != saslNone && !e.cfg.TLS.InUse():
		return "the broker closed the connection; most likely " + credentials + ", or the listener expects TLS, or another sasl.mechanism"
	case e.mechanismName() != saslNone:
		return "the broker closed the connection; most likely " + credentials + ", or the listener expects another sasl.mechanism"
	case e.cfg.TLS.InUse():
		return "the broker closed the connection; most likely the port is not a TLS listener, or it expects a client certificate or SASL"
	}
	return "the broker closed the connection; if this goes on, the listener most likely expects TLS or SASL, which are not configured"
}

// mendedByFile reports whether a file that relay follows, or the next token, may end what
// client.NeedsOperator reports: an operator may renew a secret or an authority after the brokers
// have changed.
func (c Config) mendedByFile(err error) bool {
	var (
		authority x509.UnknownAuthorityError
		token     *oauth.Error
		cloud     *mskiam.Error
	)
	switch {
	case errors.Is(err, kafkago.SASLAuthenticationFailed), errors.Is(err, client.ErrTokenRefused):
		return c.Password.Follows() || c.SASL.Mechanism == saslOAuthBearer || c.SASL.Mechanism == saslMSKIAM // the next token may do
	case errors.As(err, &token):
		return c.clientFollowsFile()
	case errors.As(err, &cloud):
		return true // policies and credentials of AWS change without relay
	case errors.As(err, &authority):
		return c.TLS.CAFile != ""
	}
	return false
}

// explainTopic is explain for an answer about one topic.
func (e *explainer) explainTopic(err error, topic string) error {
	var hint string
	switch {
	case errors.Is(err, kafkago.UnknownTopicOrPartition):
		hint = fmt.Sprintf("kafka topic %s does not exist, or relay may not see it; create it, or grant relay access by %s", topic, e.topicACL(topic, "Write", "Describe"))
	case errors.Is(err, kafkago.TopicAuthorizationFailed):
		hint = fmt.Sprintf("relay may not write to kafka topic %s; grant it by %s", topic, e.topicACL(topic, "Write", "Describe"))
	case errors.Is(err, kafkago.NotEnoughReplicas), errors.Is(err, kafkago.NotEnoughReplicasAfterAppend):
		hint = fmt.Sprintf("kafka topic %s has fewer replicas in sync than its min.insync.replicas asks for: brokers are down or behind", topic)
	case errors.Is(err, kafkago.RequestTimedOut):
		hint = fmt.Sprintf("the replicas of kafka topic %s did not all confirm in time: brokers are slow or behind", topic)
	case errors.Is(err, kafkago.InvalidTopic):
		hint = fmt.Sprintf("the cluster refuses the topic name %s; another topic may differ from it only by '.' and '_'", topic)
	case errors.Is(err, kafkago.InvalidTimestamp):
		hint = e.timestampHint(topic)
	case errors.Is(err, kafkago.PolicyViolation):
		hint = fmt.Sprintf("a policy of the cluster forbids this for kafka topic %s", topic)
	case errors.Is(err, kafkago.UnsupportedForMessageFormat):
		hint = fmt.Sprintf("the cluster does not take record batches of this kind for kafka topic %s: its message format is older than Kafka 0.11", topic)
	default:
		hint = e.hint(err)
	}
	return explained(hint, err)
}

// iamRefusal says why a cluster refuses a login by IAM, as far as its own words tell.
func iamRefusal(err error) string {
	said := strings.ToLower(err.Error())
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(said, w) })
	}
	switch {
	case has("signature expired", "not yet current", "signature not yet", "request has expired", "clock"):
		return "the cluster refused the IAM credentials because of the time at which they are signed; correct the clock of this machine, which may be off by 5 minutes"
	case has("valid region", "correct region"):
		return "the cluster refused the IAM credentials because they are signed for another region; correct sasl.region"
	case has("token") && has("expired"):
		return "the cluster refused the IAM credentials because they have expired; renew AWS_SESSION_TOKEN or what the shared file holds"
	}
	return "the cluster refused the IAM credentials; allow them kafka-cluster:Connect on it, check sasl.region and sasl.role_arn, and the clock of this machine, which may be off by 5 minutes"
}

func (e *explainer) mechanismName() string {
	if e.cfg.SASL.Mechanism == "" {
		return saslNone
	}
	return e.cfg.SASL.Mechanism
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// principal says as whom the brokers see relay, for the commands that grant a permission.
func (e *explainer) principal() string {
	switch {
	case e.cfg.SASL.User != "":
		return "User:" + e.cfg.SASL.User
	case e.cfg.SASL.Mechanism == saslOAuthBearer:
		return "User:<subject of the token>"
	case e.cfg.TLS.CertFile != "":
		return "User:<distinguished name in " + e.cfg.TLS.CertFile + ">"
	}
	return "User:ANONYMOUS"
}

// topicACL is the command of Kafka's own tools that grants operations on a topic; clusterACL the
// one for the cluster.
func (e *explainer) topicACL(topic string, operations ...string) string {
	return e.acl(operations) + " --topic " + topic
}

func (e *explainer) clusterACL(operations ...string) string { return e.acl(operations) + " --cluster" }

func (e *explainer) acl(operations []string) string {
	command := fmt.Sprintf("kafka-acls --bootstrap-server %s --add --allow-principal '%s'", e.cfg.Brokers[0], e.principal())
	for _, op := range operations {
		command += " --operation " + op
	}
	return command
}

// transactionalACL is the command of Kafka's own tools that lets relay make transactions under a
// transactional id.
func (e *explainer) transactionalACL(id string) string {
	return e.acl([]string{"Write", "Describe"}) + " --transactional-id " + id
}
