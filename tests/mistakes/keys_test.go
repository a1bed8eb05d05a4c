//go:build unix

package mistakes

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/config"
	"workos-relay/internal/kinds"
)

// schema is the part of a JSON Schema that is needed here.
type schema struct {
	Type       any                `json:"type"`
	Enum       []any              `json:"enum"`
	Pattern    string             `json:"pattern"`
	Minimum    *json.Number       `json:"minimum"`
	Maximum    *json.Number       `json:"maximum"`
	AnyOf      []schema           `json:"anyOf"`
	AllOf      []schema           `json:"allOf"`
	Properties map[string]*schema `json:"properties"`
	Items      *schema            `json:"items"`
	If         *schema            `json:"if"`
	Then       *schema            `json:"then"`
	Const      any                `json:"const"`
	Free       any                `json:"additionalProperties"`

	nothing bool // true in place of a schema
}

func (s *schema) UnmarshalJSON(text []byte) error {
	if string(text) == "true" || string(text) == "false" {
		s.nothing = true
		return nil
	}
	type plain schema
	return json.Unmarshal(text, (*plain)(s))
}

// is reports whether a value may have a type of JSON Schema.
func (s *schema) is(name string) bool {
	list, several := s.Type.([]any)
	if !several {
		return s.Type == name
	}
	return slices.Contains(list, any(name))
}

// kind says what a key holds, in the words of the documentation.
func (s *schema) kind() string {
	one := *s
	if len(s.AnyOf) > 0 {
		one = s.AnyOf[0]
	}
	switch {
	case s.Properties != nil:
		return "section"
	case s.Items != nil && s.Items.Properties != nil:
		return "sections"
	case s.Items != nil:
		return "list"
	case s.is("object"):
		return "map"
	case len(one.Enum) > 0:
		return "enum"
	case one.is("boolean") && !one.is("string"):
		return "bool"
	case one.is("integer"):
		return "int"
	case one.is("number") && !one.is("string"):
		return "number"
	case strings.Contains(one.Pattern, "µs"):
		return "duration"
	case strings.Contains(one.Pattern, "iB"):
		return "size"
	case strings.HasPrefix(one.Pattern, "^http"):
		return "url"
	case one.Pattern != "":
		return "word"
	default:
		return "text"
	}
}

// bound is a limit of a number.
func (s *schema) bound(which func(schema) *json.Number) string {
	for _, one := range append(s.AnyOf, *s) {
		if n := which(one); n != nil && !strings.HasPrefix(one.Pattern, "^") && (one.is("integer") || one.is("number")) {
			return n.String()
		}
	}
	return ""
}

// wrong is a way to be wrong that a key of some kinds can have.
type wrong struct {
	name string
	// value returns the text behind the colon, and false if the key cannot be wrong in this way.
	value func(s *schema) (string, bool)
	// says returns a regular expression for the message, behind file, line and key.
	says func(key string, s *schema) string
	// of changes the key; nil leaves it.
	of func(key string, s *schema) string
}

func kindsOf(value string, names ...string) func(*schema) (string, bool) {
	return func(s *schema) (string, bool) { return value, slices.Contains(names, s.kind()) }
}

func always(pattern string) func(string, *schema) string {
	return func(string, *schema) string { return pattern }
}

