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
	"slices"
	"strings"

	"golang.org/x/term"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/sink"
)

// starters returns the sinks that --bus may choose, sorted by name, those with a server inside
// relay last.
func starters(kinds []*sink.Kind) []sink.Starter {
	var all []sink.Starter
	for _, k := range kinds {
		all = append(all, k.Starters...)
	}
	slices.SortFunc(all, func(a, b sink.Starter) int {
		if inside := a.TokenFile != ""; inside != (b.TokenFile != "") {
			if inside {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// starterNames returns the words that choose among starters.
func starterNames(all []sink.Starter) []string {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	return names
}

// either joins words by commas, but the last one by last.
func either(words []string, last string) string {
	n := len(words) - 1
	if n < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:n], ", ") + last + words[n]
}

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
	all := starters(env.format.Kinds())
	if c.Bus == "" {
		if c.Bus, err = askForBus(all, os.Stdin, env.stdout); err != nil {
			return err
		}
	}
	i := slices.Index(starterNames(all), c.Bus)
	if i < 0 {
		return app.Usage(fmt.Errorf("--bus: %q is none of %s", c.Bus, strings.Join(starterNames(all), ", ")))
	}
	starter := &all[i]
	if c.Address == "" {
		c.Address = starter.Address
	}
	if starter.TokenFile == "" {
		if err := c.write(env, starter, path, ""); err != nil {
			return err
		}
		return c.say(env.stdout, starter, path, "", "")
	}
	tokenFile := strings.TrimSuffix(path, filepath.Ext(path)) + starter.TokenFile
	token := rand.Text()
	if err := writeNew(tokenFile, token+"\n"); err != nil {
		return err
	}
	if err := c.write(env, starter, path, tokenFile); err != nil {
		return errors.Join(err, os.Remove(tokenFile))
	}
	return c.say(env.stdout, starter, path, tokenFile, token)
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
func (c *initCmd) write(env *environment, starter *sink.Starter, path, tokenFile string) error {
	text := c.text(starter, tokenFile)
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

// askForBus asks on a terminal which of these it is to be, and returns its name.
func askForBus(all []sink.Starter, in *os.File, out io.Writer) (string, error) {
	var flags, choices []string
	for i := range all {
		choice := all[i].Name
		if all[i].About != "" {
			choice += " (" + all[i].About + ")"
		}
		flags, choices = append(flags, "--bus "+all[i].Name), append(choices, choice)
	}
	if !term.IsTerminal(int(in.Fd())) { //nolint:gosec // a file descriptor fits
		return "", app.Usage(errors.New("init: say which bus relay is to feed: " + either(flags, " or ")))
	}
	const most = 3
	lines := bufio.NewScanner(in)
	for range most {
		fmt.Fprintf(out, "Which bus is relay to feed: %s? ", either(choices, ", or "))
		if !lines.Scan() {
			break
		}
		bus := strings.ToLower(strings.TrimSpace(lines.Text()))
		if slices.Contains(starterNames(all), bus) {
			return bus, nil
		}
	}
	return "", app.Usage(errors.New("init: no bus was chosen: " + either(starterNames(all), " or ")))
}
