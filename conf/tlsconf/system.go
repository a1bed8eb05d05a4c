package tlsconf

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"workos-relay/conf/livefile"
)

// bundles are the files in which Go looks for the system's authorities; the first that exists holds
// them.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS
	"/etc/ssl/cert.pem",                                 // Alpine, BSD
}

// systemBundle returns the file with the system's authorities, SSL_CERT_FILE if that is set, and
// the name under which messages speak of it. It returns nil if there is none, or if Go asks the
// system by other means.
func systemBundle() *livefile.File {
	switch runtime.GOOS {
	case "darwin", "ios", "windows":
		return nil
	}
	if path := os.Getenv("SSL_CERT_FILE"); path != "" {
		return &livefile.File{Key: "SSL_CERT_FILE", Path: path, Kept: true}
	}
	for _, path := range bundles {
		if _, err := os.Stat(path); err == nil {
			return &livefile.File{Key: "the system's authorities", Path: path, Kept: true}
		}
	}
	return nil
}

// System are the system's authorities as their file and directories are now: Go itself reads them
// once. It is safe for concurrent use.
type System struct {
	file *livefile.Value[[]byte] // nil if the file cannot be followed
	dirs *directories            // nil if Go asks the system by other means

	mu   sync.Mutex     // guards what follows
	pool *x509.CertPool // as of at; nil for those that Go has read
	at   [2]uint64      // versions of file and dirs
}

// SystemRoots opens the system's authorities: the file that SSL_CERT_FILE names or the bundle of
// the Linux distribution, and the directories that SSL_CERT_DIR names or those of the distribution.
// It cannot fail: what cannot be followed stays as Go has read it.
func SystemRoots(set *livefile.Set) *System {
	file, dirs := systemBundle(), systemDirectories()
	s := &System{dirs: dirs, at: [2]uint64{1, 1}}
	if file == nil {
		return s
	}
	v, err := livefile.Open(set, []livefile.File{*file}, func(contents [][]byte) (livefile.Parsed[[]byte], error) {
		return livefile.Parsed[[]byte]{Value: contents[0]}, livefile.CheckAuthorities(contents[0])
	})
	if err == nil {
		s.file = v
		s.at[0] = v.Version() // of a value that is shared
		if s.at[0] > 1 {
			s.at[0] = 0 // it has changed since Go has read it
		}
	}
	return s
}

// Pool returns the authorities for a connection that is about to be made; nil for those that Go has
// read, as long as nothing has changed. It returns the same pool until something changes again. If
// nothing is left, as while all is being replaced, the pool before
// stays.
func (s *System) Pool() *x509.CertPool {
	if s.dirs == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := [2]uint64{1, 1}
	var text []byte
	if s.file != nil {
		text = s.file.Latest()
		now[0] = s.file.Version()
	}
	var certs [][]byte
	certs, now[1] = s.dirs.contents()
	if now == s.at {
		return s.pool
	}
	pool := x509.NewCertPool()
	if s.file == nil { // Go may have read it all the same
		if all, err := x509.SystemCertPool(); err == nil {
			pool = all
		}
	}
	for _, c := range append(certs, text) {
		pool.AppendCertsFromPEM(c)
	}
	if !pool.Equal(x509.NewCertPool()) {
		s.pool, s.at = pool, now
	}
	return s.pool
}

// version rises with each change.
func (s *System) version() uint64 {
	if s.dirs == nil {
		return 0
	}
	_, n := s.dirs.contents()
	if s.file != nil {
		s.file.Get()
		n += s.file.Version()
	}
	return n
}

// freshness is how old the last look at directories may be to do without another one.
const freshness = time.Second

// directories are directories with a file for each authority. It is safe for concurrent use.
type directories struct {
	paths []string

	mu     sync.Mutex // guards what follows
	looked time.Time
	names  string // of the files, with size and time
	digest [sha256.Size]byte
	certs  [][]byte
	n      uint64 // rises each time certs changes, from 1
}

// systemDirectories returns the directories of the system's authorities, nil if Go asks the system
// by other means.
func systemDirectories() *directories {
	d := &directories{}
	switch runtime.GOOS {
	case "darwin", "ios", "windows":
		return nil
	case "linux":
		d.paths = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
	default:
		d.paths = []string{"/etc/ssl/certs", "/usr/local/share/certs", "/etc/openssl/certs", "/etc/certs/CA"}
	}
	if list := os.Getenv("SSL_CERT_DIR"); list != "" {
		d.paths = strings.Split(list, ":")
	}
	d.contents()
	return d
}

// contents returns what the files hold, and how often that has changed.
func (d *directories) contents() ([][]byte, uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.n == 0 || now.Sub(d.looked) >= freshness {
		d.looked = now
		if names := d.list(); d.n == 0 || names != d.names {
			d.names = names
			d.read()
		}
	}
	return d.certs, d.n
}

// list describes every file.
func (d *directories) list() string {
	var b strings.Builder
	d.each(func(path string) {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		}
	})
	return b.String()
}

// each calls f with the path of every file that Go reads: links to a file of the same directory
// stand for the same authority.
func (d *directories) each(f func(path string)) {
	for _, dir := range d.paths {
		entries, _ := os.ReadDir(dir) // one that is not there holds none
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.Type()&fs.ModeSymlink != 0 {
				if target, err := os.Readlink(path); err == nil && !strings.Contains(target, "/") {
					continue
				}
			}
			f(path)
		}
	}
}

// maxCertFile bounds what is read of a file of a directory.
const maxCertFile = 1 << 20

func (d *directories) read() {
	var certs [][]byte
	all := sha256.New()
	d.each(func(path string) {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxCertFile { // a pipe would block
			return
		}
		if text, err := os.ReadFile(path); err == nil { //nolint:gosec // in a directory of authorities
			_, _ = all.Write(text)
			certs = append(certs, text)
		}
	})
	if digest := [sha256.Size]byte(all.Sum(nil)); d.n == 0 || digest != d.digest {
		d.digest, d.certs = digest, certs
		d.n++
	}
}
