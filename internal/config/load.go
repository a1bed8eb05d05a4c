package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxFile bounds the size of a configuration file.
const maxFile = 1 << 20

// Load reads the configuration file at path. env looks up variables of the environment, as
// os.LookupEnv does. Mistakes in the file are an *Error with all of them, as is a file that sets
// nothing; another error means that the file could not be read.
func (f *Format) Load(path string, env func(string) (string, bool)) (*Config, error) {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if isBlank(text) { // most likely the wrong file, or one that was not written to the end
		return nil, &Error{Problems: []Problem{{File: path, Message: "the file sets nothing", Hint: "write at least id and sinks into it, or let `relay init` write one"}}}
	}
	return f.Parse(path, text, env)
}

// unreadable says that the file cannot be read, and what to do.
func unreadable(path string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err
	}
	remedy := "let relay read it, or name another file with --config or RELAY_CONFIG"
	if errors.Is(err, fs.ErrNotExist) {
		remedy = "name another file with --config or RELAY_CONFIG, or let `relay init` write one"
	}
	return fmt.Errorf("reading the configuration %s: %w; %s", path, err, remedy)
}

// isBlank reports whether text has nothing but comments, white space and marks of a document.
func isBlank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\ufeff")))
		if len(line) > 0 && line[0] != '#' && string(line) != "---" && string(line) != "..." {
			return false
		}
	}
	return true
}

// Default is the configuration of an empty file: every default, for which env must hold
// WORKOS_API_KEY. The error is an *Error.
func (f *Format) Default(env func(string) (string, bool)) (*Config, error) {
	return f.Parse("", nil, env)
}

// Parse reads a configuration from text; name is the name of the file in messages. Secret files
// that it names are read. The error is always an *Error.
func (f *Format) Parse(name string, text []byte, env func(string) (string, bool)) (*Config, error) {
	d := &decoder{format: f, file: name, env: env, places: map[string]location{}, files: map[string][]string{}}
	c := &Config{format: f}
	if root, ok := d.document(text); ok {
		d.section(f.root(), root, reflect.ValueOf(c).Elem(), "")
		for i := range c.Sinks {
			c.Sinks[i].Kind = f.kind(c.Sinks[i].Type)
		}
		d.validate(f.root(), reflect.ValueOf(c).Elem(), "")
		d.check(c)
		d.secrets = append(d.secrets, proxySecrets(c.Source.Proxy.Reveal())...)
	}
	if len(d.problems) > 0 {
		e := &Error{Problems: d.scrub(d.problems), Log: c.Log}
		e.sort()
		return nil, e
	}
	for i := range c.Sinks {
		if c.Sinks[i].Delivery == "" {
			c.Sinks[i].Delivery = c.Delivery
		}
	}
	c.files, c.secrets = d.files, d.secrets
	c.fingerprint()
	return c, nil
}

// document parses text into the node of its one document. It returns nil if the text is empty.
func (d *decoder) document(text []byte) (*yaml.Node, bool) {
	if len(text) > maxFile {
		d.report(location{}, "", fmt.Sprintf("the file is larger than %d bytes", maxFile), "")
		return nil, false
	}
	if at, reason := illegalByte(text); reason != "" {
		d.report(at, "", reason, "save the file as UTF-8 text")
		return nil, false
	}
	var doc, second yaml.Node
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithUniqueKeys(false))
	if err == nil {
		err = loader.Load(&doc)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, true
	case err != nil:
		d.reportSyntax(text, err)
		return nil, false
	}
	switch err := loader.Load(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		d.reportSyntax(text, err)
		return nil, false
	default:
		d.report(placeOf(&second), "", "a second document begins here", "a configuration is one document: remove the ---")
		return nil, false
	}
	root := d.resolve(doc.Content[0], "")
	return root, root != nil
}

func (d *decoder) reportSyntax(text []byte, err error) {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		d.report(location{}, "", "no YAML: "+err.Error(), "")
		return
	}
	at := location{le.Mark.Line, le.Mark.Column}
	message := "no YAML: " + le.Message
	if le.ContextMsg != "" {
		message += " " + le.ContextMsg
		if le.ContextMark.Line > 0 && le.ContextMark.Line != at.line {
			message += fmt.Sprintf(" that begins on line %d", le.ContextMark.Line)
		}
	}
	lines := bytes.Split(text, []byte("\n"))
	if last := len(lines); at.line > last { // the parser counts the end of the text as a line
		at = location{last, utf8.RuneCount(lines[last-1]) + 1}
	}
	var hint string
	if at.line > 0 && at.line <= len(lines) {
		switch line := lines[at.line-1]; {
		case bytes.Contains(line, []byte("${")):
			hint = `inside { } and [ ], put quotes around "${NAME}"`
		case bytes.Contains(line, []byte("\t")):
			hint = "indent with spaces, not with tabs"
		}
	}
	d.report(at, "", message, hint)
}

// illegalByte finds the first byte that is in no text file.
func illegalByte(text []byte) (location, string) {
	at := location{1, 1}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return at, "a byte that is not UTF-8"
		case r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f:
			return at, fmt.Sprintf("a control character (0x%02x)", r)
		case r == '\n':
			at.line, at.column = at.line+1, 0
		}
		at.column++
		i += size
	}
	return location{}, ""
}
