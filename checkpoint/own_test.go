//go:build unix

package checkpoint_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
)

var owner = checkpoint.Identity{Relay: "workos", Lane: "nats", Endpoint: "https://api.workos.com"}

// TestDirectoriesThatOthersCanWriteTo holds what is refused against what must go on working.
func TestDirectoriesThatOthersCanWriteTo(t *testing.T) {
	t.Parallel()
	const stranger = 54321 // a group that the process is not in
	for name, c := range map[string]struct {
		mode    uint32
		group   int // 0 leaves it
		remedy  string
		asRoot  bool
		created bool
	}{
		"own":                      {mode: 0o700},
		"readable":                 {mode: 0o755},
		"everybody":                {mode: 0o777, remedy: "chmod go-w "},
		"everybody but the group":  {mode: 0o757, remedy: "chmod go-w "},
		"everybody, setgid":        {mode: 0o2777, remedy: "chmod go-w "},
		"like /tmp":                {mode: 0o1777},
		"own group":                {mode: 0o770},
		"a foreign group":          {mode: 0o770, group: stranger, asRoot: true, remedy: "chmod g-w "},
		"a foreign group may read": {mode: 0o750, group: stranger, asRoot: true},
		"fsGroup":                  {mode: 0o2775, group: stranger, asRoot: true},
		"fsGroup, closed":          {mode: 0o2770, group: stranger, asRoot: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.asRoot && os.Geteuid() != 0 {
				t.Skip("only root can give a directory to a group that it is not in")
			}
			if name == "own group" && os.Getegid() != os.Geteuid() {
				t.Skip("the user has no private group")
			}
			dir := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.Mkdir(dir, 0o700))
			if c.group != 0 {
				require.NoError(t, os.Chown(dir, -1, c.group))
			}
			require.NoError(t, syscall.Chmod(dir, c.mode))
			f, err := checkpoint.OpenFile(dir, owner)
			if c.remedy == "" {
				require.NoError(t, err)
				require.NoError(t, f.Close())
				return
			}
			require.ErrorContains(t, err, dir)
			require.ErrorContains(t, err, "checkpoint.dir")
			require.Contains(t, operator.Action(err), c.remedy+dir)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries, "nothing is made there")
		})
	}
}

// TestFilesThatAreNotRelays puts what relay did not make in the place of each of its files.
func TestFilesThatAreNotRelays(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(t *testing.T, path string){
		"a link to another file": func(t *testing.T, path string) { require.NoError(t, os.Symlink(victim(t), path)) },
		"a link to nothing": func(t *testing.T, path string) {
			require.NoError(t, os.Symlink(filepath.Join(t.TempDir(), "new"), path))
		},
		"a link to a device":        func(t *testing.T, path string) { require.NoError(t, os.Symlink("/dev/zero", path)) },
		"a named pipe":              func(t *testing.T, path string) { require.NoError(t, syscall.Mkfifo(path, 0o600)) },
		"a directory":               func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o700)) },
		"what everybody can change": func(t *testing.T, path string) { writeFor(t, path, 0o666) },
	} {
		for _, kind := range []string{"lock", "checkpoint", "holder", "destination"} {
			t.Run(kind+" is "+name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				path := checkpoint.Path(dir, owner, kind)
				put(t, path)
				f, err := checkpoint.OpenFile(dir, owner)
				if err == nil {
					defer func() { require.NoError(t, f.Close()) }()
					switch kind {
					case "checkpoint":
						_, err = f.Load(t.Context())
					case "destination":
						_, err = f.LoadDestination(t.Context())
					}
				}
				require.Error(t, err)
				require.True(t, operator.Required(err), err)
				require.ErrorContains(t, err, path)
			})
		}
	}
}

// TestALockIsNeverWrittenThroughAnotherName: neither a symbolic link nor a second name of a file
// lets relay change it.
func TestALockIsNeverWrittenThroughAnotherName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := victim(t)
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	path := checkpoint.Path(dir, owner, "lock")
	require.NoError(t, os.Symlink(file, path))
	_, err = checkpoint.OpenFile(dir, owner)
	require.ErrorContains(t, err, "is a symbolic link")
	require.NoError(t, os.Remove(path))
	if err := os.Link(file, path); err == nil {
		f, err := checkpoint.OpenFile(dir, owner)
		require.NoError(t, err)
		_, err = checkpoint.OpenFile(dir, owner)
		require.ErrorIs(t, err, checkpoint.ErrLocked)
		require.NoError(t, f.Close())
	}
	after, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// TestAnotherUsersFileInASharedDirectory needs root, who can make one.
func TestAnotherUsersFileInASharedDirectory(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a file of another user's")
	}
	dir := t.TempDir()
	require.NoError(t, syscall.Chmod(dir, 0o1777))
	path := checkpoint.Path(dir, owner, "checkpoint")
	writeFor(t, path, 0o600)
	require.NoError(t, os.Chown(path, 54321, -1))
	f, err := checkpoint.OpenFile(dir, owner)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	_, err = f.Load(t.Context())
	require.ErrorContains(t, err, "belongs to user 54321")
	require.True(t, operator.Required(err))
}

func victim(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "victim")
	writeFor(t, path, 0o600)
	return path
}

func writeFor(t *testing.T, path string, mode uint32) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("precious\n"), 0o600))
	require.NoError(t, syscall.Chmod(path, mode))
}