var wrongs = []wrong{
	{name: "a list for a single value", value: kindsOf("[[a], [b]]", "bool", "int", "number", "duration", "size", "enum", "url", "word"),
		says: always(`must be a single value \(.+\), not a list`)},
	{name: "a section for a single value", value: kindsOf("{a: b}", "bool", "int", "number", "duration", "size", "enum", "url", "word", "text"),
		says: always(`must be a single value( \(.+\))?.*, not a section of keys|must be a list.*, not a section of keys|must be a (secret|text|file).*, not a section of keys`)},
	{name: "a word for a section", value: kindsOf("on", "section"), says: always(`must be a section of keys, not a single value`)},
	{name: "a word for a list", value: kindsOf("a", "sections"), says: always(`must be a list, not a single value; write `)},
	{name: "a word for names and values", value: kindsOf("a", "map"), says: always(`must be a section of keys, not a single value`)},
	{name: "neither true nor false", value: kindsOf("yes", "bool"), says: always(`"yes" is neither true nor false`)},
	{name: "a word for a number", value: kindsOf("many", "int", "number"), says: always(`"many" is not a (whole )?number`)},
	{name: "a fraction for a whole number", value: kindsOf("1.5", "int"), says: always(`"1\.5" is not a whole number`)},
	{name: "a negative number", value: func(s *schema) (string, bool) {
		return "-2", numeric(s) && s.bound(func(s schema) *json.Number { return s.Minimum }) != ""
	}, says: always(`"-2" is not between`)},
	// A section judges its keys together, once each of them is good by itself.
	{name: "a negative number that the section judges", value: func(s *schema) (string, bool) {
		return "-2", numeric(s) && s.bound(func(s schema) *json.Number { return s.Minimum }) == ""
	}, says: always(`is -2: it must be at least|-2( replicas)?: use 1`)},
	{name: "a number above its bound", value: func(s *schema) (string, bool) {
		top := s.bound(func(s schema) *json.Number { return s.Maximum })
		return top + "1", top != ""
	}, says: always(`is not between \S+ and \S+`)},
	{name: "a duration without a unit", value: kindsOf("15", "duration"), says: always(`"15" is not a duration; .*unit`)},
	{name: "a negative duration", value: kindsOf("-5s", "duration"), says: always(`"-5s" is not a duration; .*unit|"-5s" is negative`)},
	{name: "a word for a duration", value: kindsOf("soon", "duration"), says: always(`"soon" is not a duration; .*such as`)},
	{name: "a word for a size", value: kindsOf("lots", "size"), says: always(`"lots" is not a size; .*such as`)},
	{name: "a negative size", value: kindsOf("-1MiB", "size"), says: always(`"-1MiB" is not a size; .*such as`)},
	{name: "a word that is none of the choices", value: kindsOf("nonsense", "enum"), says: func(_ string, s *schema) string {
		return `"nonsense" is .*` + regexp.QuoteMeta(fmt.Sprint(append(s.AnyOf, *s)[0].Enum[0]))
	}},
	{name: "an address without http", value: kindsOf("api.workos.com", "url"), says: always(`http`)},
	{name: "characters that no name may have", value: kindsOf(`"not a name!"`, "word"), says: always(`"not a name!" .*;? ?.*(name|topic|characters|words)`)},
	{name: "a variable that is not set", value: func(s *schema) (string, bool) { return `"${NO_SUCH_VARIABLE}"`, scalar(s) },
		says: always(`NO_SUCH_VARIABLE.* not set.*(set it|\$\{NO_SUCH_VARIABLE:-)`)},
	{name: "no value", value: func(s *schema) (string, bool) { return "", scalar(s) },
		says: always(`has no value; write "" for an empty text, or remove the key for the default|is missing|is empty|must be`)},
	{name: "a key with a letter too many", value: func(*schema) (string, bool) { return "x", true },
		says: func(key string, _ *schema) string { return `unknown key; did you mean "?([a-z_.\[\]]+\.)?` + key },
		of:   func(key string, _ *schema) string { return key[:1] + "x" + key[1:] }},
	{name: "a key with a dash", value: func(*schema) (string, bool) { return "x", true },
		says: func(key string, _ *schema) string { return `unknown key; did you mean "?([a-z_.\[\]]+\.)?` + key },
		of: func(key string, _ *schema) string {
			if !strings.Contains(key, "_") {
				return ""
			}
			return strings.ReplaceAll(key, "_", "-")
		}},
}

func scalar(s *schema) bool {
	return !slices.Contains([]string{"section", "sections", "list", "map"}, s.kind())
}

func numeric(s *schema) bool { return s.kind() == "int" || s.kind() == "number" }

// draft is a configuration file in which every key that can be is wrong in one way.
type draft struct {
	wrong wrong
	lines []string
	// expected are patterns of messages, by path of the key and line.
	expected map[string]string
	bus      string
	// files chooses the key that names a file if a secret can be given in two ways.
	files bool
}

