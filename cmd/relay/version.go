package main

import (
	"fmt"
	"runtime"

	"workos-relay/internal/buildinfo"
)

type versionCmd struct{}

// Run prints the version.
func (*versionCmd) Run(env *environment) error {
	_, err := fmt.Fprintf(env.stdout, "relay %s (%s %s/%s)\n", buildinfo.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
