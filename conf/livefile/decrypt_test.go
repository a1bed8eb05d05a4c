package livefile_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/conf/livefile"
)

const rightPassphrase = "correct-horse"

// keyWith is a key of testdata with a passphrase.
func keyWith(path, passphrase string) livefile.KeyFiles {
	return livefile.KeyFiles{
		Key:        livefile.File{Key: "sinks[bus].tls.key_file", Path: path},
		Passphrase: livefile.File{Key: "sinks[bus].tls.key_passphrase", Text: passphrase},
	}
}

// TestEncryptedKeys reads keys that openssl has encrypted.
func TestEncryptedKeys(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/keys/p*.pem")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range append(paths, "testdata/keys/scrypt.pem") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			v, err := livefile.PrivateKey(nil, keyWith(path, rightPassphrase+"\r\n"))
			require.NoError(t, err)
			public, err := x509.MarshalPKIXPublicKey(v.Latest().Public())
			require.NoError(t, err)
			name := "testdata/keys/ec.pub"
			if strings.Contains(path, "rsa") {
				name = "testdata/keys/rsa.pub"
			}
			want, err := os.ReadFile(name)
			require.NoError(t, err)
			block, _ := pem.Decode(want)
			require.Equal(t, block.Bytes, public)

			for _, wrong := range []string{"marked-wrong", rightPassphrase + "x", "correct-hors"} {
				_, err = livefile.PrivateKey(nil, keyWith(path, wrong))
				require.ErrorContains(t, err, "sinks[bus].tls.key_file "+path+" cannot be decrypted with sinks[bus].tls.key_passphrase: the passphrase is wrong, or the key is damaged; correct the passphrase, or the key")
				require.NotContains(t, err.Error(), wrong)
			}
			_, err = livefile.PrivateKey(nil, keyWith(path, ""))
			require.EqualError(t, err, "sinks[bus].tls.key_file "+path+" is encrypted, and relay has no passphrase for it: set sinks[bus].tls.key_passphrase_file to a file that holds the passphrase")
		})
	}
}

// encoded returns an encrypted PKCS#8 key with these parameters in PEM.
func encoded(t *testing.T, kdf asn1.ObjectIdentifier, params any, cipherID asn1.ObjectIdentifier, cipherParams any, data []byte) string {
	t.Helper()
	raw := func(v any) asn1.RawValue {
		der, err := asn1.Marshal(v)
		require.NoError(t, err)
		return asn1.RawValue{FullBytes: der}
	}
	type pbes2 struct{ KDF, Cipher pkix.AlgorithmIdentifier }
	der, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{pkix.AlgorithmIdentifier{
		Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13},
		Parameters: raw(pbes2{
			pkix.AlgorithmIdentifier{Algorithm: kdf, Parameters: raw(params)}, pkix.AlgorithmIdentifier{Algorithm: cipherID, Parameters: raw(cipherParams)},
		}),
	}, data})
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}))
}

