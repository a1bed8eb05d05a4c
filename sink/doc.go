// Package sink is the contract between relay and a message bus.
//
// A [Sink] publishes batches of messages in order and says how much of a batch is durable. As a
// [Destination] it says what it writes to, makes that ready, and tells whether it still holds what
// was acknowledged. A [Ledger] is a bus that stores messages and a position in one atomic act. See
// packages nats, kafka and stdout.
//
// Callers decide by the type of an error. A [PublishError] says how long the durable prefix is.
// Inside it, a [RejectedError] is about one message that can never be published, and a [FatalError]
// about a bus that takes nothing until an operator acts. An error that matches [ErrTimeout] asks
// for a smaller batch. Every other error may pass.
//
// A bus may implement more: [Scanner] reads it back, [Configurable] compares its settings with the
// configuration, [Adviser] describes it.
//
// Package sinktest has the tests that every sink passes. A sink knows neither the source nor where
// the checkpoint is kept.
package sink
