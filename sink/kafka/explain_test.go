package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/operator"
)

// TestExplainedOnce: an error that several hands pass on says once what it most likely means, and
// still is what it was.
func TestExplainedOnce(t *testing.T) {
	t.Parallel()
	s := open(t, config(t, []string{"127.0.0.1:1"}))
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	once := s.explain(fmt.Errorf("asking for the offsets of kafka topics: %w", refused))
	for _, again := range []error{once, s.explain(once), s.explainTopic(fmt.Errorf("reading the position: %w", once), "a")} {
		require.Equal(t, 1, strings.Count(again.Error(), "does not accept connections"), "%v", again)
		require.ErrorIs(t, again, syscall.ECONNREFUSED)
	}
}

// TestRefusedCredentialsAreAdvised: the lane goes on trying, and the operator is told what to do.
func TestRefusedCredentialsAreAdvised(t *testing.T) {
	s := open(t, config(t, []string{"127.0.0.1:1"}))
	for _, c := range []struct {
		err    error
		advice string
	}{
		{kafkago.SASLAuthenticationFailed, "correct sasl of this sink, or the user on the Kafka cluster"},
		{kafkago.UnsupportedSASLMechanism, "correct sasl of this sink, or the user on the Kafka cluster"},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, "correct tls of this sink, or the certificates of the brokers"},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, ""},
		{kafkago.LeaderNotAvailable, ""},
	} {
		err := fmt.Errorf("publishing: %w", s.explain(fmt.Errorf("asking: %w", c.err)))
		require.Equal(t, c.advice, operator.Advice(err), "%v", err)
		require.False(t, operator.Required(err), "%v", err)
	}
}
