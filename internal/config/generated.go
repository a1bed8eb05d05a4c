package config

// Generated is every file that is made from the declaration, by its path from the root of the
// repository. "go generate ./internal/config" writes them.
func Generated() map[string][]byte {
	return map[string][]byte{
		"config.example.yaml":     Example(),
		"docs/config.schema.json": Schema(),
		"docs/configuration.md":   Reference(),
	}
}
