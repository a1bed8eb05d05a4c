package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// retryAfter is for what may go better later.
const retryAfter = 5 * time.Second

// consumeNATS reads by a durable pull consumer and acknowledges each message after it has been
// handled.
func consumeNATS(ctx context.Context, l *resultLog) error {
	ackWait, err := time.ParseDuration(env("ACK_WAIT", "30") + "s")
	if err != nil {
		return err
	}
	nc, err := nats.Connect(env("NATS_URL", nats.DefaultURL), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, env("STREAM", "WORKOS"), jetstream.ConsumerConfig{
		Durable:       env("CONSUMER", "example-go"),      // the position is kept on the server under this name
		FilterSubject: env("TOPIC", "dsync.user.created"), // without one the messages with relay's own position come, too
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait, // longer than handling takes, or call msg.InProgress meanwhile
		MaxAckPending: 1,       // keeps the order when a message is delivered again; more where order does not matter
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		switch {
		case errors.Is(err, jetstream.ErrMsgIteratorClosed): // stopped
			return nil
		case errors.Is(err, jetstream.ErrNoHeartbeat): // the connection is down: it comes back by itself
			continue
		case err != nil:
			return err
		}
		if err := l.handle(msg.Headers().Get("event-id"), msg.Data()); err != nil {
			log.Printf("trying again in %s: %v", retryAfter, err)
			if err := msg.NakWithDelay(retryAfter); err != nil {
				return fmt.Errorf("asking for the message again: %w", err)
			}
			continue
		}
		if err := confirm(ctx, msg); err != nil { // it comes again, and is known by its id
			log.Printf("not confirmed: %v", err)
		}
	}
}

// confirm acknowledges msg and waits until the server knows, through a stop as well.
func confirm(ctx context.Context, msg jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return msg.DoubleAck(ctx)
}
