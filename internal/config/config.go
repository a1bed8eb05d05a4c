// Package config declares everything that can be configured, once, and reads it from a YAML file.
// The same declaration gives the defaults, the checks, config.example.yaml, the JSON Schema for
// editors and the reference page.
package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
	"workos-relay/conf/unit"
	"workos-relay/internal/listener"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

//go:generate go run ./gen ../..

// Config is a whole configuration, checked and with every default filled in. It is not changed
// after Parse returns it, and so may be read by any number of goroutines.
type Config struct {
	ID              string           `yaml:"id" default:"workos" required:"true" format:"name" doc:"Names this relay on the bus and in its checkpoints; one per WorkOS environment. Another id starts over."`
	Instance        string           `yaml:"instance" format:"instance" example:"web-1" doc:"Names this process in status, page, log and metrics, beside its process id and start time, such as web-7f9c/4711@2026-11-30T01:20:05Z#3f9a2c1b4d5e. If it is empty, the name of the host. It need not be unique."`
	Source          Source           `yaml:"source" doc:"Where the events come from: the Events API of one WorkOS environment."`
	Sinks           []Sink           `yaml:"sinks" default:"[{name: nats, type: nats, url: embedded}]" doc:"Where the events go. Each sink is a separate lane, with its own reader, position and pace; a sink that is down does not hold back the others."`
	Routes          []router.Route   `yaml:"routes" doc:"Which topic an event goes to. The first route that matches decides; without one the topic is the event type." example:"[{events: [\"dsync.user.*\"], topic: dsync.user, key: data.directory_id}, {events: [\"authentication.*\"], drop: true}]"`
	Redaction       Redaction        `yaml:"redaction" doc:"What routes[].pseudonymize needs."`
	Encoding        router.Encoding  `yaml:"encoding" default:"raw" enum:"raw,cloudevents,cloudevents_structured" doc:"Form of a message. raw: the event byte for byte as received, what is known of it in headers. cloudevents: CloudEvents 1.0 in binary mode, attributes in headers. cloudevents_structured: one CloudEvents JSON object."`
	Headers         router.Headers   `yaml:"headers" doc:"Headers that a message has only if they are asked for."`
	Delivery        string           `yaml:"delivery" default:"auto" enum:"auto,exactly_once,at_least_once" doc:"Default delivery of the sinks. exactly_once: the bus stores events and position atomically, so that no event is lost or comes twice, even after a crash. at_least_once: no event is lost, but after a crash events that were in flight may come twice. auto: exactly_once if the bus supports it; later the mode that is recorded with the position."`
	TakeoverAfter   time.Duration    `yaml:"takeover_after" default:"15s" min:"3s" max:"1h" doc:"How long an active relay must be silent before a standby takes over its lane."`
	DeadLetter      *DeadLetter      `yaml:"dead_letter" doc:"Destination of events that can never be published, for example because they are larger than the bus allows. Without this section the lane stops at such an event and names it."`
	Checkpoint      CheckpointConfig `yaml:"checkpoint" doc:"Where the positions are kept in at_least_once."`
	Verify          Verify           `yaml:"verify" doc:"Lets a running relay find out by itself whether the bus holds what WorkOS has."`
	Admin           Admin            `yaml:"admin" doc:"The HTTP server for probes, metrics and status, and to control a running relay."`
	Telemetry       Telemetry        `yaml:"telemetry" doc:"Traces and metrics for an OpenTelemetry collector. Prometheus reads metrics from the admin address, which needs no setting here."`
	Log             Log              `yaml:"log" doc:"What relay run writes to standard error. Other commands write warnings and errors only."`
	OnStop          string           `yaml:"on_stop" default:"auto" enum:"auto,wait,exit" doc:"What relay does once every lane has stopped and only an operator can help. exit: it ends, with code 3. wait: it goes on serving status page, probes, metrics and the embedded NATS server, until it is stopped or a reload starts a lane. auto: wait if a sink is an embedded server, else exit."`
	ShutdownTimeout time.Duration    `yaml:"shutdown_timeout" default:"30s" min:"1s" max:"1h" doc:"How long a stop may take to finish what is in flight, after SIGTERM or SIGINT."`

	// Files are the files of this process that are read again when they change. It is set after
	// Parse, before the configuration is used; nil reads files again only when something uses them.
	Files *livefile.Set `yaml:"-"`

	format   *Format
	files    map[string][]string // secret files, by the path of the secret
	secrets  []string            // every secret in the configuration
	contents map[string]string   // digests of what other files hold, by the path of the key that names them
}

