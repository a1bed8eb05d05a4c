package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
)

// The buses that relay init writes a configuration for.
const (
	busKafka    = "kafka"
	busNATS     = "nats"
	busEmbedded = "embedded"
)

// buses are what --bus may be, each with the address that is written if none is given.
var buses = map[string]string{busKafka: "localhost:9092", busNATS: "nats://127.0.0.1:4222", busEmbedded: "127.0.0.1:4222"}

type initCmd struct {
	Bus     string `help:"kafka, nats, or embedded: a NATS JetStream server inside relay. Asked for on a terminal." placeholder:"BUS" predictor:"bus"`
	Address string `help:"Address of the bus: host:port of a broker, nats://host:port, or where the embedded server listens." placeholder:"ADDRESS"`
}

// Run writes a configuration, and for an embedded server a token, to new files that only their
// owner can read. It shows the token once.
func (c *initCmd) Run(env *environment) error {
	path := env.cli.Config
	if path == "" {
		path = impliedConfig
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := vacant(path); err != nil {
		return err
	}
	if c.Bus == "" {
		if c.Bus, err = askForBus(os.Stdin, env.stdout); err != nil {
			return err
		}
	}
	implied, known := buses[c.Bus]
	if !known {
		return app.Usage(fmt.Errorf("--bus: %q is none of kafka, nats, embedded", c.Bus))
	}
	if c.Address == "" {
		c.Address = implied
	}
	if c.Bus != busEmbedded {
		if err := c.write(env, path, ""); err != nil {
			return err
		}
		return c.say(env.stdout, path, "", "")
	}
	tokenFile := strings.TrimSuffix(path, filepath.Ext(path)) + ".nats-token"
	token := rand.Text()
	if err := writeNew(tokenFile, token+"\n"); err != nil {
		return err
	}
	if err := c.write(env, path, tokenFile); err != nil {
		return errors.Join(err, os.Remove(tokenFile))
	}
	return c.say(env.stdout, path, tokenFile, token)
}

// vacant returns an error if something is at path, also if it is a link to nothing.
func vacant(path string) error {
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return app.Usage(fmt.Errorf("init: looking whether %s exists: %w", path, err))
	default:
		return app.Usage(fmt.Errorf("init: %s exists already, and relay init overwrites nothing: name another file with --config", path))
	}
}

// write writes the configuration to path, once relay itself has read it without a fault.
func (c *initCmd) write(env *environment, path, tokenFile string) error {
	text := c.text(tokenFile)
	if _, err := env.format.Parse(path, []byte(text), env.keyOptional); err != nil {
		var faults *config.Error
		if errors.As(err, &faults) {
			return app.Usage(fmt.Errorf("init: --address or --bus: %w", err))
		}
		return fmt.Errorf("init: %w", err)
	}
	return writeNew(path, text)
}

// writeNew writes a file that only its owner can read. It neither replaces a file nor follows a
// link.
func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator names it
	switch {
	case errors.Is(err, fs.ErrExist):
		return vacant(path)
	case err != nil:
		return app.Usage(fmt.Errorf("init: %w", err))
	}
	_, err = file.WriteString(text)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(fmt.Errorf("init: writing %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// askForBus asks on a terminal which bus it is to be.
func askForBus(in *os.File, out io.Writer) (string, error) {
	if !term.IsTerminal(int(in.Fd())) { //nolint:gosec // a file descriptor fits
		return "", app.Usage(errors.New("init: say which bus relay is to feed: --bus kafka, --bus nats or --bus embedded"))
	}
	const most = 3
	lines := bufio.NewScanner(in)
	for range most {
		fmt.Fprint(out, "Which bus is relay to feed: kafka, nats, or embedded (a NATS JetStream server inside relay)? ")
		if !lines.Scan() {
			break
		}
		bus := strings.ToLower(strings.TrimSpace(lines.Text()))
		if _, known := buses[bus]; known {
			return bus, nil
		}
	}
	return "", app.Usage(errors.New("init: no bus was chosen: kafka, nats or embedded"))
}
