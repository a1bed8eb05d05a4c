package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// aCommand is a text that names a command of relay.
var aCommand = regexp.MustCompile(`relay (asyncapi|check|checkpoint|completion|demo|init|pause|poll|reload|replay|resume|run|status|tail|types|verify)\b`)

// logged are texts of the log, which may name a command: they are not errors, and a program that
// uses the packages in another program has their own log.
var logged = map[string]bool{
	"relay replay --since TIME": true,
	"delivery: at_least_once, as recorded; for exactly_once, stop relay, set delivery: exactly_once, and take the position along with `relay checkpoint set --from file`": true,
}

// TestPublicPackagesNameNoCommand: errors of public packages say what has to be decided. Package
// hint adds the command.
func TestPublicPackagesNameNoCommand(t *testing.T) {
	t.Parallel()
	texts := 0
	for _, p := range golist(t, "./...") {
		name, _ := short(p.ImportPath)
		if !under(name, public) {
			continue
		}
		files, err := filepath.Glob(filepath.Join("../..", name, "*.go"))
		require.NoError(t, err)
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			text, err := os.ReadFile(path) //nolint:gosec // a file of this module
			require.NoError(t, err)
			file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if _, isTag := n.(*ast.Field); isTag {
					return false // its tag describes the configuration of the program
				}
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				texts++
				value, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				assert.False(t, aCommand.MatchString(value) && !logged[value], "%s: %s", path, value)
				return true
			})
		}
	}
	require.Greater(t, texts, 1000)
}
