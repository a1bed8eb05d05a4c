package config

import (
	"reflect"
	"sync"

	"workos-relay/sink"
)

// Format is the format of configuration files: the keys that Config declares and, for each kind of
// bus, those of its settings. It is safe for concurrent use.
type Format struct {
	kinds []*sink.Kind
	root  func() *object // everything that a configuration may contain
}

// For returns the format of configurations whose sinks are of these kinds. The documents that are
// made from it have them in this order.
func For(kinds []*sink.Kind) *Format {
	return &Format{kinds: kinds, root: sync.OnceValue(func() *object { return describe(reflect.TypeFor[Config](), kinds) })}
}

// Kinds returns the kinds of bus that sinks may be of. The caller must not change the list.
func (f *Format) Kinds() []*sink.Kind { return f.kinds }

// kind returns the kind with that name, or nil if there is none.
func (f *Format) kind(name string) *sink.Kind {
	for _, k := range f.kinds {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// Generated is every file that is made from the declaration, by its path from the root of the
// repository. "go generate ./internal/config" writes them.
func (f *Format) Generated() map[string][]byte {
	return map[string][]byte{
		"config.example.yaml":     f.Example(),
		"docs/config.schema.json": f.Schema(),
		"docs/configuration.md":   f.Reference(),
	}
}
