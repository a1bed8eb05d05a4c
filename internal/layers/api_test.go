package layers

import (
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPublicPackagesShowNoInternalType: a program that imports a public package can name each type
// that its exported names speak of.
func TestPublicPackagesShowNoInternalType(t *testing.T) {
	t.Parallel()
	exports := map[string]string{}
	var names []string
	for _, p := range golist(t, "-export", "-deps", "./...") {
		exports[p.ImportPath] = p.Export
		if name, ours := short(p.ImportPath); ours && under(name, public) && !strings.Contains(name, "/internal/") {
			names = append(names, p.ImportPath)
		}
	}
	require.Greater(t, len(names), 10)
	load := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, name := range names {
		pkg, err := load.Import(name)
		require.NoError(t, err)
		for _, fault := range internalTypes(pkg) {
			assert.Fail(t, "an exported name speaks of an internal type", fault)
		}
	}
}

// internalTypes returns a line for each exported name of pkg that speaks of a type of an internal
// package.
func internalTypes(pkg *types.Package) []string {
	w := walker{seen: map[types.Type]bool{}}
	for _, name := range pkg.Scope().Names() {
		if obj := pkg.Scope().Lookup(name); obj.Exported() {
			w.object(pkg.Name()+"."+name, obj)
		}
	}
	return w.faults
}

// walker goes through types as far as exported names lead.
type walker struct {
	seen   map[types.Type]bool
	faults []string
}

func (w *walker) object(at string, obj types.Object) {
	w.visit(at, obj.Type())
	named, ok := obj.Type().(*types.Named)
	if _, isType := obj.(*types.TypeName); !ok || !isType {
		return
	}
	w.visit(at, named.Underlying())
	methods := types.NewMethodSet(types.NewPointer(named)) // those of embedded fields too
	for i := range methods.Len() {
		if m := methods.At(i).Obj(); m.Exported() {
			w.visit(at+"."+m.Name(), m.Type())
		}
	}
}

func (w *walker) visit(at string, t types.Type) {
	switch t := t.(type) {
	case *types.Alias:
		w.named(at, t.Obj())
		w.visit(at, types.Unalias(t))
	case *types.Named:
		w.named(at, t.Obj())
		for i := range t.TypeArgs().Len() {
			w.visit(at, t.TypeArgs().At(i))
		}
	case *types.Struct:
		for i := range t.NumFields() {
			if f := t.Field(i); f.Exported() {
				w.visit(at+"."+f.Name(), f.Type())
			} else if f.Embedded() { // its exported fields are reached all the same
				w.once(at, f.Type())
			}
		}
	case *types.Interface:
		for i := range t.NumMethods() {
			w.visit(at+"."+t.Method(i).Name(), t.Method(i).Type())
		}
	case *types.Signature:
		w.visit(at, t.Params())
		w.visit(at, t.Results())
	case *types.Tuple:
		for i := range t.Len() {
			w.visit(at, t.At(i).Type())
		}
	case *types.Map:
		w.visit(at, t.Key())
		w.visit(at, t.Elem())
	case interface{ Elem() types.Type }: // pointers, slices, arrays, channels
		w.visit(at, t.Elem())
	}
}

// once visits what an embedded type consists of.
func (w *walker) once(at string, t types.Type) {
	if !w.seen[t] {
		w.seen[t] = true
		w.visit(at, t.Underlying())
	}
}

func (w *walker) named(at string, obj *types.TypeName) {
	if obj.Pkg() != nil && strings.Contains("/"+obj.Pkg().Path()+"/", "/internal/") {
		w.faults = append(w.faults, fmt.Sprintf("%s: %s.%s", at, obj.Pkg().Path(), obj.Name()))
	}
}