var (
	pbkdf2ID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	scryptID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	sha256ID = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	aes256ID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

type (
	roundsWithLength struct {
		Salt   []byte
		Rounds int
		Length int
		PRF    pkix.AlgorithmIdentifier
	}
	scryptParams struct {
		Salt    []byte
		N, R, P int
	}
)

// TestEncryptedKeyOfJava: Java and Bouncy Castle write the length of the key into the parameters.
func TestEncryptedKeyOfJava(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	plain, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	salt, iv := []byte("salt of 16 bytes"), make([]byte, 16)
	key, err := pbkdf2.Key(sha256.New, rightPassphrase, salt, 2048, 32)
	require.NoError(t, err)
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	pad := 16 - len(plain)%16
	plain = append(plain, []byte(strings.Repeat(string(rune(pad)), pad))...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(plain, plain)
	path := filepath.Join(t.TempDir(), "key.pem")
	write(t, path, encoded(t, pbkdf2ID, roundsWithLength{salt, 2048, 32, pkix.AlgorithmIdentifier{Algorithm: sha256ID}}, aes256ID, iv, plain))
	v, err := livefile.PrivateKey(nil, keyWith(path, rightPassphrase))
	require.NoError(t, err)
	require.Equal(t, private.Public(), v.Latest().Public())
}

// TestHostileEncryptedKeys: a key file must neither stop relay for long nor take its memory.
func TestHostileEncryptedKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	iv, data := make([]byte, 16), make([]byte, 64)
	rounds := func(n int) roundsWithLength {
		return roundsWithLength{[]byte("salt"), n, 32, pkix.AlgorithmIdentifier{Algorithm: sha256ID}}
	}
	for name, c := range map[string]struct{ text, says string }{
		"rounds":             {encoded(t, pbkdf2ID, rounds(1<<31-1), aes256ID, iv, data), "it is encrypted with 2147483647 rounds of PBKDF2, more than 10000000"},
		"no rounds":          {encoded(t, pbkdf2ID, rounds(0), aes256ID, iv, data), "the key is damaged"},
		"negative rounds":    {encoded(t, pbkdf2ID, rounds(-1), aes256ID, iv, data), "the key is damaged"},
		"memory of scrypt":   {encoded(t, scryptID, scryptParams{[]byte("salt"), 1 << 24, 8, 1}, aes256ID, iv, data), "more than 128 MiB or 16777216 steps of scrypt"},
		"blocks of scrypt":   {encoded(t, scryptID, scryptParams{[]byte("salt"), 1 << 14, 1 << 30, 1}, aes256ID, iv, data), "more than 128 MiB or 16777216 steps of scrypt"},
		"lanes of scrypt":    {encoded(t, scryptID, scryptParams{[]byte("salt"), 1 << 14, 8, 1 << 30}, aes256ID, iv, data), "more than 128 MiB or 16777216 steps of scrypt"},
		"no scrypt":          {encoded(t, scryptID, scryptParams{[]byte("salt"), 3, 8, 1}, aes256ID, iv, data), "the key is damaged"},
		"short iv":           {encoded(t, pbkdf2ID, rounds(1), aes256ID, iv[:3], data), "the key is damaged"},
		"no data":            {encoded(t, pbkdf2ID, rounds(1), aes256ID, iv, []byte{}), "the key is damaged"},
		"half a block":       {encoded(t, pbkdf2ID, rounds(1), aes256ID, iv, data[:9]), "the key is damaged"},
		"unknown cipher":     {encoded(t, pbkdf2ID, rounds(1), asn1.ObjectIdentifier{1, 2, 3}, iv, data), "the cipher 1.2.3, which relay does not support"},
		"unknown derivation": {encoded(t, asn1.ObjectIdentifier{1, 2, 3}, rounds(1), aes256ID, iv, data), "the key derivation 1.2.3, which relay does not support"},
		"no PKCS#8":          {string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("MARKED")})), "the key is damaged: it is not an encrypted PKCS#8 key"},
		"no DEK-Info":        {"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nTUFSS0VE\n-----END RSA PRIVATE KEY-----\n", "another cipher than AES-CBC or 3DES"},
	} {
		path := filepath.Join(dir, name)
		write(t, path, c.text)
		begin := time.Now()
		_, err := livefile.PrivateKey(nil, keyWith(path, "marked-passphrase"))
		require.ErrorContains(t, err, c.says, name)
		require.ErrorContains(t, err, "sinks[bus].tls.key_file "+path+" cannot be decrypted", name)
		require.NotContains(t, err.Error(), "marked-passphrase", name)
		require.Less(t, time.Since(begin), 30*time.Second, name)
	}
	for _, name := range []string{"pbes1", "rounds"} {
		_, err := livefile.PrivateKey(nil, keyWith("testdata/keys/refused-"+name+".pem", rightPassphrase))
		require.ErrorContains(t, err, "which relay does not support; convert the key with: openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW")
	}
}

