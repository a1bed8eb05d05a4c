package kafka

import (
	"errors"
	"net"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

// verdict is what follows from a broker's answer for one record batch.
type verdict int

const (
	stored    verdict = iota
	again             // the same batch to the same leader, after a while
	elsewhere         // the same batch, once the leaders are known afresh
	unordered         // the partition does not accept the sequence number, the session or the transaction
	tooLarge          // the batch is over the limit
	invalid           // a record in it is refused as it is
	denied            // no permission
	hopeless          // the broker or the topic refuses every batch like this one
)

// transactionAbortable is TRANSACTION_ABORTABLE (KIP-890), which kafka-go does not know.
const transactionAbortable kafkago.Error = 120

// outcome is a verdict, and whether the batch may be stored although it was not acknowledged.
type outcome struct {
	verdict
	doubt bool
}

// judge interprets an error code of a produce response
// (https://kafka.apache.org/protocol#protocol_error_codes). A broker that loses the leadership
// while it waits for its followers answers NOT_LEADER, so even that leaves a doubt. Codes unknown
// here are tried again: idempotence makes that safe.
func judge(code kafkago.Error) outcome {
	switch code {
	case 0, kafkago.DuplicateSequenceNumber:
		return outcome{verdict: stored}
	case kafkago.NotLeaderForPartition, kafkago.KafkaStorageError, kafkago.FencedLeaderEpoch, kafkago.UnknownLeaderEpoch:
		return outcome{elsewhere, true}
	case kafkago.UnknownTopicOrPartition, kafkago.LeaderNotAvailable, kafkago.ReplicaNotAvailable, kafkago.BrokerNotAvailable,
		kafkago.ListenerNotFound, kafkago.UnknownTopicID:
		return outcome{elsewhere, false}
	case kafkago.NotEnoughReplicas, kafkago.ThrottlingQuotaExceeded, kafkago.InvalidMessage,
		kafkago.GroupLoadInProgress, kafkago.GroupCoordinatorNotAvailable, kafkago.NotCoordinatorForGroup, kafkago.ConcurrentTransactions:
		return outcome{again, false}
	case kafkago.OutOfOrderSequenceNumber, kafkago.UnknownProducerId, kafkago.InvalidProducerEpoch,
		kafkago.InvalidProducerIDMapping, kafkago.ProducerFenced, kafkago.InvalidTransactionState, transactionAbortable:
		return outcome{unordered, false}
	case kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge:
		return outcome{tooLarge, false}
	case kafkago.InvalidRecord:
		return outcome{invalid, false}
	case kafkago.TopicAuthorizationFailed, kafkago.ClusterAuthorizationFailed, kafkago.TransactionalIDAuthorizationFailed:
		return outcome{denied, false}
	case kafkago.InvalidTopic, kafkago.InvalidRequiredAcks, kafkago.UnsupportedForMessageFormat, kafkago.UnsupportedCompressionType,
		kafkago.InvalidTimestamp, kafkago.PolicyViolation, kafkago.UnsupportedVersion, kafkago.SecurityDisabled:
		return outcome{hopeless, false}
	default: // REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND, NETWORK_EXCEPTION, UNKNOWN_SERVER_ERROR and those to come
		return outcome{again, true}
	}
}

// unsent reports whether err arose before a byte of the request could leave: no route to the
// leader, or no connection.
func unsent(err error) bool {
	var route *rawproduce.Error
	if errors.As(err, &route) || errors.Is(err, kafkago.BrokerNotAvailable) {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
