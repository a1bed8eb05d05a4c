package kafka

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
	// defaultMessageBytes is max.message.bytes if neither topic nor broker sets it; what is
	// assumed where relay may not read it.
	defaultMessageBytes = 1<<20 + 12
	// maxMessageBytes is the largest message that is sent at all: brokers drop a connection at
	// socket.request.max.bytes, 100 MiB unless set otherwise, without an answer that names the
	// message.
	maxMessageBytes = 64 << 20

	dialTimeout = 3 * time.Second // of one address; TLS and SASL come on top, all within request_timeout
	idleTimeout = 3 * time.Minute // shorter than what common load balancers and the brokers (10 min) allow
)

// ownRequests marks the requests that this package writes in its own form and not in kafka-go's.
const ownRequests protocol.OverrideTypeKey = 1

func init() {
	protocol.RegisterOverride(&initProducer{}, &initproducerid.Response{}, ownRequests)
	protocol.RegisterOverride(&listOffsets{}, &listoffsets.Response{}, ownRequests)
	protocol.RegisterOverride(&addPartitions{}, &addpartitionstotxn.Response{}, ownRequests)
	protocol.RegisterOverride(&endTransaction{}, &endtxn.Response{}, ownRequests)
}

// cluster is the connection to the brokers: routing by kafka-go's Transport, and what is known of
// the topics. It is safe for concurrent use.
type cluster struct {
	brokers        []string
	addr           net.Addr
	clientID       string
	requestTimeout time.Duration
	tls            *tlsconf.Live // nil without TLS
	sasl           sasl.Mechanism
	lifetime       context.Context // of the transport's own goroutines

	mu        sync.Mutex // guards what follows
	transport *kafkago.Transport
	// producing is another transport for produce requests, from the first time that a broker
	// throttles them: it then reads nothing more from the connection for a while, which must not
	// hold up anything else. nil before that.
	producing *kafkago.Transport
	watched   []string // topics in the transports' metadata, sorted
	limits    map[string]limit
	// topicIDsKnown is whether the brokers tell the ids of topics; nil before they were asked.
	topicIDsKnown *bool
	requests      map[protocol.ApiKey]versions // that the brokers know; nil until one has said so
	answered      map[string]bool              // addresses from which an answer has come
	answers       int
	muted         [3]time.Time // by quota: until when brokers read no request

	settingsErr   error     // why the cluster does not show the settings of topics
	settingsUntil time.Time // until when that is believed
}

// limit is a topic's max.message.bytes as it was read at some time.
type limit struct {
	bytes int
	known bool // false: relay may not read it, and bytes is Kafka's default
	at    time.Time
}

// layout is where the topics' partitions were, once.
type layout struct{ topics map[string]topicLayout }

type topicLayout struct {
	err     error   // why the topic cannot be used, nil if it can
	leaders []int32 // broker id by partition; -1 if there is none
	limit   limit
}

func newCluster(lifetime context.Context, cfg Config, files *tlsconf.Live, mechanism sasl.Mechanism) *cluster {
	c := &cluster{
		brokers:        cfg.Brokers,
		addr:           kafkago.TCP(cfg.Brokers...),
		clientID:       cfg.ClientID,
		requestTimeout: cfg.RequestTimeout,
		tls:            files,
		sasl:           mechanism,
		lifetime:       lifetime,
		watched:        []string{}, // nil would ask for every topic of the cluster
		limits:         make(map[string]limit),
		answered:       make(map[string]bool),
	}
	c.transport = c.newTransport()
	return c
}

func (c *cluster) newTransport() *kafkago.Transport {
	return &kafkago.Transport{
		Dial:           c.dial,
		DialTimeout:    c.requestTimeout,
		IdleTimeout:    idleTimeout,
		MetadataTopics: c.watched,
		ClientID:       c.clientID,
		SASL:           c.sasl,
		Context:        c.lifetime,
	}
}

