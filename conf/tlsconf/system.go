package tlsconf

import (
	"crypto/x509"
	"os"
	"runtime"

	"workos-relay/conf/livefile"
)

// bundles are the files in which Go looks for the system's authorities; the first that exists holds them.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS
	"/etc/ssl/cert.pem",                                 // Alpine, BSD
}

// systemBundle returns the file with the system's authorities, SSL_CERT_FILE if that is set, and the name under which messages
// speak of it. It returns false if there is none, or if Go asks the system by other means.
func systemBundle() (livefile.File, bool) {
	switch runtime.GOOS {
	case "darwin", "ios", "windows":
		return livefile.File{}, false
	}
	if path := os.Getenv("SSL_CERT_FILE"); path != "" {
		return livefile.File{Key: "SSL_CERT_FILE", Path: path, Kept: true}, true
	}
	for _, path := range bundles {
		if _, err := os.Stat(path); err == nil {
			return livefile.File{Key: "the system's authorities", Path: path, Kept: true}, true
		}
	}
	return livefile.File{}, false
}

// System are the system's authorities, those included that were added to their file since the process started: Go itself reads them
// once. An authority that is taken out stays trusted until a restart. It is safe for concurrent use.
type System struct {
	file *livefile.Value[[]byte] // nil if the file cannot be followed
}

// SystemRoots opens the file of the system's authorities. It cannot fail: without a file that can be followed, Go's own choice stays.
func SystemRoots(set *livefile.Set) *System {
	file, ok := systemBundle()
	if !ok {
		return &System{}
	}
	v, err := livefile.Open(set, []livefile.File{file}, func(contents [][]byte) (livefile.Parsed[[]byte], error) {
		return livefile.Parsed[[]byte]{Value: contents[0]}, livefile.CheckAuthorities(contents[0])
	})
	if err != nil {
		return &System{}
	}
	return &System{v}
}

// Pool returns the authorities for a connection that is about to be made; nil for those that Go has read, as long as nothing has
// changed.
func (s *System) Pool() *x509.CertPool {
	if s.file == nil {
		return nil
	}
	text := s.file.Latest()
	if s.file.Version() == 1 {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pool.AppendCertsFromPEM(text)
	return pool
}

// version rises with each change.
func (s *System) version() uint64 {
	if s.file == nil {
		return 0
	}
	s.file.Get()
	return s.file.Version()
}
