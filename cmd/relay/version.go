package main

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/alecthomas/kong"

	"workos-relay/internal/buildinfo"
)

type versionCmd struct{}

// Run prints the version.
func (*versionCmd) Run(env *environment) error {
	_, err := fmt.Fprintln(env.stdout, versionText())
	return err
}

func versionText() string {
	return strings.Join([]string{"relay", buildinfo.Version(), "(" + runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH + ")"}, " ")
}

// versionFlag prints the version and ends the command.
type versionFlag bool

// BeforeReset implements a hook of kong.
func (versionFlag) BeforeReset(app *kong.Kong) error {
	_, err := fmt.Fprintln(app.Stdout, versionText())
	app.Exit(exitDone)
	return err
}