// Source is the Events API that relay reads.
type Source struct {
	Endpoint       string           `yaml:"endpoint" default:"https://api.workos.com" required:"true" format:"url" doc:"Address of the WorkOS API. Change it only for tests and proxies; with http anyone on the network path can read the API key."`
	APIKey         secret.String    `yaml:"api_key" default:"${WORKOS_API_KEY}" required:"true" format:"api_key" doc:"Secret key of the WorkOS environment, sk_..."`
	TLS            SourceTLS        `yaml:"tls" doc:"TLS towards the endpoint, and towards source.proxy if that is an https URL, if the system's authorities do not fit."`
	Proxy          secret.String    `yaml:"proxy" format:"proxy" example:"http://proxy.example.com:3128" doc:"Proxy for all requests to the endpoint: http://, https:// or socks5://, with user and password as in http://USER:PASSWORD@proxy.example.com:3128. Without it, HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment decide."`
	Events         []string         `yaml:"events" default:"[\"*\"]" doc:"Event types to read: names, or patterns such as dsync.* over the known types. \"*\" is every type that can be subscribed to; opt-in types are named, or matched by a pattern for them alone, such as vault.*; +name asks for a type that relay does not know yet."`
	Unexpected     string           `yaml:"unexpected" default:"skip" enum:"skip,relay" doc:"What relay does with an event whose type it did not ask for. skip: it leaves the event out, counts it and names it in the log. relay: it publishes the event like any other, to the topic that its type names; use it only if you trust everything that answers at endpoint."`
	OrganizationID string           `yaml:"organization_id" format:"name" example:"org_01EHWNCE74X7JSDV0X3SZ3KJNY" doc:"Read only the events of this organization. Events that belong to no organization, such as user.*, are then left out."`
	Start          Start            `yaml:"start" default:"earliest" example:"2026-01-31T00:00:00Z" doc:"Where to begin if there is no checkpoint yet: earliest, latest, the id of the event to continue after, or a time: 2026-11-01, 2026-11-01 15:04 (UTC), RFC 3339, or 2h, 90m or 3d for that long before the first start."`
	PollInterval   time.Duration    `yaml:"poll_interval" default:"1s" min:"10ms" max:"1h" doc:"Time between polls once everything has been read, while nothing happens."`
	PollFastest    time.Duration    `yaml:"poll_fastest" min:"10ms" max:"1h" example:"100ms" doc:"Least time between polls while events come; each poll that finds nothing doubles it, up to poll_interval. All lanes together then make at most 5 polls a second, unless poll_interval alone makes more. Without it: 100ms if poll_interval is 1s, else poll_interval. A time that is not shorter than poll_interval leaves all polls at poll_interval."`
	RateLimit      float64          `yaml:"rate_limit" default:"80" min:"0.1" max:"10000" doc:"Most requests per second, of all lanes together. WorkOS allows a key 100, which your own application shares."`
	EventList      source.EventList `yaml:"event_list" default:"comma" enum:"comma,repeat,brackets" doc:"How the list of event types is written in a request: events=a,b, events=a&events=b or events[]=a&events[]=b. Only the emulators of WorkOS need brackets."`
	MaxResponse    unit.Bytes       `yaml:"max_response" default:"32MiB" min:"64KiB" max:"1GiB" doc:"Largest response that is read; a larger one is asked for again with fewer events."`
	Backfill       Backfill         `yaml:"backfill" doc:"How a backlog is read while the position is far behind."`
	Webhook        Webhook          `yaml:"webhook" doc:"Lets WorkOS's webhooks wake relay, so that it reads an event at once and not only at the next poll. relay takes nothing else from a webhook."`
}

