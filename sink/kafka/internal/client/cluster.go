package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/addpartitionstotxn"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/endtxn"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/sasl"

	"workos-relay/conf/tlsconf"
	"workos-relay/internal/printable"
)

const (
	// DefaultMessageBytes is max.message.bytes if neither topic nor broker sets it. It is assumed
	// if the client may not read the setting.
	DefaultMessageBytes = 1<<20 + 12
	// MaxMessageBytes is the largest message that is sent at all: brokers drop a connection at
	// socket.request.max.bytes, 100 MiB unless set otherwise, without an answer that names the
	// message.
	MaxMessageBytes = 64 << 20

	idleTimeout = 3 * time.Minute // shorter than what common load balancers and the brokers (10 min) allow
)

// DialTimeout bounds the connection to one address. TLS and SASL come on top, all within
// Config.RequestTimeout. Tests raise it before they make a cluster.
var DialTimeout = 3 * time.Second

// ownRequests marks the requests that this package writes in its own form and not in kafka-go's.
const ownRequests protocol.OverrideTypeKey = 1

func init() {
	protocol.RegisterOverride(&initProducer{}, &initproducerid.Response{}, ownRequests)
	protocol.RegisterOverride(&listOffsets{}, &listoffsets.Response{}, ownRequests)
	protocol.RegisterOverride(&addPartitions{}, &addpartitionstotxn.Response{}, ownRequests)
	protocol.RegisterOverride(&endTransaction{}, &endtxn.Response{}, ownRequests)
}

// Cluster is the connection to the brokers: routing by kafka-go's Transport, and what is known of
// the topics. It is safe for concurrent use.
type Cluster struct {
	Config
	addr     net.Addr
	lifetime context.Context // of the transport's own goroutines

	mu        sync.Mutex // guards what follows
	transport *kafkago.Transport
	// producing is another transport for produce requests, from the first time that a broker
	// throttles them: it then reads nothing more from the connection for a while, which must not
	// hold up anything else. nil before that.
	producing *kafkago.Transport
	watched   []string // topics in the transports' metadata, sorted
	limits    map[string]Limit
	// topicIDsKnown is set once a broker has said that it tells the ids of topics.
	topicIDsKnown bool
	requests      map[protocol.ApiKey]Versions // that the brokers know; nil until one has said so
	answered      map[string]bool              // addresses from which an answer has come
	answers       int
	muted         [3]time.Time // by quota: until when brokers read no request

	settingsErr   error     // why the cluster does not show the settings of topics
	settingsUntil time.Time // until when that is believed
}

// Limit is a topic's max.message.bytes as it was read at some time.
type Limit struct {
	Bytes int
	Known bool  // false: the client cannot read it, and Bytes is Kafka's default
	Err   error // why not
	At    time.Time
}

// Layout tells which brokers led the partitions of topics at one time.
type Layout struct{ Topics map[string]TopicLayout }

// TopicLayout is one topic of a Layout.
type TopicLayout struct {
	Err     error   // why the topic cannot be used, nil if it can
	Leaders []int32 // broker id by partition; -1 if there is none
	Limit   Limit
}

// Config says how to reach a cluster.
type Config struct {
	Brokers        []string // host:port; at least one
	ClientID       string
	RequestTimeout time.Duration  // of one request with its answer, and of one connection with TLS and SASL
	TLS            *tlsconf.Live  // nil without TLS
	SASL           sasl.Mechanism // nil without SASL
}

// NewCluster returns a cluster without connecting. Its connections end with lifetime.
func NewCluster(lifetime context.Context, cfg Config) *Cluster {
	c := &Cluster{
		Config:   cfg,
		addr:     kafkago.TCP(cfg.Brokers...),
		lifetime: lifetime,
		watched:  []string{}, // nil would ask for every topic of the cluster
		limits:   make(map[string]Limit),
		answered: make(map[string]bool),
	}
	c.transport = c.newTransport()
	return c
}

func (c *Cluster) newTransport() *kafkago.Transport {
	return &kafkago.Transport{
		Dial:           c.dial,
		DialTimeout:    c.RequestTimeout,
		IdleTimeout:    idleTimeout,
		MetadataTopics: c.watched,
		ClientID:       c.ClientID,
		SASL:           c.SASL,
		Context:        c.lifetime,
	}
}

