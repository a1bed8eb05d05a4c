package nats

import (
	"errors"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of JetStream that nats.go has no name for. The numbers are those of nats-server
// (errors.json).
const (
	codeAccountResources    = jetstream.ErrorCode(server.JSAccountResourcesExceededErr)
	codeNoPeers             = jetstream.ErrorCode(server.JSClusterNoPeersErrF)
	codeServerResources     = jetstream.ErrorCode(server.JSInsufficientResourcesErr)
	codeInvalidJSON         = jetstream.ErrorCode(server.JSInvalidJSONErr)
	codeMaxStreams          = jetstream.ErrorCode(server.JSMaximumStreamsLimitErr)
	codeMemory              = jetstream.ErrorCode(server.JSMemoryResourcesExceededErr)
	codeStorage             = jetstream.ErrorCode(server.JSStorageResourcesExceededErr)
	codeInvalidStreamConfig = jetstream.ErrorCode(server.JSStreamInvalidConfigF)
	codeStreamLimits        = jetstream.ErrorCode(server.JSStreamLimitsErrF)
	codeSubjectOverlap      = jetstream.ErrorCode(server.JSStreamSubjectOverlapErr)
	codeNotClustered        = jetstream.ErrorCode(server.JSStreamReplicasNotSupportedErr)
	codeStoreFailed         = jetstream.ErrorCode(server.JSStreamStoreFailedF)
	codeHeadersTooLarge     = jetstream.ErrorCode(server.JSStreamHeaderExceedsMaximumErr)
	codeSealed              = jetstream.ErrorCode(server.JSStreamSealedErr)
	codeMaxBytesRequired    = jetstream.ErrorCode(server.JSStreamMaxBytesRequired)
	codeNoTier              = jetstream.ErrorCode(server.JSNoLimitsErr)
	codeMaxStreamBytes      = jetstream.ErrorCode(server.JSStreamMaxStreamBytesExceeded)
	codeIncompleteBatch     = jetstream.ErrorCode(server.JSAtomicPublishIncompleteBatchErr)
)

// isCode reports whether the server refused a request with this code.
func isCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}
