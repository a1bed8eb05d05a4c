// Package livefile reads files that hold secrets, certificates, keys, authorities and tokens again
// when they change, so that renewing one only takes a new file. Content is compared, not
// times: a file that is renamed over the old one, written in place, deleted and written again, or
// swapped by a symbolic link is noticed the same way. Content that cannot be used leaves the
// content before it in use.
package livefile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// Interval is how often Set.Run looks at every file.
	Interval = 2 * time.Second
	// freshness is how old the last look may be for Value.Get to do without another one.
	freshness = time.Second
	// maxSize bounds what is read of a file.
	maxSize = 1 << 20
)

// ErrEmpty says that a file is empty, as it is for a moment while it is written in place.
var ErrEmpty = errors.New("is empty")

// File is a file of the configuration, or a text that stands in the configuration itself in place
// of one.
type File struct {
	Key  string // of the configuration, such as sinks[nats].tls.ca_file; for messages
	Path string // empty if Text is set
	Text string // what the configuration holds in place of a file; it never changes
	Kept bool   // Set.Retain keeps it: it is not of the configuration
}

// inline reports whether f is a text of the configuration.
func (f File) inline() bool { return f.Path == "" && f.Text != "" }

// Given reports whether there is a file, or a text in place of it.
func (f File) Given() bool { return f.Path != "" || f.Text != "" }

// String names the key and the file.
func (f File) String() string {
	if f.inline() {
		return f.Key
	}
	return f.Key + " " + f.Path
}

// Set holds the files of one process. Values that are opened with the same files are the same, so
// that a change is read and logged once. A nil *Set is valid: each value then stands alone and logs
// nothing. It is safe for concurrent use.
type Set struct {
	log *zap.Logger
	now func() time.Time

	running atomic.Bool // Run is at work

	mu     sync.Mutex
	values map[string]value // by its files
	hidden []string         // secrets that were in use since the process started, newest last
}

// value is a *Value of any type.
type value interface {
	poll()
	names() []File
}

// NewSet returns an empty set. log is told of each change, without content.
func NewSet(log *zap.Logger) *Set {
	return &Set{log: log, now: time.Now, values: map[string]value{}}
}

// Run looks at every file each Interval until ctx ends. It blocks: the caller owns the goroutine.
// Without it files are looked at only when their values are used.
func (s *Set) Run(ctx context.Context) {
	s.running.Store(true)
	defer s.running.Store(false)
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, v := range s.all() {
				v.poll()
			}
		}
	}
}

func (s *Set) all() []value {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]value, 0, len(s.values))
	for _, v := range s.values {
		out = append(out, v)
	}
	return out
}

// Retain makes Run look no longer at values with a file that inUse does not report. Such a value
// stays usable.
func (s *Set) Retain(inUse func(path string) bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.values {
		if slices.ContainsFunc(v.names(), func(f File) bool { return !f.Kept && !f.inline() && !inUse(f.Path) }) {
			delete(s.values, id)
		}
	}
}

// maxHidden bounds how many secrets a set remembers.
const maxHidden = 256

// Hide remembers secrets that come from elsewhere than a file of the set, for Secrets.
func (s *Set) Hide(secrets ...string) {
	if s != nil {
		s.hide(secrets)
	}
}

// hide remembers secrets for Secrets.
func (s *Set) hide(secrets []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range secrets {
		if text != "" && !slices.Contains(s.hidden, text) {
			s.hidden = append(s.hidden, text)
		}
	}
	s.hidden = s.hidden[max(0, len(s.hidden)-maxHidden):]
}

// Secrets returns every secret that a value of the set holds or has held, for callers that take
// them out of a text before it is
// shown.
func (s *Set) Secrets() []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.hidden)
}

// Parsed is what a parser makes of the files of a value.
type Parsed[T any] struct {
	Value   T
	Secrets []string // texts that must never be shown; for Set.Secrets
}

// Value is what one or several files hold that belong together, such as a certificate and its key.
// It is safe for concurrent
// use.
type Value[T any] struct {
	set   *Set
	log   *zap.Logger
	now   func() time.Time
	files []File
	parse func(contents [][]byte) (Parsed[T], error)
	fixed bool // one of the files is a pipe or a device, which gives its content once

	current atomic.Pointer[snapshot[T]]

	mu       sync.Mutex        // held while files are read
	keys     []string          // under which the files are known
	digest   [sha256.Size]byte // of the files when current was read
	looked   time.Time
	rejected rejection
	seen     []os.FileInfo // of the files when they were last read
}

// snapshot is a value at some time.
type snapshot[T any] struct {
	value   T
	version uint64
}

// rejection is content that cannot be used.
type rejection struct {
	reason string
	since  time.Time
	told   bool
	digest [sha256.Size]byte // of the content that err is about; zero if it could not be read
	err    error
}

// patience is how long content must stay unusable before that is logged: files that belong
// together, or that are written in place, do not change all at once.
const patience = time.Second