// Watch makes the topics part of the metadata. A transport's topics are fixed, so new ones bring a
// new transport; requests under way end on the old one.
func (c *Cluster) Watch(topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	union := slices.Clone(c.watched)
	for _, t := range topics {
		if _, ok := slices.BinarySearch(c.watched, t); !ok {
			union = append(union, t)
		}
	}
	if len(union) == len(c.watched) {
		return
	}
	slices.Sort(union)
	c.watched = slices.Compact(union)
	c.transport.CloseIdleConnections()
	c.transport = c.newTransport()
	if c.producing != nil {
		c.producing.CloseIdleConnections()
		c.producing = c.newTransport()
	}
}

// Refresh drops connections and cached metadata, so that the next request learns the present
// leaders.
func (c *Cluster) Refresh() {
	c.mu.Lock()
	producing := c.producing
	c.mu.Unlock()
	c.current().CloseIdleConnections()
	if producing != nil {
		producing.CloseIdleConnections()
	}
}

func (c *Cluster) current() *kafkago.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.transport
}

// transportFor returns the transport for a kind of request.
func (c *Cluster) transportFor(key protocol.ApiKey) *kafkago.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	if key == protocol.Produce && c.producing != nil {
		return c.producing
	}
	return c.transport
}

// separateProducing gives produce requests separate connections from now on.
func (c *Cluster) separateProducing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producing == nil {
		c.producing = c.newTransport()
		c.transport.CloseIdleConnections()
	}
}

// RoundTrip sends one request and waits for its answer for at most the request timeout, which
// begins when the brokers no longer throttle the client. It returns a *NoRequestError if they do
// not know the request. Errors inside the answer are the caller's to look at.
func (c *Cluster) RoundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // the transport itself would still send on a connection that is free
	}
	key := req.ApiKey()
	if _, cached := req.(*metadata.Request); !cached {
		if err := c.awaitQuota(ctx, quotaOf(key)); err != nil {
			return nil, err
		}
		if err := c.Offers(ctx, key); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.RequestTimeout)
	defer cancel()
	return c.transportFor(key).RoundTrip(ctx, c.addr, req)
}

// Locate returns the layout of the topics from the transport's cache, which is at most seconds old,
// and reads the limits that are missing or older than limitsSince.
func (c *Cluster) Locate(ctx context.Context, topics []string, limitsSince time.Time) (*Layout, error) {
	answer, err := c.Describe(ctx, topics)
	if err != nil {
		return nil, err
	}
	l := &Layout{Topics: make(map[string]TopicLayout, len(answer.Topics))}
	var usable []string
	for _, t := range answer.Topics {
		tl := TopicLayout{Leaders: make([]int32, len(t.Partitions))}
		if t.ErrorCode != 0 {
			tl.Err = kafkago.Error(t.ErrorCode)
		} else if len(t.Partitions) > 0 {
			usable = append(usable, t.Name)
		}
		for i := range tl.Leaders {
			tl.Leaders[i] = -1
		}
		for _, p := range t.Partitions {
			if p.ErrorCode != int16(kafkago.LeaderNotAvailable) && int(p.PartitionIndex) < len(tl.Leaders) {
				tl.Leaders[p.PartitionIndex] = p.LeaderID
			}
		}
		l.Topics[t.Name] = tl
	}
	limits, err := c.readLimits(ctx, usable, limitsSince)
	if err != nil {
		return nil, err
	}
	for name, lim := range limits {
		tl := l.Topics[name]
		tl.Limit = lim
		l.Topics[name] = tl
	}
	return l, nil
}

// Describe returns the metadata of the topics, in their order. No partition in it has a negative
// number.
func (c *Cluster) Describe(ctx context.Context, topics []string) (*metadata.Response, error) {
	c.Watch(topics)
	res, err := c.RoundTrip(ctx, &metadata.Request{TopicNames: append([]string{}, topics...)}) // nil would ask for every topic
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for its topics: %w", err)
	}
	return res.(*metadata.Response), nil
}

