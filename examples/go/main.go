// Command go is an example of a service that consumes one topic of relay:  go run ./examples/go
// nats|kafka.
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
	consumers := map[string]func(context.Context, *resultLog) error{"nats": consumeNATS, "kafka": consumeKafka}
	if len(os.Args) != 2 || consumers[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: go run ./examples/go nats|kafka")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	l, err := openResultLog(env("DATA", "data"))
	if err == nil {
		err = consumers[os.Args[1]](ctx, l)
	}
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func env(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }
