package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"workos-relay/internal/licenses"
)

// TestEveryWayToBuildAReleaseHasTheSameFlags: or what people build themselves would differ from
// what they were given.
func TestEveryWayToBuildAReleaseHasTheSameFlags(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../../.ci/build")
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^(CGO_ENABLED=0) go build (.+) -ldflags "(.+) -X workos-relay/internal/buildinfo.release=\$1" -o`).FindStringSubmatch(string(script))
	require.NotNil(t, line, "the command of .ci/build")

	text, err := os.ReadFile("../../.goreleaser.yaml")
	require.NoError(t, err)
	type file struct{ Src string }
	var release struct {
		Builds []struct {
			Env, Flags, LDFlags, Goos, Goarch []string
		}
		Archives []struct{ Files []file }
		NFPMs    []struct{ Contents []file } `yaml:"nfpms"`
	}
	require.NoError(t, yaml.Load(text, &release))
	require.Len(t, release.Builds, 1)
	b := release.Builds[0]
	require.Equal(t, []string{line[1]}, b.Env)
	require.Equal(t, strings.Fields(line[2]), b.Flags)
	require.Equal(t, []string{line[3] + " -X workos-relay/internal/buildinfo.release=v{{ .Version }}"}, b.LDFlags)
	var platforms []string
	for _, system := range b.Goos {
		for _, arch := range b.Goarch {
			platforms = append(platforms, system+"/"+arch)
		}
	}
	require.ElementsMatch(t, licenses.Platforms, platforms, "the licences are those of what is released")

	for _, f := range append(release.Archives[0].Files, release.NFPMs[0].Contents...) {
		if f.Src == "" || f.Src == ".cache/THIRD_PARTY_LICENSES" { // a directory; what the release makes itself
			continue
		}
		found, err := filepath.Glob(filepath.Join("../..", f.Src))
		require.NoError(t, err)
		require.NotEmpty(t, found, "%s goes into a release and is not there", f.Src)
	}

	image, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	require.Contains(t, string(image), `.ci/build "${VERSION}"`)
	require.NotContains(t, string(image), "go build")
}
