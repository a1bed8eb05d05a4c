package manual

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// goFiles returns the Go files of the repository by their path in it.
func goFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	root := os.DirFS("../..")
	require.NoError(t, fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name != "." && strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return fs.SkipDir
		case !entry.IsDir() && filepath.Ext(name) == ".go":
			text, err := fs.ReadFile(root, name)
			files[name] = string(text)
			return err
		}
		return nil
	}))
	require.Greater(t, len(files), 300)
	return files
}

// TestEveryPromiseIsKeptAndShown compares the promises of docs/guarantees.md with the lines that
// cite them: each must be cited by the code that keeps it and by a test, and nothing may cite a
// promise that is not there.
func TestEveryPromiseIsKeptAndShown(t *testing.T) {
	page, ok := Page("guarantees")
	require.True(t, ok)
	promised := []string{}
	for i, m := range regexp.MustCompile(`(?m)^\| (P[0-9]+) \| .+ \|$`).FindAllStringSubmatch(page, -1) {
		require.Equal(t, "P"+strconv.Itoa(i+1), m[1], "promises are numbered without gaps")
		promised = append(promised, m[1])
	}
	require.NotEmpty(t, promised)
	cited := regexp.MustCompile(`(?m)^\s*// (P[0-9]+): \S`)
	kept, shown := map[string]bool{}, map[string]bool{}
	for name, text := range goFiles(t) {
		for _, m := range cited.FindAllStringSubmatch(text, -1) {
			require.Contains(t, promised, m[1], "%s cites a promise that docs/guarantees.md does not make", name)
			if strings.HasSuffix(name, "_test.go") {
				shown[m[1]] = true
			} else {
				kept[m[1]] = true
			}
		}
	}
	for _, number := range promised {
		require.True(t, kept[number], "no line outside of tests cites %s: write // %[1]s: … at the line that keeps it", number)
		require.True(t, shown[number], "no test cites %s: write // %[1]s: … at the test that shows it", number)
	}
}

// TestNamedTestsExist: a document that names a test as its proof must not outlive it.
func TestNamedTestsExist(t *testing.T) {
	var missing []string
	defined := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)\(`)
	for name, text := range goFiles(t) {
		if strings.HasSuffix(name, "_test.go") {
			for _, m := range function.FindAllStringSubmatch(text, -1) {
				defined[m[1]] = true
			}
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]+)`")
	for _, document := range []string{"docs/guarantees.md", "README.md", "SECURITY.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join("../..", document))
		require.NoError(t, err)
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			if !defined[m[1]] {
				missing = append(missing, document+": "+m[1])
			}
		}
	}
	slices.Sort(missing)
	require.Empty(t, slices.Compact(missing), "no such tests")
}
