// Package licenses lists the modules that the relay binary is made of, under which licences they
// stand, and the texts that have to go with a copy of it.
package licenses

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

//go:generate go run ./gen ../..

// Platforms are those that a release is built for, as GOOS/GOARCH: what is linked differs between
// them.
var Platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64"}

// permitted are the licences that let a program under Apache-2.0 be built from a module and handed
// on, by SPDX identifier. Each asks for no more than that its text goes along.
var permitted = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "Unlicense", "Zlib"}

// recognised is the least share of a licence file, in percent, that must be the text of known
// licences; the rest is names and years.
const recognised = 75

// Module is a module that is linked into the binary on at least one platform.
type Module struct {
	Path  string
	IDs   []string // SPDX identifiers of its licences, sorted
	Texts []Text
}

// Text is a file that has to go with the binary.
type Text struct {
	Name string // path within the module
	Body []byte
}

// Collect returns the modules that pkg, a package of the module in the directory root, is linked
// from, sorted by path, the Go standard library as "std" among them. It runs the go command, which
// must find the modules in its cache or by its proxy. The error joins one for each module without a
// licence or under one that is not permitted, by path and file.
func Collect(ctx context.Context, root, pkg string) ([]Module, error) {
	dirs := map[string]origin{} // by folder of the package
	for _, platform := range Platforms {
		if err := listDeps(ctx, root, pkg, platform, dirs); err != nil {
			return nil, err
		}
	}
	goroot, err := command(ctx, root, nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	std := strings.TrimSpace(string(goroot))
	dirs[std] = origin{Path: "std", Dir: std}
	files := map[string]map[string]bool{}
	for dir, from := range dirs {
		if files[from.Path] == nil {
			files[from.Path] = map[string]bool{}
		}
		if err := findTexts(dir, from.Dir, files[from.Path]); err != nil {
			return nil, err
		}
	}
	roots := map[string]string{}
	for _, from := range dirs {
		roots[from.Path] = from.Dir
	}
	var modules []Module
	var faults []error
	for path, found := range files {
		m, err := read(path, roots[path], found)
		modules, faults = append(modules, m), append(faults, err)
	}
	slices.SortFunc(modules, func(a, b Module) int { return strings.Compare(a.Path, b.Path) })
	return modules, errors.Join(faults...)
}

// origin is the module of a package.
type origin struct {
	Path, Dir string
	Main      bool
}

// listDeps adds the folders of the packages that pkg needs on a platform, but those of the main
// module and of the standard library.
func listDeps(ctx context.Context, root, pkg, platform string, dirs map[string]origin) error {
	system, arch, _ := strings.Cut(platform, "/")
	env := []string{"GOOS=" + system, "GOARCH=" + arch, "CGO_ENABLED=0"}
	out, err := command(ctx, root, env, "go", "list", "-deps", "-json=Dir,Module,Standard", pkg)
	if err != nil {
		return err
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *origin
		}
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading what go list says of %s: %w", pkg, err)
		case p.Standard || p.Module == nil || p.Module.Main:
		default:
			dirs[p.Dir] = *p.Module
		}
	}
}

func command(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...) //nolint:gosec // the go command, with arguments from above
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// textName matches the names that licences, notices and grants of patents go by.
var textName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|unlicense)([-._].*)?$`)

// findTexts adds the files of dir and of each directory above it, up to the module's.
func findTexts(dir, module string, found map[string]bool) error {
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("looking for licences: %w", err)
		}
		for _, e := range entries {
			if e.Type().IsRegular() && textName.MatchString(e.Name()) && filepath.Ext(e.Name()) != ".go" {
				found[filepath.Join(dir, e.Name())] = true
			}
		}
		if dir == module {
			return nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return fmt.Errorf("looking for licences: %s is not in the module at %s", dir, module)
		}
		dir = parent
	}
}

func read(path, root string, found map[string]bool) (Module, error) {
	m := Module{Path: path}
	var faults []error
	for file := range found {
		body, err := os.ReadFile(file) //nolint:gosec // found above
		if err != nil {
			return m, fmt.Errorf("module %s: reading a licence: %w", path, err)
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return m, fmt.Errorf("module %s: %w", path, err)
		}
		m.Texts = append(m.Texts, Text{Name: filepath.ToSlash(name), Body: body})
		if isLicense(name) {
			ids, err := identify(body)
			if err != nil {
				faults = append(faults, fmt.Errorf("module %s: %s: %w", path, name, err))
			}
			m.IDs = append(m.IDs, ids...)
		}
	}
	slices.SortFunc(m.Texts, func(a, b Text) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(m.IDs)
	m.IDs = slices.Compact(m.IDs)
	if len(m.IDs) == 0 && len(faults) == 0 {
		faults = append(faults, fmt.Errorf("module %s has no licence file, so nobody may hand it on", path))
	}
	return m, errors.Join(faults...)
}

// isLicense tells licences from notices and grants of patents, which go along but are not judged.
func isLicense(name string) bool {
	base := strings.ToLower(filepath.Base(name))
	return !strings.HasPrefix(base, "notice") && !strings.HasPrefix(base, "patents")
}

// identify returns the licences of a text, or an error if one is not known or not permitted.
func identify(text []byte) ([]string, error) {
	cover := licensecheck.Scan(text)
	var ids []string
	var refused []string
	for _, match := range cover.Match {
		ids = append(ids, match.ID)
		if !slices.Contains(permitted, match.ID) {
			refused = append(refused, match.ID)
		}
	}
	switch {
	case len(refused) > 0:
		return ids, fmt.Errorf("stands under %s, which is not among the licences permitted here (%s)",
			strings.Join(refused, ", "), strings.Join(permitted, ", "))
	case cover.Percent < recognised:
		return ids, fmt.Errorf("only %.0f %% of it is the text of a known licence: somebody has to read it", cover.Percent)
	}
	return ids, nil
}

// Table returns docs/licenses.md. It names no versions, so that it changes only if a module or a
// licence does.
func Table(modules []Module) []byte {
	var b bytes.Buffer
	b.WriteString(`# Licences of what relay is built from

relay itself is licensed under [Apache-2.0](../LICENSE). The binaries of a release are linked from the modules below; each archive,
package and image carries the texts of their licences, in THIRD_PARTY_LICENSES. Every licence lets relay be used and handed on under
its own; a test refuses a module without one, or under one that asks for more.

Generated by "go generate ./internal/licenses"; do not edit.

| module | licence |
|---|---|
`)
	for _, m := range modules {
		name := "`" + m.Path + "`"
		if m.Path == "std" {
			name = "the Go standard library"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, strings.Join(m.IDs, ", "))
	}
	return b.Bytes()
}

// Texts returns what THIRD_PARTY_LICENSES holds: each text under the name of its module.
func Texts(modules []Module) []byte {
	var b bytes.Buffer
	b.WriteString("The relay binary is linked from the modules below, each under the licence that follows its name.\n")
	for _, m := range modules {
		name := m.Path
		if name == "std" {
			name = "The Go standard library, " + runtime.Version()
		}
		for _, t := range m.Texts {
			fmt.Fprintf(&b, "\n%[1]s\n%[2]s: %[3]s\n%[1]s\n\n%[4]s\n", strings.Repeat("=", 100), name, t.Name, bytes.TrimSpace(t.Body))
		}
	}
	return b.Bytes()
}