// Open reads the files and returns their value. parse gets the contents in the order of files; its
// error continues a sentence that names the files and must not repeat what they hold. Open fails if
// the files cannot be used now.
func Open[T any](set *Set, files []File, parse func(contents [][]byte) (Parsed[T], error)) (*Value[T], error) {
	return openWithParser(set, files, fmt.Sprintf("%p", parse), parse)
}

// openWithParser is Open for a parser that is known by a name.
func openWithParser[T any](set *Set, files []File, parser string, parse func(contents [][]byte) (Parsed[T], error)) (*Value[T], error) {
	v := &Value[T]{set: set, log: zap.NewNop(), now: time.Now, files: files, parse: parse}
	v.alsoCalled(files)
	if set == nil {
		return v, v.first()
	}
	v.log, v.now = set.log, set.now
	if !slices.ContainsFunc(files, func(f File) bool { return !f.inline() }) {
		return v, v.first() // there is nothing to look at again
	}
	id := parser + identity(files)
	set.mu.Lock()
	known, ok := set.values[id].(*Value[T])
	set.mu.Unlock()
	if ok {
		known.alsoCalled(files)
		// A caller that opens it expects the file's current content, or an error if that is of no
		// use.
		return known, known.lookNow()
	}
	if err := v.first(); err != nil {
		return nil, err
	}
	set.mu.Lock()
	defer set.mu.Unlock()
	if known, ok = set.values[id].(*Value[T]); ok {
		return known, nil
	}
	set.values[id] = v
	return v, nil
}

// identity is the same for two sinks that name one file under the same key of theirs, so that they
// share its value.
func identity(files []File) string {
	id := ""
	for _, f := range files {
		id += fmt.Sprintf(" %s=%q", f.Key[strings.LastIndexByte(f.Key, '.')+1:], f.Path)
		if f.inline() {
			id += fmt.Sprintf("%x", sha256.Sum256([]byte(f.Text)))
		}
	}
	return id
}

// alsoCalled adds the keys of files to those that messages name.
func (v *Value[T]) alsoCalled(files []File) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range files {
		if !slices.Contains(v.keys, f.Key) {
			v.keys = append(v.keys, f.Key)
		}
	}
}

func (v *Value[T]) names() []File { return v.files }

// first reads the files for the first time.
func (v *Value[T]) first() error {
	for _, f := range v.files {
		if info, err := os.Stat(f.Path); !f.inline() && err == nil && !info.Mode().IsRegular() {
			v.fixed = true
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	contents, err := v.read()
	if err != nil {
		return err
	}
	p, err := v.parsed(contents)
	if err != nil {
		return err
	}
	v.digest, v.looked = sum(contents), v.now()
	v.current.Store(&snapshot[T]{p.Value, 1})
	if v.set != nil {
		v.set.hide(p.Secrets)
	}
	return nil
}

// Get returns the value. It is for what happens often: while Set.Run is at work it reads no file,
// and the value is as fresh as its last look; otherwise it reads the files once a second.
func (v *Value[T]) Get() T {
	if v.set == nil || !v.set.running.Load() {
		v.mu.Lock()
		if v.now().Sub(v.looked) >= freshness {
			_ = v.refresh()
		}
		v.mu.Unlock()
	}
	return v.current.Load().value
}

// Latest reads the files and returns the value: for a connection that is about to be made, or after
// a refusal.
func (v *Value[T]) Latest() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	_ = v.refresh()
	return v.current.Load().value
}

// Version rises each time the value changes, from 1. It reads nothing.
func (v *Value[T]) Version() uint64 { return v.current.Load().version }

func (v *Value[T]) poll() { _ = v.lookNow() }

func (v *Value[T]) lookNow() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.refresh()
}

// refresh takes new content into use. The error says why what the files hold now cannot be used;
// the value is then unchanged.
func (v *Value[T]) refresh() error {
	if v.fixed {
		return nil
	}
	v.looked = v.now()
	if v.isUnchanged() {
		return nil
	}
	contents, err := v.readWhenQuiet()
	if err != nil {
		return v.reject(err)
	}
	digest := sum(contents)
	if digest == v.digest {
		v.rejected = rejection{}
		return nil
	}
	if v.rejected.err != nil && digest == v.rejected.digest { // to decrypt a key takes time
		return v.reject(v.rejected.err)
	}
	p, err := v.parsed(contents)
	if err != nil {
		err = v.reject(err)
		v.rejected.digest, v.rejected.err = digest, err
		return err
	}
	v.digest, v.rejected = digest, rejection{}
	v.current.Store(&snapshot[T]{p.Value, v.Version() + 1})
	if v.set != nil {
		v.set.hide(p.Secrets)
	}
	v.log.Info("a file has new content, which relay uses from now on", v.fields()...)
	return nil
}

// A program may write a file in place and in several pieces. A secret that is cut off looks like a
// secret, so relay uses new content only after the file was left alone for quietTime. It waits
// for that up to maxQuietWait, and then tries again at the next look.
const (
	quietTime    = 250 * time.Millisecond
	maxQuietWait = 2 * time.Second
)

