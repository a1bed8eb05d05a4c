package checkpoint

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// maxArchives is how many archived checkpoints are kept.
const maxArchives = 10

// archiveTime is fixed in width, so that names sort as times do, and is legal in a file name
// everywhere.
const archiveTime = "20060102T150405.000000000Z"

// Archive copies the current checkpoint, readable or not, to a file with the time in its name, and
// returns its path. The ten newest copies are kept. It returns ErrNotFound if there is no
// checkpoint.
func (f *File) Archive(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return "", err
	}
	return f.archive()
}

// Keep archives c, a checkpoint of this lane from another store, as Archive archives the one of
// this store. It returns the path.
func (f *File) Keep(ctx context.Context, c Checkpoint) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return "", err
	}
	return f.archiveBy(func(path string) error { return replaceFile(path, path+temporarySuffix, Encode(c)) })
}

// Remove archives the current checkpoint, readable or not, and then removes it and the previous
// one, as if there had never been one. It returns the path of the archived copy, and ErrNotFound if
// there is no checkpoint.
func (f *File) Remove(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return "", err
	}
	kept, err := f.archive()
	if err != nil {
		return "", err
	}
	// The previous one first: a crash in between must not leave the previous checkpoint without the
	// current one.
	for _, path := range []string{f.paths.previous, f.paths.main} {
		if err := removeIfThere(path); err != nil {
			return kept, fmt.Errorf("remove the checkpoint: %w", err)
		}
	}
	if err := syncDir(f.paths.dir); err != nil {
		return kept, fmt.Errorf("make the removal of the checkpoint durable: fsync of %s: %w", f.paths.dir, err)
	}
	return kept, nil
}

func (f *File) archive() (string, error) {
	if _, err := os.Lstat(f.paths.main); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s does not exist", ErrNotFound, f.paths.main)
	} else if err != nil {
		return "", fmt.Errorf("archive the checkpoint: %w", err)
	}
	return f.archiveBy(func(path string) error { return keepAs(f.paths.main, path) })
}

// archiveBy calls write with the path of the next archive, and removes the oldest archives beyond
// maxArchives.
func (f *File) archiveBy(write func(path string) error) (string, error) {
	archives, err := f.paths.archives()
	if err != nil {
		return "", fmt.Errorf("archive the checkpoint: %w", err)
	}
	path := f.archivePath(archives)
	if err := write(path); err != nil {
		return "", fmt.Errorf("archive the checkpoint as %s: %w", path, err)
	}
	for len(archives) >= maxArchives {
		if err := removeIfThere(archives[0]); err != nil {
			return path, fmt.Errorf("remove an old archived checkpoint: %w", err)
		}
		archives = archives[1:]
	}
	if err := syncDir(f.paths.dir); err != nil {
		return path, fmt.Errorf("make %s durable: fsync of its directory: %w", path, err)
	}
	return path, nil
}

// archivePath names the next archive so that it sorts after the existing ones, even if the clock is
// coarse or was set back.
func (f *File) archivePath(archives []string) string {
	at := f.now().UTC()
	if len(archives) > 0 {
		newest, err := time.Parse(archiveTime, strings.TrimPrefix(archives[len(archives)-1], f.paths.archiveFor))
		if err == nil && !at.After(newest) {
			at = newest.Add(time.Nanosecond)
		}
	}
	return f.paths.archiveFor + at.Format(archiveTime)
}

// holderDigits is the length of File.Holder.
const holderDigits = 32

// loadHolder reads the name of the directory among holders. It makes a new one if none can be read.
func loadHolder(p paths) (string, error) {
	name, err := readHolder(p)
	if name != "" || err != nil {
		return name, err
	}
	var random [holderSize]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	name = hex.EncodeToString(random[:])
	if err := replaceFile(p.holder, p.holder+temporarySuffix, []byte(name+"\n")); err != nil {
		return "", err
	}
	return name, syncDir(p.dir)
}

// holderSize is the number of random bytes of File.Holder.
const holderSize = holderDigits / 2

// readHolder returns the name of the holder; empty if there is none that can be used.
func readHolder(p paths) (string, error) {
	text, err := readBounded(p.holder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if len(text) == 2*holderSize+1 && text[2*holderSize] == '\n' {
		if _, err := hex.DecodeString(string(text[:2*holderSize])); err == nil {
			return string(text[:2*holderSize]), nil
		}
	}
	return "", nil
}
