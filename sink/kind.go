package sink

import (
	"context"
	"io"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
)

// Kind describes a kind of bus: everything that relay has to know of it before a sink of that kind
// is opened. Each package of a bus exports one, and relay has one list of them. A Kind does not
// change and may be used from any goroutine.
type Kind struct {
	// Name is the word that chooses the kind in a configuration: "kafka".
	Name string
	// New returns new settings of this kind: a pointer to a struct whose tags declare the keys of
	// the configuration and their defaults. If it has a method Validate() error, that checks what
	// tags cannot say. An error of Validate that has a method Key() string names the key at fault.
	New func() Settings
	// CloudEvents names the protocol binding of CloudEvents that the bus uses, as a router.Binding.
	// Empty: the one with a header for each attribute, as on NATS.
	CloudEvents string
	// KeepsPositions says that the bus can store the position of a lane together with its messages:
	// Open returns a ledger.
	KeepsPositions bool
	// KeepsState says that the bus can keep the newest version of each object by its key: a sink of
	// this kind may have state topics.
	KeepsState bool
	// ReadsBack says that what the bus holds can be read back: its Sink is a Scanner.
	ReadsBack bool
	// MayComeEarly says that in at_least_once the bus may store a message before its predecessor,
	// if that has to be published again. Both then come once more in order.
	MayComeEarly bool
	// Incapable are the errors by which a ledger says that this bus, as it is, cannot do
	// exactly_once.
	Incapable []error
	// AsyncAPI is how an AsyncAPI document describes the bus; nil if it cannot. Settings of a kind
	// that has it implement Documented.
	AsyncAPI *AsyncAPI
	// Starters are the sinks of this kind that a first configuration can have.
	Starters []Starter
}

// Starter is a sink that a first configuration can have.
type Starter struct {
	Name    string // word that chooses it: "embedded"
	About   string // what it is, if Name does not say that; may be empty
	Address string // address of the bus if none is given
	// TokenFile is set if the sink runs a server inside relay that asks its clients for a token:
	// how the name of the file ends that holds the token. Server is the name of that server.
	TokenFile, Server string
	// Entry returns the entry of the sink in a configuration file, as an element of a YAML list
	// that is indented by two spaces. tokenFile is empty if TokenFile is.
	Entry func(address, tokenFile string) string
}

// Settings are the configuration of one sink: what it publishes to, and how. They do not change
// after they have been read, and their methods may be called from any goroutine.
//
// Settings may also implement Embedder, Rehearser, Followable, Documented and Traced.
type Settings interface {
	// Identity names what the sink writes to, without addresses, as Destination.Identity does.
	Identity() string
	// Prefix is put before each topic.
	Prefix() string
	// Limits returns what a lane to this sink needs.
	Limits() Limits
	// Open opens the bus. It does not wait for a bus that does not answer, but for a server that it
	// starts inside this process. An error is a *SettingsError if the settings are at fault, or
	// files that they name.
	Open(ctx context.Context, o OpenOptions) (*Opened, error)
}

// OpenOptions is what a bus is told of the lane that opens it.
type OpenOptions struct {
	RelayID  string
	Lane     string              // name of the sink
	Identity checkpoint.Identity // whose position the position of the lane is
	Dir      string              // directory for files of this sink that have to outlive the process
	Logger   *zap.Logger
	// DeadLetter is the topic of dead letters, prefix included; empty for none.
	DeadLetter string
	// State are the topics that state messages go to. They are among the topics that Prepare is
	// called with, and no other message goes there.
	State []StateTopic
	// Files follows the files that the settings name; nil reads them when they are used.
	Files *livefile.Set
	// Secret returns the current value of a secret of the settings. key is its key, below the sink,
	// and value what the settings hold. If a file holds the secret, the result follows that file:
	// content that check rejects is not used. check may be nil.
	Secret func(key string, value secret.String, check func(string) error) (*livefile.Current, error)
}

// Opened is an open bus.
type Opened struct {
	Bus Sink
	// Ledger is the same bus with the position of the lane; nil if the bus keeps no positions.
	Ledger Ledger
	// LedgerCloser closes what the ledger holds open by itself; nil if Bus.Close closes everything.
	LedgerCloser io.Closer
}

// Limits is what a lane to a sink needs. A zero field leaves it to relay.
type Limits struct {
	BatchMessages int   // most messages in one Publish or Commit
	Prefetch      int   // bytes of pages that are read ahead
	Memory        int64 // bytes that the sink needs besides what every lane does
}

