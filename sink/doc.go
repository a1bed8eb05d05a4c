// Package sink is the contract between relay and a message bus.
//
// A [Sink] publishes batches of messages in order and says how much of a batch is durable. A
// [Destination] says what a sink writes to and makes it ready. Every bus implements both: see
// packages nats, kafka and stdout.
//
// Callers decide by the type of an error. A [PublishError] says how long the durable prefix is.
// Inside it, a [RejectedError] is about one message that can never be published, and a [FatalError]
// about a bus that takes nothing until an operator acts. An error that matches [ErrTimeout] asks
// for a smaller batch. Every other error may pass.
//
// A bus may implement more: [Surveyor] tells whether it still holds what it acknowledged, [Scanner]
// reads it back, [Configurable] compares its settings with the configuration.
//
// Package sinktest has the tests that every sink passes. A sink knows neither the source nor where
// the checkpoint is kept.
package sink
