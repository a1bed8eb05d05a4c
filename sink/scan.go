package sink

import (
	"context"
	"time"
)

// Scanner reads back what a bus holds. It leaves no trace there, may run while others publish, and
// sees what a careful consumer sees: in Kafka only what is committed.
type Scanner interface {
	// Logs returns the logs that messages on the topics are in; a topic that does not exist is in
	// none. Their ends are those of now. Messages stored before since need not be in them; the zero
	// time asks for all.
	Logs(ctx context.Context, topics []string, since time.Time) ([]Log, error)
	// Scan calls fn for each message of the log in its order, up to the log's end. If messages are
	// removed meanwhile it may return an error. What fn is given is valid until it returns; an
	// error of fn ends the scan and is returned.
	Scan(ctx context.Context, log Log, fn func(*Stored) error) error
}

// Log is a sequence of messages that a bus keeps in one order: a stream of JetStream, a partition
// of Kafka.
type Log struct {
	Name      string    // "stream WORKOS", "dsync.user.created/3"
	Topic     string    // of every message in it; empty if topics share it
	Partition int32     // 0 if there are none
	From, End int64     // sequence or offset: the scan begins at From or later, and ends before End
	Since     time.Time // messages stored before it may be left out
	// Trimmed: older messages than those in the log were there once and are gone, by retention or
	// by hand.
	Trimmed bool
	// Compacted: the bus removes a message once a newer one with the same key is stored.
	Compacted bool
	// MaxPerTopic is how many messages of each topic the bus keeps, the newest ones; 0 for no
	// limit.
	MaxPerTopic int64
	// Unknown says why Compacted is not known; empty if it is.
	Unknown string
}

// Stored is a message as a bus holds it.
type Stored struct {
	Topic   string
	Key     []byte // empty if the bus keeps none
	Offset  int64  // sequence in the stream, offset in the partition
	Time    time.Time
	Headers []Header
	Body    []byte // nil if the bus keeps a key without a value: a tombstone of Kafka
}

// Header returns the first value of a header, or "".
func (s *Stored) Header(key string) string {
	for _, h := range s.Headers {
		if h.Key == key {
			return h.Value
		}
	}
	return ""
}

// StateReader is implemented by a Sink that can read back the state it keeps. It leaves no trace on
// the bus, and may run while others publish. It sees every change that was durable when it began.
type StateReader interface {
	// ReadState calls fn for each object of a topic. If objects change meanwhile, fn may be called
	// again for a key: the last call counts. A Body of nil says that the object was removed; fn may
	// also be told so of objects that it was not told of. What fn is given is valid until it
	// returns; an error of fn ends the reading and is returned. Order and Offset mean nothing else.
	ReadState(ctx context.Context, topic StateTopic, fn func(*Stored) error) error
	// ReadObject returns one object of a topic by its key, and nil if there is none.
	ReadObject(ctx context.Context, topic StateTopic, key []byte) (*Stored, error)
}
