package manual

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const internals = "../../docs/internals"

// TestInternalsNameWhatExists reads every word in backticks on the pages of docs/internals: a file,
// a Go identifier, a variable of the environment, and a key of the configuration must exist.
func TestInternalsNameWhatExists(t *testing.T) {
	t.Parallel()
	pages := markdownIn(t, internals)
	require.Greater(t, len(pages), 15)
	known := declarations(t)
	testFaults(t, known)
	for _, page := range pages {
		text, err := os.ReadFile(page) //nolint:gosec // a page of this module
		require.NoError(t, err)
		for n, line := range outsideFences(string(text)) {
			for _, span := range codeSpan.FindAllStringSubmatch(line, -1) {
				if why := known.fault(span[1]); why != "" {
					t.Errorf("%s:%d: %s", page, n, why)
				}
			}
			for _, l := range link.FindAllStringSubmatch(line, -1) {
				if why := brokenLink(page, l[2]); why != "" {
					t.Errorf("%s:%d: %s", page, n, why)
				}
			}
		}
	}
}

// TestInternalsAreReached: each page is linked from the index of its directory.
func TestInternalsAreReached(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{internals, internals + "/decisions"} {
		index, err := os.ReadFile(filepath.Join(dir, "README.md"))
		require.NoError(t, err)
		files, err := filepath.Glob(filepath.Join(dir, "*.md"))
		require.NoError(t, err)
		for _, f := range files {
			if name := filepath.Base(f); name != "README.md" {
				require.Contains(t, string(index), "("+name+")", "%s is not linked from its index", f)
			}
		}
	}
}

// testFaults shows that the check finds what is wrong.
func testFaults(t *testing.T, known *declared) {
	for _, good := range []string{"pipeline/lane.go", "sink/kafka", "pipeline.Lane.run", "checkpoint.Checkpoint.Revision", "pipeline.Target", "TestImports",
		"pipeline.Lane.Name", "serveAnything", "RELAY_TEST_KAFKA", "takeover_after", "relay verify", "source.backfill.memory", "pipeline.Target.Append"} {
		require.Empty(t, known.fault(good), good)
	}
	for _, bad := range []string{"pipeline/lanes.go", "sink/pulsar", "pipeline.Lane.runAll", "pipeline.Lanes", "TestNothingOfThisName", "serveNothingOfThisName",
		"RELAY_TEST_NOTHING", "checkpoint.Checkpoint.Nothing", "source.backfill.nothing", "pipeline.nothing.at_all"} {
		require.NotEmpty(t, known.fault(bad), bad)
	}
}