// watch makes the topics part of the metadata. A transport's topics are fixed, so new ones bring a
// new transport; requests under way end on the old one.
func (c *cluster) watch(topics []string) {
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

// refresh drops connections and cached metadata, so that the next request learns the present
// leaders.
func (c *cluster) refresh() {
	c.mu.Lock()
	producing := c.producing
	c.mu.Unlock()
	c.current().CloseIdleConnections()
	if producing != nil {
		producing.CloseIdleConnections()
	}
}

func (c *cluster) current() *kafkago.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.transport
}

// transportFor returns the transport for a kind of request.
func (c *cluster) transportFor(key protocol.ApiKey) *kafkago.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	if key == protocol.Produce && c.producing != nil {
		return c.producing
	}
	return c.transport
}

// separateProducing gives produce requests connections of their own from now on.
func (c *cluster) separateProducing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producing == nil {
		c.producing = c.newTransport()
		c.transport.CloseIdleConnections()
	}
}

// roundTrip sends one request and waits for its answer for at most the request timeout, which
// begins when the brokers no longer throttle relay. It returns an *errNoRequest if they do not know
// the request. Errors inside the answer are the caller's to look at.
func (c *cluster) roundTrip(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // the transport itself would still send on a connection that is free
	}
	key := req.ApiKey()
	if _, cached := req.(*metadata.Request); !cached {
		if err := c.awaitQuota(ctx, quotaOf(key)); err != nil {
			return nil, err
		}
		if err := c.offers(ctx, key); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	return c.transportFor(key).RoundTrip(ctx, c.addr, req)
}

// locate returns the layout of the topics from the transport's cache, which is at most seconds old,
// and reads the limits that are missing or older than limitsSince.
func (c *cluster) locate(ctx context.Context, topics []string, limitsSince time.Time) (*layout, error) {
	answer, err := c.describe(ctx, topics)
	if err != nil {
		return nil, err
	}
	l := &layout{topics: make(map[string]topicLayout, len(answer.Topics))}
	var usable []string
	for _, t := range answer.Topics {
		tl := topicLayout{leaders: make([]int32, len(t.Partitions))}
		if t.ErrorCode != 0 {
			tl.err = kafkago.Error(t.ErrorCode)
		} else if len(t.Partitions) > 0 {
			usable = append(usable, t.Name)
		}
		for i := range tl.leaders {
			tl.leaders[i] = -1
		}
		for _, p := range t.Partitions {
			if p.ErrorCode != int16(kafkago.LeaderNotAvailable) && int(p.PartitionIndex) < len(tl.leaders) {
				tl.leaders[p.PartitionIndex] = p.LeaderID
			}
		}
		l.topics[t.Name] = tl
	}
	limits, err := c.readLimits(ctx, usable, limitsSince)
	if err != nil {
		return nil, err
	}
	for name, lim := range limits {
		tl := l.topics[name]
		tl.limit = lim
		l.topics[name] = tl
	}
	return l, nil
}

// describe returns the metadata of the topics, in their order. No partition in it has a negative
// number.
func (c *cluster) describe(ctx context.Context, topics []string) (*metadata.Response, error) {
	c.watch(topics)
	res, err := c.roundTrip(ctx, &metadata.Request{TopicNames: append([]string{}, topics...)}) // nil would ask for every topic
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for its topics: %w", err)
	}
	return res.(*metadata.Response), nil
}

func (c *cluster) readLimits(ctx context.Context, topics []string, since time.Time) (map[string]limit, error) {
	limits := make(map[string]limit, len(topics))
	var missing []string
	c.mu.Lock()
	for _, t := range topics {
		if lim, ok := c.limits[t]; ok && !lim.at.Before(since) {
			limits[t] = lim
			continue
		}
		missing = append(missing, t)
	}
	c.mu.Unlock()
	if len(missing) == 0 {
		return limits, nil
	}
	settings, err := c.settings(ctx, missing, "max.message.bytes")
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range missing {
		lim := limit{bytes: defaultMessageBytes, at: time.Now()}
		if n, err := strconv.Atoi(settings[t].values["max.message.bytes"]); err == nil && n > 0 {
			lim.bytes, lim.known = n, true
		}
		c.limits[t], limits[t] = lim, lim
	}
	return limits, nil
}

