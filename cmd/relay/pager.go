package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// paged calls write with a pager if standard output is a terminal, else with standard output. The
// pager is PAGER, by default less, which ends at once if the text fits on the screen (LESS=FRX, as
// git sets it). NO_PAGER, PAGER=cat and an empty PAGER mean none.
func (env *environment) paged(ctx context.Context, write func(io.Writer) error) error {
	command := env.pager()
	if command == "" {
		return write(env.stdout)
	}
	var text strings.Builder
	if err := write(&text); err != nil {
		return err
	}
	pager := exec.CommandContext(ctx, "/bin/sh", "-c", command) //nolint:gosec // the user's own choice
	pager.Stdin, pager.Stdout, pager.Stderr = strings.NewReader(text.String()), file(env.stdout), os.Stderr
	pager.Env = os.Environ()
	if _, set := env.lookupEnv("LESS"); !set {
		pager.Env = append(pager.Env, "LESS=FRX")
	}
	err := pager.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() != notStarted { // it has shown the text, or as much as was wanted
		return nil
	}
	if err != nil { // there is no such program
		_, err = io.WriteString(env.stdout, text.String())
	}
	if err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	return nil
}

// notStarted is the exit code of a shell that finds no such program.
const notStarted = 127

// pager returns the command of the pager; empty if there is to be none.
func (env *environment) pager() string {
	if runtime.GOOS == "windows" || !isTerminal(env.stdout) {
		return ""
	}
	if no, set := env.lookupEnv("NO_PAGER"); set && no != "" {
		return ""
	}
	command, set := env.lookupEnv("PAGER")
	switch {
	case !set:
		return "less"
	case command == "cat":
		return ""
	}
	return strings.TrimSpace(command)
}
