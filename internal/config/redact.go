package config

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	credentials = regexp.MustCompile(`://[^/@\s]+@`)
	secretName  = regexp.MustCompile(`(?i)password|passwd|secret|token|jaas|private|credential`)
)

// maskCredentials hides user and password in addresses.
func maskCredentials(text string) string {
	return credentials.ReplaceAllString(text, "://[secret]@")
}

// Hide replaces each secret of the configuration in text by a placeholder, those included that its
// files held since the start, and user and password in addresses. It is the last guard before a
// text that others made is shown.
func (c *Config) Hide(text string) string {
	return maskCredentials(conceal(conceal(text, c.secrets, "[secret]"), c.Files.Secrets(), "[secret]"))
}

// Redacted returns the configuration in effect, defaults included, as nested maps and lists of
// plain values under the names of the file. It is safe to log: secrets, and credentials in
// addresses, are replaced by a placeholder.
func (c *Config) Redacted() map[string]any {
	return c.redact(c.format.root(), reflect.ValueOf(c).Elem(), "")
}

func (c *Config) redact(o *object, v reflect.Value, path string) map[string]any {
	out := make(map[string]any, len(o.fields))
	for _, f := range o.fields {
		at, target := join(path, f.name), v.FieldByIndex(f.index)
		switch {
		case f.fromSecret:
			switch files := c.files[strings.TrimSuffix(at, fileKey(""))]; len(files) {
			case 0:
			case 1:
				out[f.name] = files[0]
			default:
				out[f.name] = files
			}
		case f.kind == kindSection && f.optional && target.IsNil():
		case f.kind == kindSection:
			out[f.name] = c.redact(f.object, reflect.Indirect(target), at)
		case f.kind == kindSections:
			list := make([]any, target.Len())
			for i := range list {
				list[i] = c.redact(f.object, target.Index(i), at+"["+strconv.Itoa(i)+"]")
			}
			out[f.name] = list
		default:
			out[f.name] = redactValue(f, target)
		}
	}
	for _, variant := range o.variants {
		if settings, ok := variant.in(v); ok {
			for name, value := range c.redact(variant.object, settings, path) {
				out[name] = value
			}
		}
	}
	return out
}

func redactValue(f *field, v reflect.Value) any {
	switch f.kind {
	case kindDuration:
		return time.Duration(v.Int()).String()
	case kindTexts:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = maskCredentials(v.Index(i).String())
		}
		return list
	case kindSecrets:
		if v.Len() == 0 {
			return ""
		}
		return "[secret]"
	case kindMap:
		out := make(map[string]any, v.Len())
		for _, key := range v.MapKeys() {
			value := maskCredentials(v.MapIndex(key).String())
			if secretName.MatchString(key.String()) {
				value = "[secret]"
			}
			out[key.String()] = value
		}
		return out
	case kindText, kindSecret, kindBytes:
		if m, ok := v.Interface().(encoding.TextMarshaler); ok {
			text, err := m.MarshalText()
			if err != nil {
				return fmt.Sprintf("unprintable: %v", err)
			}
			return string(text)
		}
		return maskCredentials(v.String())
	default:
		return v.Interface()
	}
}