// forgetLimit makes the next locate read the topic's limit again.
func (c *cluster) forgetLimit(topic string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.limits, topic)
}

// topicSettings holds the settings of a topic that are in effect, or why they cannot be read.
type topicSettings struct {
	values map[string]string
	err    error
}

const (
	resourceTypeTopic = 2 // https://kafka.apache.org/protocol: the resource types of DescribeConfigs

	settingsTries  = 3                // until a cluster that does not answer is believed to have no settings to show
	settingsForget = 10 * time.Minute // until it is asked again
)

// settings reads the named settings of topics. Each topic has its own error; a missing permission
// is the usual one. A cluster that does not answer this request although it answers others is one
// whose settings cannot be read.
func (c *cluster) settings(ctx context.Context, topics []string, names ...string) (map[string]topicSettings, error) {
	if err := c.noSettings(); err != nil {
		return unread(topics, err), nil
	}
	req := &describeconfigs.Request{}
	for _, t := range topics {
		req.Resources = append(req.Resources, describeconfigs.RequestResource{ResourceType: resourceTypeTopic, ResourceName: t, ConfigNames: names})
	}
	res, err := c.roundTrip(ctx, req)
	for try := 1; err != nil && !isNoRequest(err) && ctx.Err() == nil && isSilence(err); try++ {
		c.refresh()
		if _, other := c.describe(ctx, topics); other != nil {
			return nil, fmt.Errorf("asking the cluster for topic settings: %w", err)
		}
		if try == settingsTries || errors.Is(err, context.DeadlineExceeded) {
			c.setNoSettings(fmt.Errorf("the cluster answers other requests, but not DescribeConfigs: %w", err))
			return unread(topics, c.noSettings()), nil
		}
		if !pause(ctx, retryDelay(try, 1)) {
			break
		}
		res, err = c.roundTrip(ctx, req)
	}
	if isNoRequest(err) {
		return unread(topics, err), nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for topic settings: %w", err)
	}
	found := make(map[string]topicSettings, len(topics))
	for _, r := range res.(*describeconfigs.Response).Resources {
		ts := topicSettings{values: make(map[string]string, len(r.ConfigEntries))}
		if r.ErrorCode != 0 {
			ts.err = brokerError(r.ErrorCode, r.ErrorMessage)
		}
		for _, e := range r.ConfigEntries {
			ts.values[e.ConfigName] = e.ConfigValue
		}
		found[r.ResourceName] = ts
	}
	return found, nil
}

func unread(topics []string, err error) map[string]topicSettings {
	found := make(map[string]topicSettings, len(topics))
	for _, t := range topics {
		found[t] = topicSettings{err: err}
	}
	return found
}

// noSettings returns why the cluster shows no settings of topics, nil if it may.
func (c *cluster) noSettings() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().After(c.settingsUntil) {
		return nil
	}
	return c.settingsErr
}

func (c *cluster) setNoSettings(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settingsErr, c.settingsUntil = err, time.Now().Add(settingsForget)
}

// isSilence reports whether err means that no answer came, although the request may have arrived.
func isSilence(err error) bool { return hungUp(err) || errors.Is(err, context.DeadlineExceeded) }

func isNoRequest(err error) bool {
	var missing *errNoRequest
	return errors.As(err, &missing)
}

// brokerError is an error code of the protocol with the broker's own words, if it has any.
func brokerError(code int16, message string) error {
	err := kafkago.Error(code)
	if message == "" {
		return err
	}
	return fmt.Errorf("%w (the broker says: %s)", err, printable.Text(message))
}
