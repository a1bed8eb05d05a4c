// Command watermill is the relay that a team would write on Watermill in a day: it fetches a page
// after the cursor, publishes its events one after another, each acknowledged before the next, and
// saves the cursor after the page. The benchmark runs it as a rival.
//
// It is its own module, so that what it needs stays out of relay's.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wmnats "github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
)

type settings struct {
	endpoint, key string
	types         string
	natsURL       string
	stream        string
	brokers       string
	prefix        string
	cursorFile    string
}

func main() {
	var s settings
	flag.StringVar(&s.endpoint, "api", "", "address of the Events API")
	flag.StringVar(&s.key, "key", "", "its key")
	flag.StringVar(&s.types, "types", "", "event types, comma separated")
	flag.StringVar(&s.natsURL, "nats", "", "address of the NATS server")
	flag.StringVar(&s.stream, "stream", "WORKOS", "the stream, which is created")
	flag.StringVar(&s.brokers, "kafka", "", "brokers, comma separated, in place of -nats; topics are created")
	flag.StringVar(&s.prefix, "prefix", "", "of topics")
	flag.StringVar(&s.cursorFile, "cursor", "cursor", "file that keeps the cursor")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "watermill:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	open := openNATS
	if s.brokers != "" {
		open = openKafka
	}
	publisher, err := open(s)
	if err != nil {
		return err
	}
	defer func() { _ = publisher.Close() }()
	cursor, err := os.ReadFile(s.cursorFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	query := url.Values{"events": {s.types}, "limit": {"100"}, "order": {"asc"}}
	for after := string(cursor); ctx.Err() == nil; {
		if after != "" {
			query.Set("after", after)
		}
		p, err := fetch(ctx, s, query)
		if err != nil {
			return err
		}
		for _, raw := range p.Data {
			if err := publish(publisher, s.prefix, raw); err != nil {
				return err
			}
		}
		if len(p.Data) == 0 {
			<-ctx.Done() // what the benchmark has is carried
			return nil
		}
		if after, err = lastID(p); err != nil {
			return err
		}
		if err := save(s.cursorFile, after); err != nil {
			return err
		}
	}
	return nil
}

type page struct {
	Data []json.RawMessage `json:"data"`
}

type event struct {
	ID    string `json:"id"`
	Event string `json:"event"`
	Data  struct {
		OrganizationID string `json:"organization_id"`
		ID             string `json:"id"`
	} `json:"data"`
}

func fetch(ctx context.Context, s settings, query url.Values) (page, error) {
	var p page
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.endpoint+"/events?"+query.Encode(), nil)
	if err != nil {
		return p, err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return p, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return p, fmt.Errorf("the Events API answers %s", resp.Status)
	}
	return p, json.NewDecoder(resp.Body).Decode(&p)
}

// partitionKey is the metadata that holds the key of a message.
const partitionKey = "partition-key"

func publish(to message.Publisher, prefix string, raw json.RawMessage) error {
	var e event
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	m := message.NewMessage(e.ID, message.Payload(raw))
	m.Metadata.Set("event-type", e.Event)
	key := e.Data.OrganizationID
	if key == "" {
		key = e.Data.ID
	}
	m.Metadata.Set(partitionKey, key)
	const tries = 20
	for try := 1; ; try++ { // a topic that was just made may take a moment
		err := to.Publish(prefix+e.Event, m)
		if err == nil || try == tries {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func lastID(p page) (string, error) {
	var e event
	err := json.Unmarshal(p.Data[len(p.Data)-1], &e)
	return e.ID, err
}

func save(file, cursor string) error {
	if err := os.WriteFile(file+".tmp", []byte(cursor), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}

func openNATS(s settings) (message.Publisher, error) {
	patient := nats.Timeout(time.Minute) // a server may be busy that was just started
	nc, err := nats.Connect(s.natsURL, patient)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := nc.JetStream(nats.MaxWait(time.Minute))
	if err != nil {
		return nil, err
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: s.stream, Subjects: topics(s)}); err != nil {
		return nil, err
	}
	return wmnats.NewPublisher(wmnats.PublisherConfig{URL: s.natsURL, NatsOptions: []nats.Option{patient}, JetStream: wmnats.JetStreamConfig{TrackMsgId: true}}, watermill.NopLogger{})
}

func openKafka(s settings) (message.Publisher, error) {
	brokers := strings.Split(s.brokers, ",")
	conf := kafka.DefaultSaramaSyncPublisherConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Producer.RequiredAcks = sarama.WaitForAll
	admin, err := sarama.NewClusterAdmin(brokers, conf)
	if err != nil {
		return nil, err
	}
	defer func() { _ = admin.Close() }()
	for _, topic := range topics(s) {
		if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 6, ReplicationFactor: 1}, false); err != nil {
			return nil, err
		}
	}
	return kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:               brokers,
		OverwriteSaramaConfig: conf,
		Marshaler: kafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) {
			return m.Metadata.Get(partitionKey), nil
		}),
	}, watermill.NopLogger{})
}

func topics(s settings) []string {
	names := strings.Split(s.types, ",")
	for i := range names {
		names[i] = s.prefix + names[i]
	}
	return names
}
