package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"workos-relay/internal/app"
	"workos-relay/internal/manual"
)

type helpCmd struct {
	Topic   string   `arg:"" optional:"" help:"A page of the manual, such as guarantees, or a command. Default: a list of them." predictor:"topic"`
	Message []string `arg:"" optional:"" help:"With troubleshoot: what relay said, or its code; - reads standard input."`
}

// Run prints a page of the manual, what it says of a message, or the help of a command.
func (c *helpCmd) Run(ctx context.Context, env *environment, k *kong.Context) error {
	if c.Topic == "" {
		return env.paged(ctx, listTopics)
	}
	if len(c.Message) > 0 {
		if c.Topic != "troubleshoot" {
			return app.Usage(errors.New("only `relay help troubleshoot` takes a message"))
		}
		return env.paged(ctx, func(out io.Writer) error { return printAdvice(out, strings.Join(c.Message, " ")) })
	}
	if page, ok := manual.Page(c.Topic); ok {
		return env.paged(ctx, func(out io.Writer) error {
			_, err := io.WriteString(out, manual.Plain(page))
			return err
		})
	}
	for _, node := range k.Model.Leaves(true) {
		if name := strings.TrimPrefix(node.Path(), k.Model.Name+" "); name == c.Topic || strings.HasPrefix(name, c.Topic+" ") {
			traced, err := kong.Trace(k.Kong, strings.Fields(c.Topic))
			if err != nil {
				return err
			}
			return traced.PrintUsage(false)
		}
	}
	return app.Usage(fmt.Errorf("help: there is no topic %q; `relay help` lists them", c.Topic))
}

// usages are the lines of usage that kong writes and that hide a part of what is needed, and what
// stands there instead.
var usages = strings.NewReplacer(
	"relay verify --since=TIME --until=TIME [flags]", "relay verify (--since=TIME --until=TIME | --state) [flags]",
)

// printHelp is kong.DefaultHelpPrinter with the lines of usages.
func printHelp(options kong.HelpOptions, c *kong.Context) error {
	out := c.Stdout
	var text bytes.Buffer
	c.Stdout = &text
	err := kong.DefaultHelpPrinter(options, c)
	c.Stdout = out
	if err != nil {
		return err
	}
	_, err = usages.WriteString(out, text.String())
	return err
}

func listTopics(out io.Writer) error {
	fmt.Fprintln(out, "relay help TOPIC prints a page, relay help troubleshoot \"MESSAGE\" what to do about a message, relay COMMAND --help a command's flags.")
	fmt.Fprintln(out)
	for _, t := range manual.Topics() {
		if _, err := fmt.Fprintf(out, "  %-16s %s\n", t.Name, t.Title); err != nil {
			return err
		}
	}
	return nil
}

// errNothingFound is the error of help if the manual says nothing about a message.
var errNothingFound = errors.New("help: the manual says nothing of this message; `relay help troubleshoot` prints the whole page")

const (
	// mostEntries is how many entries of the manual are printed for the codes in a text, and
	// mostTitles how many more are named.
	mostEntries = 3
	mostTitles  = 4
	// longestPasted bounds what is read from standard input, in bytes.
	longestPasted = 64 << 10
)

// printAdvice prints what the manual says about a text. A text "-" stands for standard input.
func printAdvice(out io.Writer, text string) error {
	if text == "-" {
		pasted, err := io.ReadAll(io.LimitReader(os.Stdin, longestPasted))
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		text = string(pasted)
	}
	entries := manual.Explain(text)
	switch {
	case len(entries) == 0 && manual.IsCode(text):
		return fmt.Errorf("help: no message has the code %s in this version of relay; `relay help troubleshoot` prints the whole page", strings.TrimSpace(text))
	case len(entries) == 0:
		return errNothingFound
	}
	shown := 1
	for shown < min(len(entries), mostEntries) && strings.Contains(text, entries[shown].Code) {
		shown++
	}
	for i, e := range entries[:shown] {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if _, err := fmt.Fprintf(out, "%s %s (%s)\n\n%s", e.Code, e.Title, e.Area, manual.Plain(e.Advice+"\n")); err != nil {
			return err
		}
	}
	if rest := entries[shown:]; len(rest) > 0 {
		fmt.Fprintln(out, "\nIf that is not it, run relay help troubleshoot with one of these codes:")
		for _, e := range rest[:min(len(rest), mostTitles)] {
			if _, err := fmt.Fprintf(out, "  %s %s (%s)\n", e.Code, e.Title, e.Area); err != nil {
				return err
			}
		}
	}
	return nil
}
