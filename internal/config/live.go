package config

import (
	"reflect"
	"slices"
	"strconv"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/sink/nats"
)

// The secrets of a configuration that may change while relay runs, because a file holds them. Each
// follows its file from the call on, by way of c.Files; a secret in the configuration itself does
// not change.

// APIKey returns source.api_key.
func (c *Config) APIKey() (*livefile.Current, error) {
	return c.current("source.api_key", "source.api_key", c.Source.APIKey, formats["api_key"].valid)
}

// AdminToken returns admin.token.
func (c *Config) AdminToken() (*livefile.Current, error) {
	return c.current("admin.token", "admin.token", c.Admin.Token, validToken)
}

// NATSPassword returns auth.password of the sink of type nats with that name, or embedded.password
// if its server is embedded.
func (c *Config) NATSPassword(sink string) (*livefile.Current, error) {
	n := c.Sinks[c.indexOf(sink)].NATS
	if n.URL == nats.Embedded {
		return c.ofSink(sink, "embedded.password", n.Embedded.Password, nil)
	}
	return c.ofSink(sink, "auth.password", n.Auth.Password, nil)
}

// NATSToken returns auth.token of the sink of type nats with that name, or embedded.token if its
// server is embedded.
func (c *Config) NATSToken(sink string) (*livefile.Current, error) {
	n := c.Sinks[c.indexOf(sink)].NATS
	if n.URL == nats.Embedded {
		return c.ofSink(sink, "embedded.token", n.Embedded.Token, nats.CheckToken)
	}
	return c.ofSink(sink, "auth.token", n.Auth.Token, nil)
}

// KafkaPassword returns sasl.password of s, one of c.Sinks of type kafka.
func (c *Config) KafkaPassword(s *Sink) (*livefile.Current, error) {
	return c.ofSink(s.Name, "sasl.password", s.Kafka.SASL.Password, nil)
}

// TraceHeader returns the value of telemetry.traces.headers[i].
func (c *Config) TraceHeader(i int) (*livefile.Current, error) {
	path := "telemetry.traces.headers[" + strconv.Itoa(i) + "].value"
	return c.current(path, path, c.Telemetry.Traces.Headers[i].Value, nil)
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
		v, err := livefile.Open(c.Files, []livefile.File{{Key: twin(path), Path: file}}, func(contents [][]byte) (livefile.Parsed[[]string], error) {
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

func (c *Config) ofSink(sink, name string, value secret.String, check func(string) error) (*livefile.Current, error) {
	return c.current("sinks["+strconv.Itoa(c.indexOf(sink))+"]."+name, sinkKey(sink)+"."+name, value, check)
}

// current returns the secret at path, which messages call key.
func (c *Config) current(path, key string, value secret.String, check func(string) error) (*livefile.Current, error) {
	files := c.files[path]
	if len(files) == 0 {
		return livefile.Fixed(value), nil
	}
	v, err := livefile.Secret(c.Files, livefile.File{Key: twin(key), Path: files[0]}, check)
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
	c.walk(declaration(), reflect.ValueOf(c).Elem(), "", "", func(f *field, _, v reflect.Value, _, path string) {
		if _, ok := c.contents[path]; ok {
			in[v.String()] = true
		}
	})
	return in
}
