package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"workos-relay/conf/secret"
)

// maxSecret bounds what is read of a secret file.
const maxSecret = 64 << 10

// ReadSecretFile reads a secret from a regular file and drops white space at its end. The error
// names the file.
func ReadSecretFile(path string) (secret.String, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", &missingSecretError{path}
	case err != nil:
		return "", fmt.Errorf("reading the secret file: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("the secret file %s is not a regular file; name a file that holds the secret and nothing else", path)
	}
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("reading the secret file: %w", err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the secret file: %w", err)
	case len(text) > maxSecret:
		return "", fmt.Errorf("the secret file %s is larger than %d bytes", path, maxSecret)
	}
	value := strings.TrimRight(string(text), " \t\r\n")
	if value == "" {
		return "", fmt.Errorf("the secret file %s is empty; write the secret into it", path)
	}
	return secret.String(value), nil
}

// missingSecretError says that there is no such file. It matches os.ErrNotExist.
type missingSecretError struct{ path string }

func (e *missingSecretError) Error() string {
	return fmt.Sprintf("the secret file %s does not exist; create it, or correct the path", e.path)
}
func (*missingSecretError) Unwrap() error { return os.ErrNotExist }

// secretFile decodes the _file twin of a secret into target, the secret itself.
func (d *decoder) secretFile(f *field, n *yaml.Node, given map[string]*yaml.Node, target reflect.Value, path string) {
	at := join(path, f.name)
	name := strings.TrimSuffix(f.name, fileKey(""))
	if n = d.resolve(n, at); n == nil {
		return
	}
	d.places[at] = placeOf(n)
	if given[name] != nil {
		d.report(placeOf(n), at, fmt.Sprintf("stands beside %s, and only one of them can hold", name), "remove one")
		return
	}
	if f.typ != reflect.TypeFor[secret.List]() {
		if value, ok := d.readSecret(f, n, join(path, name), at); ok {
			target.SetString(value)
		}
		return
	}
	var list secret.List
	for i, child := range oneOrMany(n) {
		place := at
		if child != n {
			place = fmt.Sprintf("%s[%d]", at, i)
		}
		value, ok := d.readSecret(f, child, join(path, name), place)
		if !ok {
			return
		}
		for _, line := range secretLines(value) {
			d.secrets = append(d.secrets, line)
			list = append(list, secret.String(line))
		}
	}
	target.Set(reflect.ValueOf(list))
}

// oneOrMany returns the entries of a list, or n itself if it is not one.
func oneOrMany(n *yaml.Node) []*yaml.Node {
	if n.Kind == yaml.SequenceNode {
		return n.Content
	}
	return []*yaml.Node{n}
}

// secretLines returns the lines of text that hold something, without the white space around them.
func secretLines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// readSecret reads the file that n names for the secret at path; at is the path of n itself. It
// reports, and returns false, if it cannot be used.
func (d *decoder) readSecret(f *field, n *yaml.Node, path, at string) (string, bool) {
	if n = d.resolve(n, at); n == nil {
		return "", false
	}
	file, ok := d.text(f, n, at)
	if !ok {
		return "", false
	}
	if file == "" {
		d.report(placeOf(n), at, "names no file", "remove it, or give "+strings.TrimSuffix(f.name, fileKey("")))
		return "", false
	}
	value, err := ReadSecretFile(file)
	if err != nil {
		// As written in the configuration: an operator who puts the secret's variable here must not
		// find the secret in a log.
		d.reportText(placeOf(n), at, strings.ReplaceAll(err.Error(), file, n.Value))
		return "", false
	}
	d.secrets = append(d.secrets, value.Reveal())
	d.files[path] = append(d.files[path], file)
	if check := formats[f.format].valid; check != nil {
		if err := check(value.Reveal()); err != nil {
			d.reportText(placeOf(n), at, "the secret in the file "+err.Error())
			return "", false
		}
	}
	return value.Reveal(), true
}

// secretList decodes one secret, or a list of them.
func (d *decoder) secretList(f *field, n *yaml.Node, v reflect.Value, path string) {
	entry := &field{name: f.name, typ: reflect.TypeFor[secret.String](), kind: kindSecret, format: f.format}
	var list secret.List
	for i, child := range oneOrMany(n) {
		at := path
		if child != n {
			at = fmt.Sprintf("%s[%d]", path, i)
			if child = d.resolve(child, at); child == nil {
				continue
			}
			d.places[at] = placeOf(child)
		}
		var one secret.String
		d.scalar(entry, child, reflect.ValueOf(&one).Elem(), at)
		switch {
		case one.IsSet():
			list = append(list, one)
		case n.Kind == yaml.SequenceNode && d.clean(at):
			d.report(placeOf(child), at, "is empty", "remove it, or give a secret")
		}
	}
	v.Set(reflect.ValueOf(list))
}
