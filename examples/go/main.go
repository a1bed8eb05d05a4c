// Command go is an example of a service that consumes one topic of relay, or follows the state of
// one entity:
//
//	go run ./examples/go nats|kafka|state-nats|state-kafka
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	programs := map[string]func(context.Context) error{
		"nats": handling(consumeNATS), "kafka": handling(consumeKafka), "state-nats": followNATS, "state-kafka": followKafka,
	}
	if len(os.Args) != 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: go run ./examples/go nats|kafka|state-nats|state-kafka")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := programs[os.Args[1]](ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

// handling is a consumer that keeps its results in the directory DATA.
func handling(consume func(context.Context, *resultLog) error) func(context.Context) error {
	return func(ctx context.Context) error {
		l, err := openResultLog(env("DATA", "data"))
		if err != nil {
			return err
		}
		return consume(ctx, l)
	}
}

func env(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }
