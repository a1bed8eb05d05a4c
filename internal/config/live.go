package config

import (
	"encoding/base64"
	"errors"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
)

// The secrets of a configuration that may change while relay runs, because a file holds them. Each
// follows its file from the call on, by way of c.Files; a secret in the configuration itself does
// not change.

// APIKey returns source.api_key.
func (c *Config) APIKey() (*livefile.Current, error) {
	return c.current("source.api_key", "source.api_key", c.Source.APIKey, formats["api_key"].valid)
}

// Proxy returns a function that returns source.proxy, or nil if none is configured.
func (c *Config) Proxy() (func() *url.URL, error) {
	const path = "source.proxy"
	files := c.files[path]
	if len(files) == 0 {
		if !c.Source.Proxy.IsSet() {
			return nil, nil
		}
		fixed, err := url.Parse(c.Source.Proxy.Reveal())
		if err != nil {
			return nil, errors.New(path + " is not the URL of a proxy") // the cause holds the password
		}
		return func() *url.URL { return fixed }, nil
	}
	v, err := livefile.Open(c.Files, []livefile.File{{Key: fileKey(path), Path: files[0]}}, func(contents [][]byte) (livefile.Parsed[*url.URL], error) {
		text := strings.TrimRight(string(contents[0]), " \t\r\n")
		if err := validProxy(text); err != nil {
			return livefile.Parsed[*url.URL]{}, err
		}
		u, err := url.Parse(text)
		return livefile.Parsed[*url.URL]{Value: u, Secrets: proxySecrets(text)}, err
	})
	if err != nil {
		return nil, err
	}
	return v.Get, nil
}

// proxySecrets returns what must not be shown of the URL of a proxy: itself, its password, and the
// header that both are sent in.
func proxySecrets(text string) []string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return nil
	}
	password, _ := u.User.Password()
	return []string{text, password, url.QueryEscape(password), base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password))}
}

// AdminToken returns admin.token.
func (c *Config) AdminToken() (*livefile.Current, error) {
	return c.current("admin.token", "admin.token", c.Admin.Token, validToken)
}

// SinkSecret returns a secret of the sink with that name. key is its key below the sink, and value
// what c holds. New content of its file that check rejects is not used; check may be nil.
func (c *Config) SinkSecret(sink, key string, value secret.String, check func(string) error) (*livefile.Current, error) {
	return c.current("sinks["+strconv.Itoa(c.indexOf(sink))+"]."+key, sinkKey(sink)+"."+key, value, check)
}

// CollectorHeader returns the value of telemetry.SECTION.headers[i]: see Telemetry.Collector.
func (c *Config) CollectorHeader(section string, i int) (*livefile.Current, error) {
	path := "telemetry." + section + ".headers[" + strconv.Itoa(i) + "].value"
	return c.current(path, path, c.Telemetry.Collector(section).Headers[i].Value, nil)
}

// WebhookSecrets returns a function that returns source.webhook.secret: every secret that a webhook
// may be signed with.
func (c *Config) WebhookSecrets() (func() []string, error) {
	const path = "source.webhook.secret"
	var fixed []string
	for _, s := range c.Source.Webhook.Secret {
		fixed = append(fixed, s.Reveal())
	}
	var files []*livefile.Value[[]string]
	for _, file := range c.files[path] {
		v, err := livefile.Open(c.Files, []livefile.File{{Key: fileKey(path), Path: file}}, func(contents [][]byte) (livefile.Parsed[[]string], error) {
			lines := secretLines(string(contents[0]))
			return livefile.Parsed[[]string]{Value: lines, Secrets: lines}, nil
		})
		if err != nil {
			return nil, err
		}
		files = append(files, v)
	}
	return func() []string {
		if files == nil {
			return fixed
		}
		var all []string
		for _, v := range files {
			all = append(all, v.Get()...)
		}
		return all
	}, nil
}

// indexOf returns the index of the sink with that name, which there must be.
func (c *Config) indexOf(sink string) int {
	return slices.IndexFunc(c.Sinks, func(s Sink) bool { return s.Name == sink })
}

// current returns the secret at path, which messages call key.
func (c *Config) current(path, key string, value secret.String, check func(string) error) (*livefile.Current, error) {
	files := c.files[path]
	if len(files) == 0 {
		return livefile.Fixed(value), nil
	}
	v, err := livefile.Secret(c.Files, livefile.File{Key: fileKey(key), Path: files[0]}, check)
	if err != nil {
		return nil, err
	}
	return livefile.FromFile(v), nil
}

// FilesInUse returns the path of every file that the configuration names, but for the file itself.
func (c *Config) FilesInUse() map[string]bool {
	in := map[string]bool{}
	for _, files := range c.files {
		for _, file := range files {
			in[file] = true
		}
	}
	c.walk(c.format.root(), reflect.ValueOf(c).Elem(), "", "", func(f *field, _, v reflect.Value, _, path string) {
		if _, ok := c.contents[path]; ok {
			in[v.String()] = true
		}
	})
	return in
}