// SettingsError says that a bus cannot be opened with these settings, or with files that they name.
type SettingsError struct{ Err error }

// Error implements error.
func (e *SettingsError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *SettingsError) Unwrap() error { return e.Err }

// Embedder is implemented by Settings that can ask for a server inside this process.
type Embedder interface {
	// EmbeddedServer returns the server that Open starts inside this process; nil if the settings
	// name a server outside.
	EmbeddedServer() *EmbeddedServer
}

// EmbeddedServer describes a server that runs inside relay.
type EmbeddedServer struct {
	Name    string   // "NATS server"
	Key     string   // key of the settings that asks for the server
	Listen  string   // address, host:port, as configured; no two servers of a process share one
	Address string   // host:port at which a program on this machine reaches the server
	Holds   string   // what of the bus is inside the server: "stream"
	Page    string   // page of the manual that shows a consumer
	Outside Settings // the settings with which another process reaches the server
}

// Rehearser is implemented by an Embedder, for `relay check`.
type Rehearser interface {
	// Rehearse returns the error with which Open would fail to start the server inside this
	// process. It starts nothing and leaves no file. The caller closes the Rehearsal.
	Rehearse(ctx context.Context, o OpenOptions) (*Rehearsal, error)
}

// Rehearsal is what is known of a server that would be started inside this process. It holds the
// address of the server until Close.
type Rehearsal struct {
	Address io.Closer
	// Stored reports whether the store of the server has what holds the events: the stream.
	Stored bool
}

// Close frees the address.
func (r *Rehearsal) Close() error { return r.Address.Close() }

// Addressed is implemented by a Bus that knows at which URL consumers reach its server.
type Addressed interface {
	Address() string
}

// Followable is implemented by Settings of a bus that can be read while it is written to.
type Followable interface {
	// Follow opens the bus and calls fn for each message in the order of the bus until ctx ends,
	// which returns nil, or fn returns an error, which is returned. It leaves out positions, starts
	// no embedded server, and leaves no trace on the bus. Messages have no Position, and need not
	// have a Key. Those of the topics of OpenOptions.State have their Entity.
	Follow(ctx context.Context, o FollowOptions, fn func(Message) error) error
}

// FollowOptions says what Follow reads.
type FollowOptions struct {
	OpenOptions
	Address   string   // of the server; empty for that of the settings
	Topics    []string // every topic that the lane may have written to, with its prefix
	Patterns  []string // of event types, or of topics as the bus filters them; none for every topic
	FromStart bool     // from the first message that is stored, otherwise from the next one
}

// Conventions is how traces name a bus and what happens on it, by OpenTelemetry's semantic
// conventions for messaging.
type Conventions struct {
	System    string // messaging.system: "kafka"
	Operation string // what the bus calls publishing: "send"
	Server    string // host:port of a server of the bus; no credentials
	// Destination is what all messages go to, on any topic: a JetStream stream. It is
	// empty if a topic is the destination.
	Destination string
	// ErrorType returns the class of an error in the words of the bus, such as NOT_ENOUGH_REPLICAS:
	// one of a few fixed values. It is empty if the bus has no word for it. ErrorType may be nil.
	ErrorType func(error) string
}

// Traced is implemented by Settings that say how traces name their bus. Without it a bus is named
// like its kind.
type Traced interface {
	Conventions() Conventions
}

// AsyncAPI is how AsyncAPI documents describe a kind of bus, by the bindings of
// https://github.com/asyncapi/bindings. A function or map that is nil stands for no binding.
type AsyncAPI struct {
	Binding   string                                        // name of the bindings: "kafka"
	Channel   func(topic string) map[string]any             // of a topic
	Operation map[string]any                                // of sending to a topic
	Message   func(keySchema map[string]any) map[string]any // of a message; keySchema describes its key
}

// Documented is implemented by Settings of a Kind with AsyncAPI.
type Documented interface {
	// AsyncAPIServer describes the bus as a server of an AsyncAPI document.
	AsyncAPIServer() AsyncAPIServer
}

// AsyncAPIServer is a server of an AsyncAPI document.
type AsyncAPIServer struct {
	Protocol    string // "kafka-secure"
	Host        string // host:port of a server of the bus; no credentials
	Description string // how a consumer should read the bus
}
