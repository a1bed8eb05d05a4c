package livefile_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/conf/livefile"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func rename(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".new", text)
	require.NoError(t, os.Rename(path+".new", path))
}

// newSet returns a set that logs into what is returned with it.
func newSet() (*livefile.Set, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return livefile.NewSet(zap.New(core)), logs
}

func TestNewContentIsSeenHoweverItComes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	steps := []struct {
		name   string
		change func(text string)
	}{
		{"renamed over", func(text string) { rename(t, path, text) }},
		{"written in place", func(text string) { write(t, path, text) }},
		{"with the time of before", func(text string) {
			info, err := os.Stat(path)
			require.NoError(t, err)
			write(t, path, text)
			require.NoError(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
		}},
		{"deleted and written again", func(text string) {
			require.NoError(t, os.Remove(path))
			write(t, path, text)
		}},
		{"swapped by a link, as Kubernetes does", func(text string) {
			data := filepath.Join(dir, "..data-"+text)
			require.NoError(t, os.Mkdir(data, 0o700))
			write(t, filepath.Join(data, "secret"), text)
			link := filepath.Join(dir, "..data")
			require.NoError(t, os.Symlink(data, link+"_tmp"))
			require.NoError(t, os.Rename(link+"_tmp", link))
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, os.Symlink(filepath.Join("..data", "secret"), path))
		}},
		{"swapped again", func(text string) {
			data := filepath.Join(dir, "..data-"+text)
			require.NoError(t, os.Mkdir(data, 0o700))
			write(t, filepath.Join(data, "secret"), text)
			link := filepath.Join(dir, "..data")
			require.NoError(t, os.Symlink(data, link+"_tmp"))
			require.NoError(t, os.Rename(link+"_tmp", link))
		}},
	}
	write(t, path, "s3cret-0\n")
	set, logs := newSet()
	v, err := livefile.Secret(set, livefile.File{Key: "a.key_file", Path: path}, nil)
	require.NoError(t, err)
	require.Equal(t, "s3cret-0", v.Get())
	for i, step := range steps {
		text := "s3cret-" + string(rune('a'+i))
		step.change(text)
		require.Equal(t, text, v.Latest(), step.name)
		require.Equal(t, text, v.Get(), step.name)
		require.Equal(t, uint64(i+2), v.Version(), step.name)
		require.Len(t, logs.All(), i+1, "logged once: %s", step.name)
		entry := logs.All()[i]
		require.Equal(t, zap.InfoLevel, entry.Level)
		require.Equal(t, []any{"a.key_file"}, entry.ContextMap()["keys"])
		require.NotContains(t, entry.Message, "s3cret")
		require.Contains(t, set.Secrets(), text)
	}
	require.Contains(t, set.Secrets(), "s3cret-0", "what was secret stays secret")
}

func TestUselessContentLeavesTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "secret")
		write(t, path, "good")
		set, logs := newSet()
		bad := errors.New("is too short")
		v, err := livefile.Secret(set, livefile.File{Key: "k", Path: path}, func(s string) error {
			if len(s) < 3 {
				return bad
			}
			return nil
		})
		require.NoError(t, err)
		for _, step := range []struct {
			change func()
			says   string
		}{
			{func() { write(t, path, "") }, "is empty"},
			{func() { write(t, path, " \n") }, "is empty"},
			{func() { write(t, path, "no") }, "is too short"},
			{func() { write(t, path, strings.Repeat("x", 2<<20)) }, "larger than"},
			{func() { require.NoError(t, os.Remove(path)) }, "no such file"},
			{func() {
				require.NoError(t, os.Remove(path))
				require.NoError(t, os.Mkdir(path, 0o700))
			}, "not a regular file"},
			{func() {
				require.NoError(t, os.Remove(path))
				require.NoError(t, syscall.Mkfifo(path, 0o600))
			}, "not a regular file"},
		} {
			step.change()
			require.Equal(t, "good", v.Latest(), step.says)
			require.Empty(t, logs.TakeAll(), "it may be in the middle of a change: %s", step.says)
			for range 5 {
				time.Sleep(livefile.Interval)
				require.Equal(t, "good", v.Get(), step.says)
			}
			told := logs.TakeAll()
			require.Len(t, told, 1, "told once: %s", step.says)
			require.Equal(t, zap.WarnLevel, told[0].Level)
			require.Contains(t, told[0].ContextMap()["error"], step.says)
			require.NoError(t, os.RemoveAll(path))
			write(t, path, "good")
			require.Equal(t, "good", v.Latest())
			require.Empty(t, logs.TakeAll(), "content that was in use all the time is not reported")
		}
		require.NoError(t, os.RemoveAll(path))
		write(t, path, "better")
		require.Equal(t, "better", v.Latest())
		require.Len(t, logs.TakeAll(), 1)
	})
}

// A large file is read only if its metadata says that it may have changed.
func TestLargeFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bundle")
	large := strings.Repeat("x", 200<<10)
	write(t, path, large+"1")
	set, logs := newSet()
	v, err := livefile.Secret(set, livefile.File{Key: "k", Path: path}, nil)
	require.NoError(t, err)
	old := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(path, old, old))
	require.Equal(t, large+"1", v.Latest())
	require.Equal(t, large+"1", v.Latest())
	write(t, path, large+"2")
	require.Equal(t, large+"2", v.Latest())
	require.NoError(t, os.Chtimes(path, old, old))
	rename(t, path, large+"3")
	require.Equal(t, large+"3", v.Latest())
	require.Equal(t, 2, logs.Len())
}

