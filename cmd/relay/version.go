package main

import (
	"fmt"
	"runtime"

	"workos-relay/internal/buildinfo"
)

type versionCmd struct{}

// Run prints the version.
func (*versionCmd) Run(a *app) error {
	_, err := fmt.Fprintf(a.stdout, "relay %s (%s %s/%s)\n", buildinfo.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
