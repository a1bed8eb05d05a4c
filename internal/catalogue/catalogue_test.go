package catalogue

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTypes(t *testing.T) {
	t.Parallel()
	count := map[Status]int{}
	for _, typ := range Types() {
		count[typ.Status]++
	}
	require.Equal(t, map[Status]int{Default: 113, OptIn: 23, Gone: 4}, count)

	_, ok := Lookup("user.creat")
	require.False(t, ok)
	flag, ok := Lookup("flag.updated")
	require.True(t, ok)
	require.Equal(t, "feature_flags.flag.updated", flag.Successor)
}

// TestTableHoldsThePublishedSchemas compares the table with the list of payloads next to the
// checkout, which was extracted from the same client by another program.
func TestTableHoldsThePublishedSchemas(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "workos", "payloads.jsonl"))
	if err != nil {
		t.Skip("the published list is not beside the checkout")
	}
	published := 0
	for line := range strings.Lines(string(text)) {
		var row struct {
			Type         string
			Subscribable bool
			Data         map[string]any
			Optional     []string
		}
		require.NoError(t, json.Unmarshal([]byte(line), &row))
		published++
		typ, ok := Lookup(row.Type)
		require.True(t, ok, row.Type)
		require.Equal(t, row.Subscribable, typ.Status == Default, row.Type)
		paths := map[string]bool{}
		collect(row.Data, "", paths)
		for path := range paths {
			require.NotEmpty(t, typ.Schema.At(path), "%s: %s", row.Type, path)
		}
		optional := map[string]bool{}
		for _, path := range row.Optional {
			optional[strings.TrimPrefix(strings.TrimSuffix(path, "?"), "data.")] = true
		}
		for path := range paths {
			if first, _, nested := strings.Cut(path, "."); !nested {
				require.Equal(t, !optional[first], typ.Schema.Guarantees(first), "%s: %s", row.Type, first)
			}
		}
		for _, p := range typ.Schema.Properties {
			require.Contains(t, row.Data, p.Name, row.Type)
		}
	}
	require.Equal(t, 136, published)
}

func collect(data map[string]any, prefix string, paths map[string]bool) {
	for name, value := range data {
		paths[prefix+name] = true
		if nested, ok := value.(map[string]any); ok {
			collect(nested, prefix+name+".", paths)
		}
	}
}

func TestParseNamesTheLine(t *testing.T) {
	t.Parallel()
	const fine = `{"type":"a.b","status":"default","schema":{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]}}`
	for name, c := range map[string]struct{ line, want string }{
		"no JSON":           {`{`, "reading the line"},
		"unknown member":    {`{"type":"c.d","status":"gone","colour":1}`, "colour"},
		"trailing bytes":    {`{"type":"c.d","status":"gone"} {}`, "something follows"},
		"name":              {`{"type":"C","status":"gone"}`, "is not a name"},
		"status":            {`{"type":"c.d","status":"new"}`, "status"},
		"twice":             {fine, "stands in line 1 already"},
		"order":             {`{"type":"a.a","status":"gone"}`, "alphabetical"},
		"no schema":         {`{"type":"c.d","status":"default"}`, "no properties"},
		"schema of a ghost": {`{"type":"c.d","status":"gone","entity":["id"]}`, "no payload"},
		"keyword":           {strings.Replace(strings.Replace(fine, "a.b", "c.d", 1), `"type":"string"`, `"pattern":"x"`, 1), `keyword "pattern"`},
		"type":              {strings.Replace(strings.Replace(fine, "a.b", "c.d", 1), `"type":"string"`, `"type":"text"`, 1), `type "text"`},
		"format":            {strings.Replace(strings.Replace(fine, "a.b", "c.d", 1), `"type":"string"`, `"format":"uri"`, 1), `format "uri"`},
		"required":          {strings.Replace(strings.Replace(fine, "a.b", "c.d", 1), `["id"]`, `["name"]`, 1), "required field name"},
		"place":             {strings.Replace(strings.Replace(fine, "a.b", "c.d", 1), `"schema"`, `"entity":["user.id"],"schema"`, 1), "no field user.id"},
		"condition":         {strings.Replace(strings.Replace(fine, "a.b", "c.d", 1), `"schema"`, `"entity":["id if kind=user"],"schema"`, 1), "no field kind"},
		"successor":         {`{"type":"c.d","status":"gone","successor":"e.f"}`, "successor e.f"},
	} {
		_, err := Parse("table.jsonl", []byte(fine+"\n"+c.line+"\n"))
		require.ErrorContains(t, err, c.want, name)
		require.ErrorContains(t, err, "table.jsonl:2: ", name)
	}
	types, err := Parse("table.jsonl", []byte(fine+"\n"))
	require.NoError(t, err)
	require.Len(t, types, 1)
}