var (
	codeSpan   = regexp.MustCompile("`([^`]+)`")
	goName     = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*){0,2}$`)
	variable   = regexp.MustCompile(`^RELAY_[A-Z_]+$`)
	filePath   = regexp.MustCompile(`^\.?[\w.@-]+(/[\w.@-]+)+$|^[\w.-]+\.(go|md|ya?ml|jsonl?)$`)
	mixedCase  = regexp.MustCompile(`[a-z][A-Z]`)
	configLike = regexp.MustCompile(`^[a-z][a-z_0-9]*(\.[a-z_0-9]+)*$`)
)

// declared are the names that the module declares: names alone ("deliver"), names in a type
// ("Lane.deliver"), and both with the name of the package before them.
type declared struct {
	names     map[string]bool
	packages  map[string]bool
	variables map[string]bool // of the environment
	schema    string          // of the configuration
}

// fault says why a word in backticks speaks of something that does not exist. It is empty for a
// word that is neither a path nor a name: a command, a header, a value.
func (d *declared) fault(word string) string {
	first, _, dotted := strings.Cut(word, ".")
	switch {
	case variable.MatchString(word):
		if !d.variables[word] {
			return fmt.Sprintf("no file reads the variable %s", word)
		}
	case filePath.MatchString(word):
		if _, err := os.Stat(filepath.Join("../..", word)); err != nil {
			return fmt.Sprintf("there is no file or directory %s", word)
		}
	case !goName.MatchString(word), d.names[word]:
	case configLike.MatchString(word) && d.isKey(word):
	case dotted && d.packages[first]:
		return fmt.Sprintf("%s is not declared", word)
	case dotted && d.names[first]:
		return fmt.Sprintf("%s has no such part", word)
	case mixedCase.MatchString(word):
		return fmt.Sprintf("no Go identifier is called %s", word)
	}
	return ""
}

// isKey reports whether each part of a dotted word is a key of the configuration.
func (d *declared) isKey(word string) bool {
	return !slices.ContainsFunc(strings.Split(word, "."), func(part string) bool { return !strings.Contains(d.schema, `"`+part+`":`) })
}

// outsideFences returns the lines that are no code block, by their number.
func outsideFences(text string) map[int]string {
	lines := map[int]string{}
	fenced := false
	for n, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		} else if !fenced {
			lines[n+1] = line
		}
	}
	return lines
}

func brokenLink(page, to string) string {
	if strings.Contains(to, "://") {
		return ""
	}
	file, anchor, _ := strings.Cut(to, "#")
	target := page
	if file != "" {
		target = filepath.Join(filepath.Dir(page), file)
	}
	text, err := os.ReadFile(target) //nolint:gosec // a page of this module
	if err != nil {
		return fmt.Sprintf("the link to %s leads nowhere", to)
	}
	if anchor != "" && !slices.Contains(anchors(string(text)), anchor) {
		return fmt.Sprintf("%s has no heading for #%s", target, anchor)
	}
	return ""
}

// anchors are what GitHub makes of the headings of a page.
func anchors(text string) []string {
	var all []string
	for _, line := range strings.Split(text, "\n") {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			all = append(all, regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ReplaceAll(strings.ToLower(title), " ", "-"), ""))
		}
	}
	return all
}

func markdownIn(t *testing.T, dir string) []string {
	var pages []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			pages = append(pages, path)
		}
		return err
	}))
	return pages
}

var envName = regexp.MustCompile(`RELAY_[A-Z][A-Z_]*[A-Z]`)

// declarations reads every file of the module.
func declarations(t *testing.T) *declared {
	schema, err := os.ReadFile("../../docs/config.schema.json")
	require.NoError(t, err)
	d := &declared{names: map[string]bool{}, packages: map[string]bool{}, variables: map[string]bool{}, schema: string(schema)}
	root := "../.."
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name := e.Name(); name == ".git" || name == "testdata" || name == "node_modules" || name == "docs" {
				return filepath.SkipDir
			}
			return nil
		}
		inCI := strings.HasPrefix(path, filepath.Join(root, ".ci"))
		if !strings.HasSuffix(path, ".go") && !inCI && e.Name() != "Makefile" {
			return nil
		}
		text, err := os.ReadFile(path) //nolint:gosec // a file of this module
		if err != nil {
			return err
		}
		if filepath.Base(path) != "internals_test.go" {
			for _, name := range envName.FindAllString(string(text), -1) {
				d.variables[name] = true
			}
		}
		if strings.HasSuffix(path, ".go") {
			return d.read(path, text)
		}
		return nil
	}))
	require.Greater(t, len(d.names), 1000)
	return d
}

func (d *declared) read(path string, text []byte) error {
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	pkg := strings.TrimSuffix(file.Name.Name, "_test")
	d.packages[pkg] = true
	add := func(parts ...string) {
		name := strings.Join(parts, ".")
		d.names[name], d.names[pkg+"."+name] = true, true
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Recv == nil {
				add(decl.Name.Name)
			} else {
				add(receiver(decl.Recv.List[0].Type), decl.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						add(name.Name)
					}
				case *ast.TypeSpec:
					add(spec.Name.Name)
					for _, part := range partsOf(spec.Type) {
						add(spec.Name.Name, part)
					}
				}
			}
		}
	}
	return nil
}

// partsOf returns the fields of a struct and the methods of an interface.
func partsOf(t ast.Expr) []string {
	var fields *ast.FieldList
	switch t := t.(type) {
	case *ast.StructType:
		fields = t.Fields
	case *ast.InterfaceType:
		fields = t.Methods
	default:
		return nil
	}
	var parts []string
	for _, f := range fields.List {
		for _, name := range f.Names {
			parts = append(parts, name.Name)
		}
	}
	return parts
}

func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	default:
		return ""
	}
}
