package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const temporarySuffix = ".tmp"

// paths are the files of one lane in a directory.
type paths struct {
	dir      string
	main     string
	previous string
	lock     string
	holder   string
	// destination holds the record of the destination.
	destination string
	archiveFor  string // what the name of an archived checkpoint begins with; a time follows
}

func newPaths(dir string, id Identity) (paths, error) {
	if id.Relay == "" || id.Lane == "" {
		return paths{}, errors.New("a checkpoint file needs the id of the relay and the name of the sink")
	}
	base := filepath.Join(dir, fileName(id.Relay)+"."+fileName(id.Lane))
	return paths{
		dir:         dir,
		main:        base + ".checkpoint",
		previous:    base + ".previous",
		lock:        base + ".lock",
		holder:      base + ".holder",
		destination: base + ".destination",
		archiveFor:  base + ".archive-",
	}, nil
}

// Path returns the path of another file of the lane in the directory of its checkpoint. kind is the
// end of its name.
func Path(dir string, id Identity, kind string) string {
	return filepath.Join(dir, fileName(id.Relay)+"."+fileName(id.Lane)+"."+kind)
}

// temporaries returns the files that a crash may have left behind.
func (p paths) temporaries() ([]string, error) {
	archives, err := p.listed(temporarySuffix)
	if err != nil {
		return nil, err
	}
	return append(archives, p.main+temporarySuffix, p.previous+temporarySuffix, p.holder+temporarySuffix, p.destination+temporarySuffix), nil
}

// archives returns the paths of the archived checkpoints, oldest first.
func (p paths) archives() ([]string, error) { return p.listed("Z") }

// listed returns the paths that begin like those of archives and end in suffix, sorted.
func (p paths) listed(suffix string) ([]string, error) {
	entries, err := os.ReadDir(p.dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var out []string
	for _, entry := range entries {
		path := filepath.Join(p.dir, entry.Name())
		if strings.HasPrefix(path, p.archiveFor) && strings.HasSuffix(path, suffix) {
			out = append(out, path)
		}
	}
	return out, nil
}

// fileName writes s with nothing but letters, digits, _ and - as they are, so that no two names
// give the same path and no name leaves the directory.
func fileName(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
