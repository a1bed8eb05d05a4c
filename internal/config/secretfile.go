package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"workos-relay/internal/secret"
)

// maxSecret bounds what is read of a secret file.
const maxSecret = 64 << 10

// ReadSecretFile reads a secret from a regular file and drops white space at its end. The error names the file.
func ReadSecretFile(path string) (secret.String, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("the secret file %s does not exist: %w", path, os.ErrNotExist)
	case err != nil:
		return "", fmt.Errorf("reading the secret file: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("the secret file %s is no regular file", path)
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
		return "", fmt.Errorf("the secret file %s is empty", path)
	}
	return secret.String(value), nil
}

// secretFile decodes the _file twin of a secret into target, the secret itself.
func (d *decoder) secretFile(f *field, n *yaml.Node, given map[string]*yaml.Node, target reflect.Value, path string) {
	at := join(path, f.name)
	name := strings.TrimSuffix(f.name, twin(""))
	if n = d.resolve(n, at); n == nil {
		return
	}
	d.places[at] = placeOf(n)
	file, ok := d.text(f, n, at)
	switch {
	case !ok:
	case given[name] != nil:
		d.report(placeOf(n), at, fmt.Sprintf("stands beside %s, and only one of them can hold", name), "remove one")
	case file == "":
		d.report(placeOf(n), at, "names no file", "remove it, or give "+name)
	default:
		value, err := ReadSecretFile(file)
		if err != nil {
			// As it stands in the configuration: who puts the secret's variable here must not find the secret in a log.
			d.report(placeOf(n), at, strings.ReplaceAll(err.Error(), file, n.Value), "")
			return
		}
		d.secrets = append(d.secrets, value.Reveal())
		d.files[join(path, name)] = file
		if check := formats[f.format].valid; check != nil {
			if err := check(value.Reveal()); err != nil {
				d.reportText(placeOf(n), at, "the secret in the file "+err.Error())
				return
			}
		}
		target.SetString(value.Reveal())
	}
}