func (c *Cluster) readLimits(ctx context.Context, topics []string, since time.Time) (map[string]Limit, error) {
	limits := make(map[string]Limit, len(topics))
	var missing []string
	c.mu.Lock()
	for _, t := range topics {
		if lim, ok := c.limits[t]; ok && !lim.At.Before(since) {
			limits[t] = lim
			continue
		}
		missing = append(missing, t)
	}
	c.mu.Unlock()
	if len(missing) == 0 {
		return limits, nil
	}
	settings, err := c.Settings(ctx, missing, maxMessageBytes)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range missing {
		lim := Limit{Bytes: DefaultMessageBytes, At: time.Now()}
		value, shown := settings[t].Values[maxMessageBytes]
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			lim.Bytes, lim.Known = n, true
		} else if lim.Err = settings[t].Err; !shown && lim.Err == nil {
			lim.Err = NotShown(maxMessageBytes)
		}
		c.limits[t], limits[t] = lim, lim
	}
	return limits, nil
}

const maxMessageBytes = "max.message.bytes"

// NotShown is the error of a setting that an answer to DescribeConfigs leaves out, although it was
// asked for.
func NotShown(setting string) error {
	return fmt.Errorf("the answer to DescribeConfigs leaves out %s", setting)
}

// ForgetLimit makes the next Locate read the topic's limit again.
func (c *Cluster) ForgetLimit(topic string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.limits, topic)
}

// TopicSettings holds the settings of a topic that are in effect, or why they cannot be read.
type TopicSettings struct {
	Values map[string]string
	Err    error
}

const (
	// ResourceTypeTopic marks a topic in requests about settings.
	ResourceTypeTopic = 2 // https://kafka.apache.org/protocol: the resource types of DescribeConfigs

	// settingsForget is when a cluster that does not answer is asked for settings again.
	settingsForget = 10 * time.Minute
)

// Settings reads the named settings of topics. Each topic has its own error; a missing permission
// is the usual one. A cluster that does not answer this request although it answers others is one
// whose settings cannot be read.
func (c *Cluster) Settings(ctx context.Context, topics []string, names ...string) (map[string]TopicSettings, error) {
	if err := c.noSettings(); err != nil {
		return unread(topics, err), nil
	}
	req := &describeconfigs.Request{}
	for _, t := range topics {
		req.Resources = append(req.Resources, describeconfigs.RequestResource{ResourceType: ResourceTypeTopic, ResourceName: t, ConfigNames: names})
	}
	res, err := c.AskOrMissing(ctx, req)
	if IsSilence(err) && IsNoRequest(err) {
		c.setNoSettings(err)
	}
	if IsNoRequest(err) {
		return unread(topics, err), nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for topic settings: %w", err)
	}
	found := unread(topics, errors.New("the answer to DescribeConfigs leaves the topic out"))
	for _, r := range res.(*describeconfigs.Response).Resources {
		ts := TopicSettings{Values: make(map[string]string, len(r.ConfigEntries))}
		if r.ErrorCode != 0 {
			ts.Err = BrokerError(r.ErrorCode, r.ErrorMessage)
		}
		for _, e := range r.ConfigEntries {
			ts.Values[e.ConfigName] = e.ConfigValue
		}
		found[r.ResourceName] = ts
	}
	return found, nil
}

func unread(topics []string, err error) map[string]TopicSettings {
	found := make(map[string]TopicSettings, len(topics))
	for _, t := range topics {
		found[t] = TopicSettings{Err: err}
	}
	return found
}

// noSettings returns why the cluster shows no settings of topics, nil if it may.
func (c *Cluster) noSettings() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().After(c.settingsUntil) {
		return nil
	}
	return c.settingsErr
}

func (c *Cluster) setNoSettings(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settingsErr, c.settingsUntil = err, time.Now().Add(settingsForget)
}

// BrokerError is an error code of the protocol with the broker's own words, if it has any.
func BrokerError(code int16, message string) error {
	err := kafkago.Error(code)
	if message == "" {
		return err
	}
	return fmt.Errorf("%w (the broker says: %s)", err, printable.Text(message))
}
