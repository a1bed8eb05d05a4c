// Package buildinfo knows what this binary was built from.
package buildinfo

import "runtime/debug"

// release is set for a release by -ldflags "-X workos-relay/internal/buildinfo.release=v1.2.3".
var release string

// Version returns the release, or the commit that the binary was built from if it is not a release.
func Version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel-" + revision + dirty
}