// FastestPoll returns the least time between two polls at the tip: PollFastest, or what relay
// chooses without it. A PollInterval other than the default is kept to.
func (s Source) FastestPoll() time.Duration {
	const fastest = 100 * time.Millisecond
	switch {
	case s.PollFastest > 0:
		return s.PollFastest
	case s.PollInterval == source.DefaultPollInterval:
		return fastest
	}
	return s.PollInterval
}

// SourceTLS names the files of the TLS connections to the Events API.
type SourceTLS struct {
	CAFile       string      `yaml:"ca_file" doc:"PEM file with the authorities to trust instead of the system's, such as the one of a company that inspects TLS. New content is used for the next request."`
	CertFile     string      `yaml:"cert_file" doc:"PEM file with the client certificate, if the server asks for one. New content of it and key_file is used for the next request, once the two belong together."`
	KeyFile      string      `yaml:"key_file" doc:"PEM file with the private key of cert_file, which may be encrypted."`
	CA           tlsconf.PEM `yaml:"ca" doc:"PEM text of the authorities, in place of ca_file."`
	tlsconf.Pair `yaml:",inline"`
}

// Validate checks what the tags cannot say.
func (t SourceTLS) Validate() error { return t.Section().Validate() }

// Section returns t as the section that every connection has.
func (t SourceTLS) Section() tlsconf.TLS {
	return tlsconf.TLS{Enabled: true, CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, CA: t.CA, Pair: t.Pair}
}

// Backfill is how a backlog is read.
type Backfill struct {
	Readers int        `yaml:"readers" default:"16" min:"1" max:"64" doc:"Concurrent requests. The events and their order are the same with any number; 1 reads page after page."`
	Memory  unit.Bytes `yaml:"memory" default:"64MiB" min:"4MiB" max:"16GiB" doc:"Most memory that the readers of one lane use: pages that are not passed on yet, and the received parts of responses. A larger page is read alone."`
}

// Webhook is where webhooks arrive. Without listen there are none.
type Webhook struct {
	Listen string      `yaml:"listen" format:"address" example:"0.0.0.0:8081" doc:"Address (host:port) that receives WorkOS's webhooks, through your ingress. Empty: no webhooks."`
	Path   string      `yaml:"path" default:"/workos/webhook" doc:"Path of the webhooks."`
	Secret secret.List `yaml:"secret" doc:"Signing secret of the webhook endpoint, from WorkOS's dashboard, or a list: during a rotation a request may be signed with any of them. Other requests are answered 401."`
}

// Validate checks what the tags cannot say.
func (w Webhook) Validate() error {
	switch {
	case w.Listen != "" && !w.Secret.IsSet():
		return &keyFault{"secret", "is missing; without it anybody could wake relay"}
	case !strings.HasPrefix(w.Path, "/"):
		return &keyFault{"path", "does not begin with /"}
	}
	return nil
}

// keyFault is an error about one key of a section.
type keyFault struct{ key, text string }

func (e *keyFault) Error() string { return e.text }

// Key is the key at fault.
func (e *keyFault) Key() string { return e.key }

// Sink is one destination and what it carries.
type Sink struct {
	Name     string   `yaml:"name" required:"true" format:"name" doc:"Names the lane in logs, metrics and positions. Unique; another name starts the lane over."`
	Type     string   `yaml:"type" required:"true" doc:"Kind of the bus. It decides which of the keys below apply."`
	Events   []string `yaml:"events" default:"[\"*\"]" doc:"What this lane carries of the source's event types, in names or patterns."`
	Delivery string   `yaml:"delivery" enum:"auto,exactly_once,at_least_once" doc:"Delivery of this sink, if it differs from the top-level delivery."`
	State    State    `yaml:"state" doc:"Topics that keep the newest version of each object, beside those of the events."`

	// Settings are the keys that belong to the kind of bus.
	Settings sink.Settings `yaml:"-"`
	// Kind is the kind that Type names.
	Kind *sink.Kind `yaml:"-"`
}