func TestRunLooksByItself(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "one")
	set, logs := newSet()
	v, err := livefile.Secret(set, livefile.File{Key: "k", Path: path}, nil)
	require.NoError(t, err)
	go set.Run(t.Context())
	write(t, path, "two")
	require.Eventually(t, func() bool { return v.Version() == 2 && logs.Len() == 1 }, 3*time.Minute, 10*time.Millisecond)

	same, err := livefile.Secret(set, livefile.File{Key: "k", Path: path}, nil)
	require.NoError(t, err)
	require.Same(t, v, same, "another caller that opens it shares it")
	sinks := []*livefile.Value[string]{}
	for _, key := range []string{"sinks[a].auth.password_file", "sinks[b].auth.password_file"} {
		one, err := livefile.Secret(set, livefile.File{Key: key, Path: path}, nil)
		require.NoError(t, err)
		sinks = append(sinks, one)
	}
	require.Same(t, sinks[0], sinks[1], "sinks share a file")
	strict, err := livefile.Secret(set, livefile.File{Key: "admin.password_file", Path: path}, func(string) error { return nil })
	require.NoError(t, err)
	require.NotSame(t, sinks[0], strict, "who demands more of it does not")
	set.Retain(func(p string) bool { return p != path })
	other, err := livefile.Secret(set, livefile.File{Key: "k", Path: path}, nil)
	require.NoError(t, err)
	require.NotSame(t, v, other)
	require.Equal(t, "two", v.Latest(), "it stays usable")
}

func TestOpenRefusesWhatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	for _, set := range []*livefile.Set{nil, livefile.NewSet(zap.NewNop())} {
		_, err := livefile.Secret(set, livefile.File{Key: "k", Path: filepath.Join(dir, "none")}, nil)
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, "reading k "+filepath.Join(dir, "none"))
		write(t, filepath.Join(dir, "empty"), "\n")
		_, err = livefile.Secret(set, livefile.File{Key: "k", Path: filepath.Join(dir, "empty")}, nil)
		require.ErrorIs(t, err, livefile.ErrEmpty)
	}
	var none *livefile.Set
	require.Empty(t, none.Secrets())
	none.Retain(nil)
}

// pair returns a self-signed certificate and its key in PEM.
func pair(t *testing.T, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
}

func TestAPairChangesAsAWhole(t *testing.T) {
	synctest.Test(t, pairChangesAsAWhole) // what cannot be used for a second is told
}

func pairChangesAsAWhole(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := livefile.File{Key: "cert_file", Path: filepath.Join(dir, "cert")}, livefile.File{Key: "key_file", Path: filepath.Join(dir, "key")}
	cert, key := pair(t, 1)
	write(t, certFile.Path, cert)
	write(t, keyFile.Path, key)
	set, logs := newSet()
	v, err := livefile.Pair(set, livefile.KeyFiles{Cert: certFile, Key: keyFile})
	require.NoError(t, err)
	serial := func() int64 { return v.Latest().Leaf.SerialNumber.Int64() }
	require.EqualValues(t, 1, serial())

	cert, key = pair(t, 2)
	for _, half := range []func(){
		func() { write(t, certFile.Path, cert) },
		func() { write(t, certFile.Path, cert+cert[:len(cert)/2]) }, // a chain, half of it
		func() { write(t, certFile.Path, cert) },
		func() { write(t, keyFile.Path, key[:len(key)/2]) },
		func() { write(t, keyFile.Path, "") },
		func() { require.NoError(t, os.Remove(keyFile.Path)) },
	} {
		half()
		require.EqualValues(t, 1, serial())
	}
	rename(t, keyFile.Path, key)
	require.EqualValues(t, 2, serial())
	require.Len(t, logs.All(), 1)
	require.NotContains(t, logs.All()[0].ContextMap()["files"], key)
}

func TestAuthoritiesAreReadWhole(t *testing.T) {
	file := livefile.File{Key: "ca_file", Path: filepath.Join(t.TempDir(), "ca")}
	one, _ := pair(t, 1)
	two, _ := pair(t, 2)
	write(t, file.Path, one)
	v, err := livefile.Authorities(nil, file)
	require.NoError(t, err)
	first := v.Latest()
	for _, half := range []string{one + two[:len(two)/2], two[:len(two)/2], "", "no PEM at all"} {
		write(t, file.Path, half)
		require.Same(t, first, v.Latest(), half)
	}
	write(t, file.Path, one+"\n# the next one\n"+two+"\n")
	require.NotSame(t, first, v.Latest())
}

// TestPiecesAreNotUsed: a secret that is written in place, piece by piece, is used when it is
// whole. A piece may be used if the machine stood still behind it for as long as relay waits for
// the next one.
func TestPiecesAreNotUsed(t *testing.T) {
	t.Parallel()
	const pause, quiet = 50 * time.Millisecond, 240 * time.Millisecond // the file system's clock is some ms behind
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, "first")
	v, err := livefile.Secret(nil, livefile.File{Key: "k", Path: path}, nil)
	require.NoError(t, err)
	const whole = "sk_test_0123456789"
	stood := map[string]bool{} // the pieces behind which it stood still
	done := make(chan struct{})
	go func() {
		defer close(done)
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return
		}
		defer func() { _ = file.Close() }()
		before, written := time.Now(), ""
		for _, piece := range []string{"sk_", "test_", "01234", "56789"} {
			began := time.Now()
			_, _ = file.WriteString(piece)
			stood[written] = time.Since(before) >= quiet
			before, written = began, written+piece
			time.Sleep(pause)
		}
	}()
	var seen []string
	for got := "first"; got != whole; got = v.Latest() {
		if len(seen) == 0 || got != seen[len(seen)-1] {
			seen = append(seen, got)
		}
	}
	<-done
	require.Equal(t, whole, v.Latest())
	require.Equal(t, "first", seen[0])
	for _, piece := range seen[1:] {
		require.True(t, stood[piece], "%q was used", piece)
	}
}
