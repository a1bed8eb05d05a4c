package client

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/rawproduce"

	"workos-relay/sink/kafka/mskiam"
	"workos-relay/sink/kafka/oauth"
)

// Verdict is what follows from a broker's answer for one record batch.
type Verdict int

// The verdicts.
const (
	Stored    Verdict = iota
	Again             // the same batch to the same leader, after a while
	Elsewhere         // the same batch, once the leaders are known afresh
	Unordered         // the partition does not accept the sequence number, the session or the transaction
	TooLarge          // the batch is over the limit
	Invalid           // a record in it is refused as it is
	Denied            // no permission
	Hopeless          // the broker or the topic refuses every batch like this one
)

// transactionAbortable is TRANSACTION_ABORTABLE (KIP-890), which kafka-go does not know.
const transactionAbortable kafkago.Error = 120

// SuspiciousRequest is the size from which a request may be too large for something between the
// client and the broker. Limits of requests that are known from practice are far above it.
const SuspiciousRequest = 16 << 10

// Outcome is a verdict, and whether the batch may be stored although it was not acknowledged.
type Outcome struct {
	Verdict
	Doubt bool
}

// Judge interprets an error code of a produce response
// (https://kafka.apache.org/protocol#protocol_error_codes). A broker that loses the leadership
// while it waits for its followers answers NOT_LEADER, so even that leaves a doubt. Codes unknown
// here are tried again: idempotence makes that safe.
func Judge(code kafkago.Error) Outcome {
	switch code {
	case 0, kafkago.DuplicateSequenceNumber:
		return Outcome{Verdict: Stored}
	case kafkago.NotLeaderForPartition, kafkago.KafkaStorageError, kafkago.FencedLeaderEpoch, kafkago.UnknownLeaderEpoch:
		return Outcome{Elsewhere, true}
	case kafkago.UnknownTopicOrPartition, kafkago.LeaderNotAvailable, kafkago.ReplicaNotAvailable, kafkago.BrokerNotAvailable,
		kafkago.ListenerNotFound, kafkago.UnknownTopicID:
		return Outcome{Elsewhere, false}
	case kafkago.NotEnoughReplicas, kafkago.ThrottlingQuotaExceeded, kafkago.InvalidMessage,
		kafkago.GroupLoadInProgress, kafkago.GroupCoordinatorNotAvailable, kafkago.NotCoordinatorForGroup, kafkago.ConcurrentTransactions:
		return Outcome{Again, false}
	case kafkago.OutOfOrderSequenceNumber, kafkago.UnknownProducerId, kafkago.InvalidProducerEpoch,
		kafkago.InvalidProducerIDMapping, kafkago.ProducerFenced, kafkago.InvalidTransactionState, transactionAbortable:
		return Outcome{Unordered, false}
	case kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge:
		return Outcome{TooLarge, false}
	case kafkago.InvalidRecord:
		return Outcome{Invalid, false}
	case kafkago.TopicAuthorizationFailed, kafkago.ClusterAuthorizationFailed, kafkago.TransactionalIDAuthorizationFailed:
		return Outcome{Denied, false}
	case kafkago.InvalidTopic, kafkago.InvalidRequiredAcks, kafkago.UnsupportedForMessageFormat, kafkago.UnsupportedCompressionType,
		kafkago.InvalidTimestamp, kafkago.PolicyViolation, kafkago.UnsupportedVersion, kafkago.SecurityDisabled:
		return Outcome{Hopeless, false}
	default: // REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND, NETWORK_EXCEPTION, UNKNOWN_SERVER_ERROR and those to come
		return Outcome{Again, true}
	}
}

// IsUnsent reports whether err arose before a byte of the request could leave: no route to the
// leader, no connection, or one whose session was over.
func IsUnsent(err error) bool {
	var (
		route *rawproduce.Error
		login *LoginError
	)
	if errors.As(err, &route) || errors.As(err, &login) || errors.Is(err, kafkago.BrokerNotAvailable) {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// IsSilence reports whether err means that no answer came, although the request may have arrived. A
// connection that is not made in time is not silence.
func IsSilence(err error) bool {
	return !IsUnsent(err) && (IsHangUp(err) || errors.Is(err, context.DeadlineExceeded))
}

// IsHangUp reports whether err means that the connection was closed in place of an answer.
func IsHangUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// NeedsOperator reports whether the brokers have refused the connection for a reason that only a
// change of configuration removes.
func NeedsOperator(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		header       tls.RecordHeaderError
	)
	return IsCredentials(err) || errors.As(err, &verification) || errors.As(err, &header)
}

// IsCredentials reports whether err says that the credentials are of no use as they are: the broker
// refuses them, or a token endpoint gives no token for them.
func IsCredentials(err error) bool {
	var (
		token *oauth.Error
		login *mskiam.Error
	)
	return errors.Is(err, kafkago.SASLAuthenticationFailed) || errors.Is(err, kafkago.UnsupportedSASLMechanism) ||
		errors.Is(err, ErrTokenRefused) || errors.As(err, &token) && token.Permanent() || errors.As(err, &login) && login.Permanent()
}

// IsDenied reports whether the brokers refuse a request because a permission is missing.
func IsDenied(err error) bool {
	return errors.Is(err, kafkago.TopicAuthorizationFailed) || errors.Is(err, kafkago.ClusterAuthorizationFailed) ||
		errors.Is(err, kafkago.TransactionalIDAuthorizationFailed)
}

// IsFenced reports whether the transaction is not this session's any more: a later session of the
// transactional id has shut it out, or the coordinator has aborted what took too long. A partition
// that has seen the abort, and of the new session nothing else, answers
// INVALID_TXN_STATE.
func IsFenced(err error) bool {
	return errors.Is(err, kafkago.InvalidProducerEpoch) || errors.Is(err, kafkago.ProducerFenced) || errors.Is(err, kafkago.InvalidTransactionState)
}

// IsUnsupported reports whether the brokers cannot carry out a request, however often it is sent.
func IsUnsupported(err error) bool {
	return errors.Is(err, kafkago.UnsupportedVersion) || errors.Is(err, kafkago.UnsupportedForMessageFormat)
}

// IsPassing reports whether err is a broker's answer that passes by itself.
func IsPassing(err error) bool {
	var code kafkago.Error
	if !errors.As(err, &code) {
		return false
	}
	v := Judge(code).Verdict
	return v == Again || v == Elsewhere
}
