package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTheDocsNameTestsThatExist: a promise that names a test which is not there is no promise.
func TestTheDocsNameTestsThatExist(t *testing.T) {
	root := "../.."
	declared := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			declared[string(m[1])] = true
		}
		return err
	}))
	pages, err := filepath.Glob(root + "/docs/*.md")
	require.NoError(t, err)
	named := 0
	for _, page := range append(pages, root+"/README.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(text, -1) {
			named++
			require.True(t, declared[string(m[1])], "%s names %s, which does not exist", page, m[1])
		}
	}
	require.Positive(t, named)
}