// certify returns a self-signed certificate for a key in PEM.
func certify(t *testing.T, k livefile.KeyFiles) string {
	t.Helper()
	v, err := livefile.PrivateKey(nil, k)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, v.Latest().Public(), v.Latest())
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestPairWithPassphrase: certificate, key and passphrase are replaced one after the other, and the
// new ones are used once they fit. A passphrase that does not fit is told once.
func TestPairWithPassphrase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	content := func(name string) string {
		text, err := os.ReadFile("testdata/keys/" + name)
		require.NoError(t, err)
		return string(text)
	}
	before := certify(t, keyWith("testdata/keys/scrypt.pem", rightPassphrase))
	after := certify(t, keyWith("testdata/keys/renewed.pem", "battery-staple"))
	write(t, file("cert"), before)
	write(t, file("key"), content("scrypt.pem"))
	write(t, file("passphrase"), rightPassphrase+"\n")
	set, logs := newSet()
	v, err := livefile.Pair(set, livefile.KeyFiles{
		Cert: livefile.File{Key: "tls.cert_file", Path: file("cert")}, Key: livefile.File{Key: "tls.key_file", Path: file("key")},
		Passphrase: livefile.File{Key: "tls.key_passphrase_file", Path: file("passphrase")},
	})
	require.NoError(t, err)
	require.Contains(t, set.Secrets(), rightPassphrase)
	first := v.Latest()

	rename(t, file("passphrase"), "battery-staple")
	require.Equal(t, first, v.Latest())
	time.Sleep(1100 * time.Millisecond)
	require.Equal(t, first, v.Latest())
	rename(t, file("key"), content("renewed.pem"))
	require.Equal(t, first, v.Latest(), "the certificate is still that of the key before")
	rename(t, file("cert"), after)
	require.NotEqual(t, first.Certificate, v.Latest().Certificate)
	require.Contains(t, set.Secrets(), "battery-staple")

	told := logs.FilterMessageSnippet("cannot be used").All()
	require.Len(t, told, 1)
	require.Contains(t, told[0].ContextMap()["error"], "tls.key_file "+file("key")+" cannot be decrypted with tls.key_passphrase_file "+file("passphrase"))
}

// TestPEMInTheConfiguration: texts take the place of files.
func TestPEMInTheConfiguration(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/keys/pbkdf2-sha256-aes256.pem")
	require.NoError(t, err)
	cert := certify(t, keyWith("testdata/keys/pbkdf2-sha256-aes256.pem", rightPassphrase))
	pair := func(cert, key string) livefile.KeyFiles {
		return livefile.KeyFiles{
			Cert: livefile.File{Key: "tls.cert", Text: cert}, Key: livefile.File{Key: "tls.key", Text: key},
			Passphrase: livefile.File{Key: "tls.key_passphrase", Text: rightPassphrase},
		}
	}
	set, _ := newSet()
	v, err := livefile.Pair(set, pair(cert, string(text)))
	require.NoError(t, err)
	require.Len(t, v.Latest().Certificate, 1)
	require.Same(t, v.Get(), v.Latest())
	require.Contains(t, set.Secrets(), rightPassphrase)

	folded := strings.ReplaceAll(string(text), "\n", " ")
	for name, bad := range map[string]struct {
		files livefile.KeyFiles
		says  string
	}{
		"folded key":         {pair(cert, folded), "tls.key holds PEM without its line breaks"},
		"escaped key":        {pair(cert, strings.ReplaceAll(string(text), "\n", `\n`)), "PEM without its line breaks"},
		"folded certificate": {pair(strings.ReplaceAll(cert, "\n", " "), string(text)), "tls.cert holds PEM without its line breaks"},
		"key as certificate": {pair(string(text), string(text)), "tls.cert and tls.key do not hold a certificate and its key"},
		"no PEM":             {pair("MARKED", "MARKED"), "tls.cert and tls.key do not hold a certificate and its key"},
	} {
		_, err = livefile.Pair(nil, bad.files)
		require.ErrorContains(t, err, bad.says, name)
		require.NotContains(t, err.Error(), "MARKED", name)
		require.NotContains(t, err.Error(), "MI", name)
	}
}