// State says which objects a lane keeps on state topics.
type State struct {
	Entities []string `yaml:"entities" doc:"Kinds of object whose newest version is kept by its key on the topic state.<entity>: names such as user and directory_user, or \"*\" for each kind whose events the sink carries. Empty: none." example:"[user, organization]"`
	Snapshot string   `yaml:"snapshot" enum:"first_start,never" doc:"When the objects that exist already are read from WorkOS's lists. first_start: before the lane carries its next event, each entity that no snapshot has read yet. never: only by relay snapshot. Without it a lane that begins with state does the same as with first_start, and one that had no state before the same as with never."`
}

// The values of State.Snapshot.
const (
	SnapshotFirstStart = "first_start"
	SnapshotNever      = "never"
)

// EmbeddedServer returns the server that the sink runs inside relay, or nil.
func (s *Sink) EmbeddedServer() *sink.EmbeddedServer {
	if e, ok := s.Settings.(sink.Embedder); ok {
		return e.EmbeddedServer()
	}
	return nil
}

// RouterConfig is the configuration of the router for the lane of s, one of c.Sinks.
func (c *Config) RouterConfig(s *Sink) router.Config {
	r := router.Config{Relay: c.ID, Routes: c.Routes, Encoding: c.Encoding, Headers: c.Headers, RedactionKey: c.Redaction.Key}
	if s.Settings != nil { // nil if the file names no kind
		r.Prefix, r.Binding = s.Settings.Prefix(), router.Binding(s.Kind.CloudEvents)
	}
	if c.DeadLetter != nil {
		r.DeadLetter = c.DeadLetter.Topic
	}
	if len(s.State.Entities) > 0 {
		r.State = s.State.Entities
		r.Types, _ = c.EventTypes(s) // a pattern that is wrong is reported elsewhere
	}
	return r
}

// WaitsOnStop reports whether relay goes on serving once every lane has stopped.
func (c *Config) WaitsOnStop() bool {
	embedded := slices.ContainsFunc(c.Sinks, func(s Sink) bool { return s.EmbeddedServer() != nil })
	return c.OnStop == "wait" || c.OnStop == "auto" && embedded
}

// EventTypes returns the event types that the lane of s carries, sorted: those of the source that a
// pattern of the sink matches. So "*" in a sink is all that the source reads, opt-in types
// included.
func (c *Config) EventTypes(s *Sink) ([]string, error) {
	types, err := source.Expand(c.Source.Events)
	if err != nil {
		return nil, err
	}
	return carried(types, s.Events), nil
}

// Log is the form of the log of `relay run`. Flags and variables of the environment go before it.
type Log struct {
	Format string `yaml:"format" default:"auto" enum:"auto,console,json" doc:"json: one object per line. console: lines for people. auto: console if standard error is a terminal, else json. The flag --log-format and RELAY_LOG_FORMAT go before it."`
	Level  string `yaml:"level" default:"info" enum:"debug,info,warn,error" doc:"Least important level that is written. A reload changes it. The flag --log-level and RELAY_LOG_LEVEL go before it."`
}

// DeadLetter is the way out for events that can never be published.
type DeadLetter struct {
	Topic string `yaml:"topic" default:"relay.dead_letter" required:"true" format:"topic" doc:"Topic of the dead letters; the sink's topic_prefix is put in front of it."`
}

// Redaction is what pseudonyms are made with.
type Redaction struct {
	Key secret.String `yaml:"key" file:"fixed" doc:"Secret key of the pseudonyms, 16 characters or more. Equal values have equal pseudonyms as long as the key is the same; pseudonyms of another key do not match those published before. Anyone who has the key can test guesses."`
}

// CheckpointConfig is where positions are kept.
type CheckpointConfig struct {
	Dir string `yaml:"dir" default:"./relay-data" required:"true" doc:"Directory of the checkpoint files and of the embedded NATS server. It must outlive the process: use a volume in a container."`
}

