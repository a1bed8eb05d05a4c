package checkpoint

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// makeDir creates dir and its missing parents, durably: they survive a power failure.
func makeDir(dir string) error {
	var missing []string
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || filepath.Dir(at) == at {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, at)
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	for _, made := range missing {
		if err := syncDir(filepath.Dir(made)); err != nil {
			return err
		}
	}
	return nil
}

// writeSynced writes data to a new file at path, replacing one that a failure left there, and
// returns once it is on the disk. After an error the file must not be used.
func writeSynced(path string, data []byte) error {
	// A leftover is removed, never emptied: it may be a link to a file in use.
	if err := removeIfThere(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode) //nolint:gosec // a path of the store's own
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// replaceFile replaces the file at path, or creates it, by way of the file temporary in the same
// directory. The path never names a file that is half written, and after an error what it named
// before is still there. The change of the directory is durable after syncDir.
func replaceFile(path, temporary string, data []byte) error {
	err := writeSynced(temporary, data)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(temporary))
	}
	return nil
}

// WriteOwn replaces a file that relay keeps at path, and creates its directory if it is missing. It
// returns nil once the new content is durable. After an error the file may have either content,
// and never a mixture. Several processes may write the same file.
func WriteOwn(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return err
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	if err := replaceFile(path, path+"."+hex.EncodeToString(random[:])+temporarySuffix, data); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("make %s durable: fsync of its directory: %w", path, err)
	}
	return nil
}

// keepAs gives the file at path the second name kept, in the same directory, replacing a file of
// that name. The file must be one that is replaced and never written in place, because both names
// may be links to it. A name that existed before is never missing, not for an instant. The change
// of the directory is durable after syncDir.
func keepAs(path, kept string) error {
	temporary := kept + temporarySuffix
	if err := os.Link(path, temporary); err != nil {
		// Some file systems have no hard links, and a leftover may be in the way. A copy is slower
		// and as good. It truncates only a file that is too long to be a checkpoint.
		data, err := readBounded(path)
		if err != nil {
			return err
		}
		return replaceFile(kept, temporary, data)
	}
	if err := os.Rename(temporary, kept); err != nil {
		return errors.Join(err, removeIfThere(temporary))
	}
	// Renaming one link of a file over another does nothing, and leaves both.
	return removeIfThere(temporary)
}

// readBounded reads the file of relay at path, but at most one byte more than the longest
// checkpoint has.
func readBounded(path string) ([]byte, error) { return ReadOwn(path, MaxEncoded+1) }

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