// errWriting says that a file changes all the time.
var errWriting = errors.New("is still being written")

// readWhenQuiet reads the files. If their content is new, it waits until nobody writes it any more.
func (v *Value[T]) readWhenQuiet() ([][]byte, error) {
	for waited := time.Duration(0); ; {
		contents, err := v.read()
		if err != nil || sum(contents) == v.digest {
			return contents, err
		}
		f, left := v.lastWritten()
		if left <= 0 {
			return contents, nil
		}
		if waited >= maxQuietWait {
			return nil, fmt.Errorf("%s %s %w", f.Key, f.Path, errWriting)
		}
		time.Sleep(left)
		waited += left
	}
}

// lastWritten returns the file that was written last, and how long it must be left alone yet.
func (v *Value[T]) lastWritten() (last File, left time.Duration) {
	now := v.now()
	for _, f := range v.files {
		if f.inline() {
			continue
		}
		info, err := os.Stat(f.Path) // after the content was read
		if err != nil {
			return f, quietTime
		}
		age := now.Sub(info.ModTime())
		if age < 0 {
			if info.ModTime().After(v.now()) {
				continue // a time in the future tells nothing
			}
			age = 0 // written since now
		}
		if quietTime-age > left {
			last, left = f, quietTime-age
		}
	}
	return last, left
}

// reject notes that the content cannot be used, and logs it once it has stayed so for a while.
func (v *Value[T]) reject(err error) error {
	if reason := err.Error(); v.rejected.reason != reason {
		v.rejected = rejection{reason: reason, since: v.looked}
	}
	if !v.rejected.told && v.looked.Sub(v.rejected.since) >= patience {
		v.rejected.told = true
		v.log.Warn("the new content of a file cannot be used, so relay keeps using the content before it: correct the file",
			append(v.fields(), zap.Error(err))...)
	}
	return err
}

func (v *Value[T]) fields() []zap.Field {
	var paths []string
	for _, f := range v.files {
		if !f.inline() {
			paths = append(paths, f.Path)
		}
	}
	return []zap.Field{zap.Strings("keys", v.keys), zap.Strings("files", paths)}
}

// largeFile is the size from which a file is not read again if its metadata is the same and not so
// fresh that it could stay the same after another write.
const largeFile = 64 << 10

// isUnchanged reports whether large files need not be read again.
func (v *Value[T]) isUnchanged() bool {
	if len(v.seen) != len(v.files) || v.rejected.reason != "" {
		return false
	}
	for i, f := range v.files {
		if f.inline() {
			continue
		}
		info, err := os.Stat(f.Path)
		if err != nil || v.seen[i] == nil || info.Size() < largeFile || !os.SameFile(info, v.seen[i]) || info.Size() != v.seen[i].Size() ||
			!info.ModTime().Equal(v.seen[i].ModTime()) || v.looked.Sub(info.ModTime()) < Interval {
			return false
		}
	}
	return true
}

func (v *Value[T]) read() ([][]byte, error) {
	contents := make([][]byte, len(v.files))
	v.seen = v.seen[:0]
	for i, f := range v.files {
		if f.inline() {
			v.seen, contents[i] = append(v.seen, nil), []byte(f.Text)
			continue
		}
		if info, err := os.Stat(f.Path); err == nil {
			v.seen = append(v.seen, info)
		}
		var err error
		if contents[i], err = v.readFile(f); err != nil {
			return nil, err
		}
	}
	return contents, nil
}

func (v *Value[T]) readFile(f File) ([]byte, error) {
	if !v.fixed {
		switch info, err := os.Stat(f.Path); {
		case err != nil:
			return nil, unreadable(f, err)
		case !info.Mode().IsRegular(): // a pipe would block
			return nil, fmt.Errorf("%s %s is not a regular file", f.Key, f.Path)
		}
	}
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, unreadable(f, err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	switch {
	case err != nil:
		return nil, unreadable(f, err)
	case len(text) > maxSize:
		return nil, fmt.Errorf("%s %s is larger than %d bytes", f.Key, f.Path, maxSize)
	case len(strings.TrimSpace(string(text))) == 0:
		return nil, fmt.Errorf("%s %s %w", f.Key, f.Path, ErrEmpty)
	}
	return text, nil
}

// unreadable names the key and the file, once.
func unreadable(f File, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("reading %s %s: %w", f.Key, f.Path, err)
}

func (v *Value[T]) parsed(contents [][]byte) (Parsed[T], error) {
	p, err := v.parse(contents)
	if whole := (*wholeError)(nil); errors.As(err, &whole) {
		return p, whole.err
	}
	if err != nil {
		names := make([]string, len(v.files))
		for i, f := range v.files {
			names[i] = f.String()
		}
		return p, fmt.Errorf("%s %w", strings.Join(names, " and "), err)
	}
	return p, nil
}

func sum(contents [][]byte) [sha256.Size]byte {
	h := sha256.New()
	for _, c := range contents {
		_, _ = fmt.Fprintf(h, "%d ", len(c))
		_, _ = h.Write(c)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
