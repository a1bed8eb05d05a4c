// Package client speaks Kafka's protocol to the brokers of one cluster: connections, metadata,
// producer ids, record batches, transactions, and reading back what is stored. It knows topics,
// partitions and records, and nothing of what they are about: no events, lanes or checkpoints.
//
// It is built on the protocol packages of kafka-go and on its Transport, which finds the broker for
// a request. It does not use kafka-go's Writer and Reader.
//
// # What it is made of
//
//   - A [Cluster] sends requests and knows the topics of its brokers. RoundTrip sends one request
//     and waits for its answer; most other methods send one kind of request and check what comes.
//   - A [Session] is the producer id that a broker gave, a [Sequence] the place of a producer in a
//     partition. [EncodeBatch] writes the record batch of a session, and [Judge] says what follows
//     from the answer to it.
//   - A [Coordinator] takes a transactional id over, and begins and commits its transactions.
//   - Fetch reads from a partition and [Walk] goes through the records. Offsets returns the ends of
//     partitions.
//
// # What it guarantees
//
// A broker is not trusted. Nothing that it sends makes this package panic, allocate much more than
// the bytes that came, or wait without an end: see answer checks in shape.go, and Walk. An answer
// that is not valid is a [BadAnswerError], which says nothing about whether the broker has carried
// out the request.
//
// Every request is bounded by its context and by the request timeout of [Config]. If the brokers
// throttle the client, a request waits before it is sent, and no timeout counts meanwhile: see
// [WithAllowance].
//
// Nothing is repeated that may store a record. The exceptions are requests of which a repetition
// has no effect, which their functions name.
//
// Errors of brokers match the error codes of kafka-go (errors.Is). What an operator should do about
// them is for the caller to say.
package client