// Verify says how often lanes verify what they have published.
type Verify struct {
	Every time.Duration `yaml:"every" min:"1h" max:"720h" example:"24h" doc:"How often the active relay of a lane compares the events that it has published, and the state if the sink keeps one, with what WorkOS has: see relay verify. It changes nothing, takes at most a tenth of source.rate_limit, and waits while a lane is behind. The first time comes an hour after a start. Sinks of type stdout keep nothing that could be compared. Without it, never."`
}

// Admin is the HTTP server for probes, metrics and status, and to steer the running relay.
type Admin struct {
	Listen       string        `yaml:"listen" default:"127.0.0.1:8080" format:"address" doc:"Address (host:port) of the status, of /healthz, /readyz and /metrics, and of the commands that control a running relay; \"\" switches them off. An address that other machines reach, such as 0.0.0.0:8080 in a container, needs token or tls.client_ca_file."`
	Token        secret.String `yaml:"token" doc:"Every request needs it except /healthz and /readyz, which without it only tell whether relay is alive and ready. Send it as a bearer token, or as the password of any user in a browser. At least 16 characters."`
	TLS          AdminTLS      `yaml:"tls" doc:"Lets the admin server speak TLS."`
	OpenMetrics  bool          `yaml:"open_metrics" default:"false" doc:"Serve /metrics without the token. It shows names of lanes and types, and counts; Prometheus can also send a bearer token."`
	ShowPayloads bool          `yaml:"show_payloads" default:"false" doc:"Show the data of the newest events on the status page, the first 4 KiB of each, without the values that routes remove. If false, the page shows only id, type, time and organization of an event."`
}

// AdminTLS names the files of the admin server's TLS.
type AdminTLS struct {
	CertFile     string      `yaml:"cert_file" doc:"PEM file with the server's certificate and the intermediate certificates. New content of it and key_file is used for the next connection, once the two belong together."`
	KeyFile      string      `yaml:"key_file" doc:"PEM file with the private key of cert_file, which may be encrypted."`
	ClientCAFile string      `yaml:"client_ca_file" doc:"PEM file with the authorities whose client certificates are accepted in place of the token. New content is used for the next connection."`
	ClientCA     tlsconf.PEM `yaml:"client_ca" doc:"PEM text of the authorities, in place of client_ca_file."`
	tlsconf.Pair `yaml:",inline"`
}

// Validate checks what the tags cannot say.
func (t AdminTLS) Validate() error {
	if err := tlsconf.CheckConflict("client_ca", t.ClientCA != "", t.ClientCAFile); err != nil {
		return err
	}
	return t.Check(t.CertFile, t.KeyFile)
}

// hasClientCA reports whether client certificates are accepted.
func (t AdminTLS) hasClientCA() bool { return t.ClientCAFile != "" || t.ClientCA != "" }

// minToken is fewest characters of a token: 16 random ones cannot be guessed.
const minToken = 16

// Validate checks what the tags cannot say.
func (a Admin) Validate() error {
	if a.TLS != (AdminTLS{}) && (a.TLS.CertFile == "" && a.TLS.Cert == "" || a.TLS.KeyFile == "" && !a.TLS.Key.IsSet()) {
		return &keyFault{"tls", "needs both cert_file and key_file"}
	}
	if guarded := a.Token.IsSet() || a.TLS.hasClientCA(); a.Listen != "" && !guarded && !listener.IsLoopback(a.Listen) {
		return &keyFault{"listen", fmt.Sprintf("%q can be reached from other machines, and anyone there could control relay: set admin.token (or admin.token_file), or admin.tls.client_ca_file", a.Listen)}
	}
	if a.Token.IsSet() {
		if err := validToken(a.Token.Reveal()); err != nil {
			return &keyFault{"token", err.Error()}
		}
	}
	return nil
}

// validToken continues a sentence that begins with the token's key.
func validToken(token string) error {
	if len(token) < minToken {
		return fmt.Errorf("is shorter than %d characters; make one with: openssl rand -hex 24", minToken)
	}
	return nil
}
