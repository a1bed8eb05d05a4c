// Package given records which keys of a section a configuration file names, so that a default can
// be told apart from a value that somebody has written down.
package given

// Keys is the set of keys that a section of the configuration file names. The zero value is that of
// a section made in code, of which nothing is known.
type Keys struct {
	names map[string]struct{}
}

// Note records the keys that the file names. The decoder of the configuration calls it for each
// section that embeds Keys.
func (k *Keys) Note(names []string) {
	k.names = make(map[string]struct{}, len(names))
	for _, name := range names {
		k.names[name] = struct{}{}
	}
}

// Has reports whether the file names the key. Of a section made in code, each value that is set
// counts as named.
func (k *Keys) Has(name string, set bool) bool {
	if k.names == nil {
		return set
	}
	_, ok := k.names[name]
	return ok
}
