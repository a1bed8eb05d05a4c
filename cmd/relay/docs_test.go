package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// declaredTests are the tests and fuzz tests of each package, by its directory.
func declaredTests(t *testing.T) map[string][]string {
	t.Helper()
	const root = "../.."
	declared := map[string][]string{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && path != root && entry.IsDir() && (entry.Name()[0] == '.' || entry.Name() == "node_modules") {
			return filepath.SkipDir // git and npm make folders and remove them again
		}
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(root, filepath.Dir(path))
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			declared[filepath.ToSlash(pkg)] = append(declared[filepath.ToSlash(pkg)], string(m[1]))
		}
		return err
	}))
	return declared
}

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`^(Test|Fuzz)[A-Z]\w*$`)
)

// namedTests returns the tests that a text names. A package named before them is theirs, up to the
// next; else it is this one.
func namedTests(text string, declared map[string][]string) (names, missing []string) {
	pkg := "cmd/relay"
	for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
		switch {
		case declared[m[1]] != nil:
			pkg = m[1]
		case testName.MatchString(m[1]):
			names = append(names, m[1])
			if !slices.Contains(declared[pkg], m[1]) {
				missing = append(missing, pkg+" "+m[1])
			}
		}
	}
	return names, missing
}

// TestTheDocsNameTestsThatExist: a promise that names a test which is not there is no promise.
func TestTheDocsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	declared := declaredTests(t)
	anywhere := map[string]bool{}
	for _, names := range declared {
		for _, name := range names {
			anywhere[name] = true
		}
	}
	named := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			for _, cell := range strings.Split(line, "|") {
				names, missing := namedTests(cell, declared)
				if !strings.HasPrefix(line, "|") { // the package may stand anywhere in a text
					missing = slices.DeleteFunc(missing, func(name string) bool { return anywhere[name[strings.LastIndexByte(name, ' ')+1:]] })
				}
				require.Empty(t, missing, "%s names tests that do not exist in the package named before them, or in cmd/relay: %s", page, line)
				named += len(names)
			}
		}
	}
	require.Greater(t, named, 40)
}

// TestEachPromiseNamesItsTest: every row of a table with a column "shown by" names a test there.
func TestEachPromiseNamesItsTest(t *testing.T) {
	t.Parallel()
	declared := declaredTests(t)
	promises := 0
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		column := -1
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "|") {
				column = -1
				continue
			}
			cells := strings.Split(strings.ReplaceAll(line, `\|`, ""), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			switch {
			case slices.Contains(cells, "shown by"):
				column = slices.Index(cells, "shown by")
			case column < 0 || strings.HasPrefix(line, "|---"):
			default:
				promises++
				names, _ := namedTests(cells[column], declared)
				require.NotEmpty(t, names, "%s: no test is named for: %s", page, cells[1])
			}
		}
	}
	require.Greater(t, promises, 30)
}