// object writes the keys of a section, indented.
func (d *draft) object(s *schema, path, indent string) {
	properties := maps.Clone(s.Properties)
	sink := false
	for _, c := range s.AllOf {
		if c.If == nil {
			continue
		}
		sink = true
		if c.If.Properties["type"].Const == d.bus {
			maps.Copy(properties, keysOf(c.Then))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		if sink && (key == "name" || key == "type") {
			continue // written first
		}
		if secret, isFile := strings.CutSuffix(key, "_file"); isFile && properties[secret] != nil && !d.files ||
			properties[key+"_file"] != nil && d.files {
			continue // one of the two
		}
		d.key(properties[key], key, path, indent)
	}
}

func keysOf(s *schema) map[string]*schema {
	out := map[string]*schema{}
	for k, v := range s.Properties {
		if !v.nothing {
			out[k] = v
		}
	}
	return out
}

// key writes one key with what is below it.
func (d *draft) key(s *schema, key, path, indent string) {
	at := key
	if path != "" {
		at = path + "." + key
	}
	value, can := d.wrong.value(s)
	written := key
	if d.wrong.of != nil && can {
		written = d.wrong.of(key, s)
		can = written != ""
	}
	if can {
		d.lines = append(d.lines, indent+written+": "+value)
		d.expected[fmt.Sprintf("config.yaml:%d:", len(d.lines))+"\x00"+strings.TrimSuffix(at, key)+written] = d.wrong.says(key, s)
		if d.wrong.of == nil {
			return // it has its value
		}
	}
	switch s.kind() {
	case "section":
		before := len(d.lines)
		d.lines = append(d.lines, indent+key+":")
		d.object(s, at, indent+"  ")
		if len(d.lines) == before+1 {
			d.lines = d.lines[:before]
		}
	case "sections":
		before := len(d.lines)
		d.lines = append(d.lines, indent+key+":")
		if key == "sinks" {
			d.lines = append(d.lines, indent+"  - name: bus", indent+"    type: "+d.bus)
			d.object(s.Items, at+"[0]", indent+"    ")
			return
		}
		d.lines = append(d.lines, indent+"  -")
		d.object(s.Items, at+"[0]", indent+"    ")
		if len(d.lines) == before+2 {
			d.lines = d.lines[:before]
		}
	}
}

// TestEveryKeyWithEveryKindOfWrongValue: each key of the configuration, wrong in each way that its
// kind can be. Keys with the same mistake share a file, since relay names all mistakes at once.
func TestEveryKeyWithEveryKindOfWrongValue(t *testing.T) {
	t.Parallel()
	var root schema
	require.NoError(t, json.Unmarshal(config.For(kinds.All).Schema(), &root))
	for _, w := range wrongs {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			cases := 0
			for _, bus := range []string{"nats", "kafka", "stdout"} {
				for _, files := range []bool{false, true} {
					d := &draft{wrong: w, bus: bus, files: files, expected: map[string]string{}}
					d.object(&root, "", "")
					if len(d.expected) > 0 {
						d.judge(t)
					}
					cases += len(d.expected)
				}
			}
			assert.NotZero(t, cases)
			t.Logf("%d cases", cases)
		})
	}
}

// judge asks relay about the draft.
func (d *draft) judge(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	text := strings.Join(d.lines, "\n") + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text), 0o600))
	code, output := runRelay(t, dir, nil, "check")
	t.Logf("%s\n%s", text, output)
	assert.Equal(t, exitUsage, code)
	harmless(t, output)
	for at, says := range d.expected {
		place, key, _ := strings.Cut(at, "\x00")
		var said []string // of the place and the key
		for line := range strings.Lines(strings.TrimPrefix(output, "relay: ")) {
			if rest, found := strings.CutPrefix(line, place); found {
				if _, message, found := strings.Cut(rest, " "+key+": "); found {
					said = append(said, message)
				}
			}
		}
		assert.Regexp(t, says, strings.Join(said, ""), "%s %s", place, key)
	}
}
