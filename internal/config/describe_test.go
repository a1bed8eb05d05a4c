package config

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"workos-relay/conf/secret"
	"workos-relay/router"
	"workos-relay/sink"
)

// A mistake in a declaration is found by the first test that touches it, not by a user.
func TestDescribePanics(t *testing.T) {
	type twice struct {
		Password secret.String `yaml:"password"`
		File     string        `yaml:"password_file"`
	}
	type shadow struct {
		Name string `yaml:"name"`
		Type string `yaml:"type"`
		Of   sink.Settings
	}
	type unknown struct {
		Done chan int `yaml:"done"`
	}
	type pointer struct {
		Name *string `yaml:"name"`
	}
	type badDefault struct {
		Names []string `yaml:"names" default:"["`
	}
	kinds := []*sink.Kind{{Name: "bus", New: func() sink.Settings { return &named{} }}}
	for _, v := range []any{twice{}, shadow{}, unknown{}, pointer{}, badDefault{}} {
		require.Panics(t, func() { describe(reflect.TypeOf(v), kinds) }, "%T", v)
	}
	type section struct {
		Type string `yaml:"type"`
		Of   sink.Settings
	}
	require.NotPanics(t, func() { describe(reflect.TypeFor[section](), kinds) })
	kinds[0].New = func() sink.Settings { return named{} }
	require.Panics(t, func() { describe(reflect.TypeFor[section](), kinds) }, "settings that cannot be filled in")
}

// named are settings with a key that a section may have as well.
type named struct {
	sink.Settings
	Name string `yaml:"name"`
}

type leaky struct {
	Password secret.String `yaml:"password"`
}

func (l leaky) Validate() error { return fmt.Errorf("the password %q is weak", l.Password.Reveal()) }

// A package that shows a secret in its error does not get it printed.
func TestSecretsAreScrubbed(t *testing.T) {
	type outer struct {
		Inner leaky `yaml:"inner"`
		Wait  struct {
			For time.Duration `yaml:"for" default:"2s"`
		} `yaml:",inline"`
	}
	var doc yaml.Node
	require.NoError(t, yaml.Load([]byte(`inner: {password: "hunter\"22"}`), &doc))
	d := &decoder{env: env(), places: map[string]location{}, files: map[string][]string{}}
	var v outer
	o := describe(reflect.TypeOf(v), nil)
	d.section(o, doc.Content[0], reflect.ValueOf(&v).Elem(), "")
	d.validate(o, reflect.ValueOf(&v).Elem(), "")
	require.Equal(t, `hunter"22`, v.Inner.Password.Reveal())
	require.Equal(t, 2*time.Second, v.Wait.For)
	problems := d.scrub(d.problems)
	require.Len(t, problems, 1)
	require.Equal(t, `inner: the password "[secret]" is weak`, problems[0].String())
}

func TestRouterConfig(t *testing.T) {
	c := parse(t, whole, env("KEY", "sk_live_1", "RATE", "12.5", "NATS_PASSWORD", "p"))
	want := router.Config{
		Relay: "prod", Prefix: "acme.", Routes: c.Routes, Encoding: router.CloudEvents, DeadLetter: "relay.dead_letter", Binding: router.NATS,
	}
	require.Equal(t, want, c.RouterConfig(&c.Sinks[0]))
	want.Prefix, want.Binding = "k.", router.Kafka
	require.Equal(t, want, c.RouterConfig(&c.Sinks[1]))
}

func TestEventTypes(t *testing.T) {
	c := parse(t, `
source: {events: [vault.kek.*, +future.type, user.created]}
sinks: [{name: a, type: stdout}, {name: b, type: stdout, events: ["vault.*", "user.*"]}]
`, withKey)
	types, err := c.EventTypes(&c.Sinks[0])
	require.NoError(t, err)
	require.Equal(t, []string{"future.type", "user.created", "vault.kek.created", "vault.kek.deleted"}, types)
	types, err = c.EventTypes(&c.Sinks[1])
	require.NoError(t, err)
	require.Equal(t, []string{"user.created", "vault.kek.created", "vault.kek.deleted"}, types)
}
