package source

import (
	"go/ast"
	"go/parser"
	"go/token"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCatalogueHoldsTheSpecification(t *testing.T) {
	t.Parallel()
	var spec, defaults, deprecated int
	for _, typ := range Catalogue() {
		require.True(t, wellFormedName(typ.Name), typ.Name)
		require.True(t, strings.HasPrefix(typ.Name, typ.Domain+"."), typ.Name)
		switch {
		case typ.Deprecated:
			deprecated++
			require.False(t, typ.Default, typ.Name)
			continue
		case typ.Default:
			defaults++
		}
		spec++
		require.LessOrEqual(t, len(typ.Name), 47, typ.Name)
	}
	require.Equal(t, 136, spec)
	require.Equal(t, 113, defaults)
	require.Equal(t, 4, deprecated)
	require.True(t, slices.IsSortedFunc(Catalogue(), func(a, b Type) int { return strings.Compare(a.Name, b.Name) }))

	names := map[string]bool{}
	for _, typ := range Catalogue() {
		flat := strings.ReplaceAll(typ.Name, ".", "_")
		require.False(t, names[flat], "%s collides where . becomes _", typ.Name)
		names[flat] = true
	}
	Catalogue()[0].Name = "changed"
	require.NotEqual(t, "changed", Catalogue()[0].Name, "the slice is the caller's own")
}

// Every constant is in the catalogue, so that none is declared and then forgotten.
func TestEveryConstantIsInTheCatalogue(t *testing.T) {
	t.Parallel()
	values := map[string]bool{}
	aliases := 0
	// The names that the SDK marks as deprecated; no other is marked.
	marked := map[string]bool{"DirectroyGroupUserRemoved": true, "OrganizationMembershipAdded": true, "OrganizationMembershipRemoved": true}
	for decl, file := range constantsOf(t, "types_catalogue.go", "types_old.go") {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			vs := spec.(*ast.ValueSpec)
			lit, ok := vs.Values[0].(*ast.BasicLit)
			if !ok {
				aliases++
				require.Equal(t, marked[vs.Names[0].Name], strings.Contains(vs.Doc.Text(), "Deprecated: "), "alias %s", vs.Names[0])
				continue
			}
			name, err := strconv.Unquote(lit.Value)
			require.NoError(t, err)
			typ, known := Lookup(name)
			require.True(t, known, "%s is not in the catalogue", name)
			require.Equal(t, marked[vs.Names[0].Name], strings.Contains(vs.Doc.Text(), "Deprecated: "), name)
			require.Equal(t, file == "types_old.go", typ.Deprecated, name)
			values[name] = true
		}
	}
	require.Equal(t, 16, aliases)
	require.Len(t, values, len(Catalogue()))
}

// constantsOf yields the declarations of files of this package, each with the name of its file.
func constantsOf(t *testing.T, files ...string) iter.Seq2[ast.Decl, string] {
	t.Helper()
	return func(yield func(ast.Decl, string) bool) {
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
			require.NoError(t, err)
			for _, decl := range file.Decls {
				if !yield(decl, name) {
					return
				}
			}
		}
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	all, err := Expand([]string{"*"})
	require.NoError(t, err)
	require.Len(t, all, 113)
	for _, tc := range []struct {
		patterns []string
		want     []string
	}{
		{nil, nil},
		{[]string{"connection.*", "connection.deleted"}, []string{
			ConnectionActivated, ConnectionDeactivated, ConnectionDeleted, ConnectionSAMLCertificateRenewalRequired, ConnectionSAMLCertificateRenewed}},
		{[]string{"dsync.user.*"}, []string{DsyncUserCreated, DsyncUserDeleted, DsyncUserUpdated}},
		{[]string{"dsync.token.*"}, []string{DsyncTokenCreated, DsyncTokenRevoked}},
		{[]string{"vault.kek.*"}, []string{VaultKEKCreated, VaultKEKDeleted}},
		{[]string{DsyncTokenCreated}, []string{"dsync.token.created"}},
		{[]string{OrganizationMembershipAdded}, []string{"organization_membership.added"}},
		{[]string{"organization_membership.*"}, []string{OrganizationMembershipCreated, OrganizationMembershipDeleted, OrganizationMembershipUpdated}},
		{[]string{"*.group.user_*"}, []string{DsyncGroupUserAdded, DsyncGroupUserRemoved}},
		{[]string{"user.updated", "+future.type.created", "+user.created"}, []string{"future.type.created", UserCreated, UserUpdated}},
	} {
		got, err := Expand(tc.patterns)
		require.NoError(t, err, tc.patterns)
		require.Equal(t, tc.want, got, tc.patterns)
	}
	dsync, err := Expand([]string{"dsync.*"})
	require.NoError(t, err)
	require.Len(t, dsync, 10, "opt-in types come by a glob only if it matches nothing else")
	require.Contains(t, dsync, DsyncGroupUserAdded)
}

func TestExpandNamesTheNearest(t *testing.T) {
	t.Parallel()
	for pattern, nearest := range map[string]string{
		"dsync.user.craeted": "dsync.user.created",
		"dsnc.*":             "dsync.*",
		"dsync.usr.*":        "dsync.user.*",
		"Connection.deleted": "connection.deleted",
		"completely-unknown": "",
		"":                   "",
		"zzzzzzzzzz.*":       "",
		"+":                  "",
		"+future.*":          "",
		"+Future.x":          "",
		"+a..b":              "",
		"*_membership.add*":  "", // only a deprecated type
	} {
		_, err := Expand([]string{"user.created", pattern})
		var pe *PatternError
		require.ErrorAs(t, err, &pe, pattern)
		require.Equal(t, pattern, pe.Pattern)
		require.Equal(t, nearest, pe.Nearest, pattern)
		require.Contains(t, err.Error(), strconv.Quote(pattern))
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "anything.at.all", true},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"dsync.*", "dsync.group.user_added", true},
		{"dsync.*", "dsync.", true},
		{"dsync.*", "dsync", false},
		{"*.deleted", "dsync.user.deleted", true},
		{"*.deleted", "dsync.user.deleted.x", false},
		{"d*c.*r.*d", "dsync.user.created", true},
		{"a*b*b", "ab", false},
		{"a**b", "ab", true},
		{"+future.type", "future.type", true},
		{"user.created", "user.created", true},
		{"user.created", "user.created2", false},
	} {
		require.Equal(t, tc.want, Match(tc.pattern, tc.name), "%q %q", tc.pattern, tc.name)
	}
}

func FuzzPattern(f *testing.F) {
	for _, p := range []string{"*", "dsync.*", "+future.type.created", "**.user.*", "vault.*", "user.created", "a*b*", "+*"} {
		f.Add(p, "dsync.user.created")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 100 || len(name) > 200 {
			t.Skip()
		}
		// Match is what a regular expression says; bytes are mapped to runes so that invalid UTF-8
		// compares bytewise too.
		latin := func(s string) string {
			var b strings.Builder
			for _, c := range []byte(s) {
				b.WriteRune(rune(c))
			}
			return b.String()
		}
		re := "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(latin(strings.TrimPrefix(pattern, "+"))), `\*`, ".*") + "$"
		require.Equal(t, regexp.MustCompile(re).MatchString(latin(name)), Match(pattern, name), re)

		names, err := Expand([]string{pattern})
		if err != nil {
			var pe *PatternError
			require.ErrorAs(t, err, &pe)
			require.Empty(t, names)
			return
		}
		require.NotEmpty(t, names)
		require.True(t, slices.IsSorted(names))
		for _, n := range names {
			require.True(t, Match(pattern, n), n)
		}
	})
}
