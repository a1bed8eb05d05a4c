package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"workos-relay/conf/secret"
)

// Change is a key that differs between two configurations.
type Change struct {
	// Key is the path of the key. Sinks go by their name, so that their order does not matter:
	// sinks[kafka].brokers. A sink that is in one of the configurations only is a single change,
	// sinks[kafka].
	Key string
	// From and To are the values as they may be shown. Both are empty if they must not be shown, or
	// if the contents of the file that the key names have changed and not the name.
	From, To string
	// Content is true if the key names the same file in both configurations, and only what the file
	// holds has changed.
	Content bool
}

// String returns text for logs and answers.
func (c Change) String() string {
	if c.From == "" && c.To == "" {
		return c.Key + ": changed"
	}
	return fmt.Sprintf("%s: from %s to %s", c.Key, orNothing(c.From), orNothing(c.To))
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}

// Keys returns the path of every key that has a value, in the words of Change.Key, in no order.
func (c *Config) Keys() []string { return slices.Collect(maps.Keys(c.flatten())) }

// Diff returns what differs in the configuration to, sorted by key.
func (c *Config) Diff(to *Config) []Change {
	before, after := c.flatten(), to.flatten()
	var out []Change
	keys := slices.Sorted(maps.Keys(before))
	for key := range after {
		if _, ok := before[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		a, hadOne := before[key]
		b, hasOne := after[key]
		switch {
		case a == b, !hadOne && b.zero, !hasOne && a.zero:
		case a.shown == b.shown: // a secret, or the contents of a file
			out = append(out, Change{Key: key, Content: a.file != "" && a.file == b.file})
		default:
			out = append(out, Change{Key: key, From: a.shown, To: b.shown})
		}
	}
	return wholeSinks(c, to, out)
}

// wholeSinks puts one change in the place of all those of a sink that has come or gone.
func wholeSinks(from, to *Config, changes []Change) []Change {
	var out []Change
	for _, side := range []struct {
		has, lacks *Config
		text       func(name string) Change
	}{
		{from, to, func(name string) Change { return Change{Key: sinkKey(name), From: "a sink"} }},
		{to, from, func(name string) Change { return Change{Key: sinkKey(name), To: "a sink"} }},
	} {
		for i := range side.has.Sinks {
			name := side.has.Sinks[i].Name
			if slices.ContainsFunc(side.lacks.Sinks, func(s Sink) bool { return s.Name == name }) {
				continue
			}
			changes = slices.DeleteFunc(changes, func(ch Change) bool { return isAtOrBelow(ch.Key, sinkKey(name)) })
			out = append(out, side.text(name))
		}
	}
	out = append(out, changes...)
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func sinkKey(name string) string { return "sinks[" + name + "]" }

// leaf is a value as it may be shown, and something that differs wherever the value does.
type leaf struct {
	shown, exact string
	zero         bool
	file         string // the file or files that the value comes from, or that it names
}

// flatten returns every value by its key, sinks by their name.
func (c *Config) flatten() map[string]leaf {
	out := map[string]leaf{}
	c.walk(c.format.root(), reflect.ValueOf(c).Elem(), "", "", func(f *field, in, v reflect.Value, key, path string) {
		shown := ""
		if f.isSecret() {
			shown = fmt.Sprint(redactValue(f, v))
		} else if !v.IsZero() || f.kind == kindBool || f.kind == kindInt {
			shown = fmt.Sprint(redactValue(f, v))
		}
		exact := fmt.Sprintf("%q", fmt.Sprint(plain(v)))
		if f.named && names(in, f.name) {
			exact += " named" // a default that is written down is more than a default: relay applies it to what exists
		}
		file := strings.Join(c.files[path], "\n")
		if c.contents[path] != "" {
			file = v.String()
		}
		out[key] = leaf{shown: shown, exact: exact + c.contents[path], zero: v.IsZero(), file: file}
	})
	return out
}

// names reports whether the file names a key of the section v.
func names(v reflect.Value, name string) bool {
	k, ok := v.Addr().Interface().(interface {
		Has(name string, set bool) bool
	})
	return ok && k.Has(name, false)
}

// plain is the value of v, secrets included: to be compared and never shown.
func plain(v reflect.Value) any {
	if list, ok := v.Interface().(secret.List); ok {
		texts := make([]string, len(list))
		for i, s := range list {
			texts[i] = s.Reveal()
		}
		return fmt.Sprintf("%q", texts)
	}
	if v.Kind() == reflect.String {
		return v.String()
	}
	return v.Interface()
}

// walk visits every value below v, with the section that holds it: key names sinks by their name,
// path by their place as messages do.
func (c *Config) walk(o *object, v reflect.Value, key, path string, visit func(f *field, in, v reflect.Value, key, path string)) {
	for _, f := range o.fields {
		target, keyAt, at := v.FieldByIndex(f.index), join(key, f.name), join(path, f.name)
		switch {
		case f.fromSecret:
		case f.kind == kindSection && f.optional && target.IsNil():
		case f.kind == kindSection:
			c.walk(f.object, reflect.Indirect(target), keyAt, at, visit)
		case f.kind == kindSections:
			for i := range target.Len() {
				name := strconv.Itoa(i)
				if sink, ok := target.Index(i).Interface().(Sink); ok {
					name = sink.Name
				}
				c.walk(f.object, target.Index(i), keyAt+"["+name+"]", at+"["+strconv.Itoa(i)+"]", visit)
			}
		default:
			visit(f, v, target, keyAt, at)
		}
	}
	for _, variant := range o.variants {
		if settings, ok := variant.in(v); ok {
			c.walk(variant.object, settings, key, path, visit)
		}
	}
}

// fingerprint notes what the files hold that keys such as tls.ca_file name, so that Diff sees when
// one of them was replaced. Secrets from files are values themselves.
func (c *Config) fingerprint() {
	c.contents = map[string]string{}
	c.walk(c.format.root(), reflect.ValueOf(c).Elem(), "", "", func(f *field, _, v reflect.Value, _, path string) {
		if f.kind == kindText && strings.HasSuffix(f.name, fileKey("")) && v.Kind() == reflect.String && v.String() != "" {
			c.contents[path] = sum(v.String())
		}
	})
}

// sum is a digest of a file, or the reason why it cannot be read. The user of the file reports
// that.
func sum(path string) string {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(file, maxFile)); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(h.Sum(nil))
}
