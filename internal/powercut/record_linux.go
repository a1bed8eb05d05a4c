package powercut

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kind is what an Op does.
type Kind string

// What a program does to files.
const (
	Create   Kind = "create" // Path is a new empty file
	Write    Kind = "write"  // Data at Offset
	Truncate Kind = "truncate"
	Sync     Kind = "sync"     // of a file
	SyncDir  Kind = "sync dir" // of the directory Path
	Rename   Kind = "rename"   // Path to To
	Link     Kind = "link"     // Path gets the second name To
	Remove   Kind = "remove"   // Path, a file or a directory
	Mkdir    Kind = "mkdir"
	Say      Kind = "say" // the program wrote Data to its standard output
)

// Op is one operation of the program. Paths are absolute.
type Op struct {
	Kind     Kind
	Path, To string
	File     int // the file of Create, Write, Truncate and Sync, which keeps it under any name
	Offset   int64
	Data     []byte
	Size     int64 // of Truncate
	// Before is set for Sync and SyncDir: what the operations before this index did is durable. A
	// program with several threads may write while it syncs.
	Before int
}

// String implements fmt.Stringer.
func (o Op) String() string {
	switch o.Kind {
	case Say:
		return fmt.Sprintf("say %q", o.Data)
	case Write:
		return fmt.Sprintf("write %d bytes at %d to file %d", len(o.Data), o.Offset, o.File)
	case Truncate, Sync:
		return fmt.Sprintf("%s file %d", o.Kind, o.File)
	default:
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", o.Kind, filepath.Base(o.Path), filepath.Base(o.To)))
	}
}

// names reports whether the operation changes a directory.
func (o Op) names() bool {
	return slices.Contains([]Kind{Create, Rename, Link, Remove, Mkdir}, o.Kind)
}

// Record is what a program did to the files below Root, in order.
type Record struct {
	Root string
	// Disk is what Root held before.
	Disk Disk
	Ops  []Op
}

// Disk is what a directory holds: the content of its files, and nil for directories, by absolute
// path.
type Disk map[string]*Content

// Content is what a file holds.
type Content struct {
	file int // see Op.File
	Data []byte
}

// Unsynced is what became of data that was written and not synced.
type Unsynced int

// Content that was not synced is lost, was stored as zeros, or was stored.
const (
	Lost Unsynced = iota
	Zeros
	Stored
)

// Cut is a power failure.
type Cut struct {
	Ops int // it comes after so many operations
	// Names is how many operations reached the disk as far as they change directories, besides
	// those that are durable: the changes reach it in their order.
	Names int
	// Written is of how many operations all data is on the disk, synced or not: the system writes
	// it there after a while.
	Written int
	// Content is what became of the other data that was not synced.
	Content Unsynced
	// Journal is set for a file system like ext4 and XFS, which makes all earlier changes of
	// directories durable when any file is synced. Without it only a sync of the directory does.
	Journal bool
}

// durable reports for each operation up to cut whether it is durable as far as it changes a
// directory.
func (r *Record) durable(cut Cut) []bool {
	safe := make([]bool, cut.Ops)
	for _, op := range r.Ops[:cut.Ops] {
		if op.Kind != SyncDir && (op.Kind != Sync || !cut.Journal) {
			continue
		}
		for i, o := range r.Ops[:op.Before] {
			in := filepath.Dir(o.Path) == op.Path || o.To != "" && filepath.Dir(o.To) == op.Path
			safe[i] = safe[i] || o.names() && (in || cut.Journal)
		}
	}
	return safe
}

// Choices returns the values of Cut.Names that make a difference after so many operations.
func (r *Record) Choices(cut Cut) []int {
	choices := []int{0}
	for i, safe := range r.durable(cut) {
		if r.Ops[i].names() && !safe {
			choices = append(choices, i+1)
		}
	}
	return choices
}

// After returns what is on the disk after cut.
func (r *Record) After(cut Cut) Disk {
	files := map[int]*file{}
	names := Disk{}
	for path, c := range r.Disk {
		names[path] = c
		if c != nil {
			files[c.file] = &file{durable: slices.Clone(c.Data)}
		}
	}
	of := func(id int) *file {
		if files[id] == nil {
			files[id] = &file{}
		}
		return files[id]
	}
	safe := r.durable(cut)
	for i, op := range r.Ops[:cut.Ops] {
		switch op.Kind { //nolint:exhaustive // the others change no content
		case Write, Truncate:
			of(op.File).pending = append(of(op.File).pending, i)
		case Sync:
			of(op.File).sync(r.Ops, op.Before)
		}
		if safe[i] || op.names() && i < cut.Names {
			names.apply(op)
		}
	}
	disk := Disk{}
	for path, c := range names {
		if !names.reaches(r.Root, path) {
			continue
		}
		disk[path] = c
		if c != nil {
			disk[path] = &Content{file: c.file, Data: of(c.file).content(r.Ops, cut)}
		}
	}
	return disk
}

// reaches reports whether every directory from root to path is there.
func (d Disk) reaches(root, path string) bool {
	for path != root {
		path = filepath.Dir(path)
		if c, ok := d[path]; !ok || c != nil {
			return false
		}
	}
	return true
}

// apply changes the names.
func (d Disk) apply(op Op) {
	switch op.Kind { //nolint:exhaustive // the others change no name
	case Create:
		d[op.Path] = &Content{file: op.File}
	case Mkdir:
		d[op.Path] = nil
	case Remove:
		delete(d, op.Path)
	case Link:
		if c, ok := d[op.Path]; ok {
			d[op.To] = c
		}
	case Rename:
		if from, to := d[op.Path], d[op.To]; from != nil && to != nil && from.file == to.file {
			return // two names of one file: both stay
		}
		moved := Disk{}
		for path, c := range d {
			if below, ok := strings.CutPrefix(path, op.Path); ok && (below == "" || below[0] == filepath.Separator) {
				moved[op.To+below] = c
				delete(d, path)
			}
		}
		for path, c := range moved {
			d[path] = c
		}
	}
}

// file is the content of one file.
type file struct {
	durable []byte
	pending []int // operations whose data is not durable
}

func (f *file) sync(ops []Op, before int) {
	for len(f.pending) > 0 && f.pending[0] < before {
		f.durable = write(f.durable, ops[f.pending[0]], ops[f.pending[0]].Data)
		f.pending = f.pending[1:]
	}
}

func (f *file) content(ops []Op, cut Cut) []byte {
	data := f.durable
	for _, i := range f.pending {
		text := ops[i].Data
		switch {
		case i < cut.Written:
		case cut.Content == Lost:
			continue
		case cut.Content == Zeros:
			text = make([]byte, len(text))
		}
		data = write(data, ops[i], text)
	}
	return data
}

// write returns what data is after op, which writes text or truncates. It may change data.
func write(data []byte, op Op, text []byte) []byte {
	size := op.Size
	if op.Kind == Write {
		size = max(op.Offset+int64(len(text)), int64(len(data)))
	}
	if grow := size - int64(len(data)); grow > 0 {
		data = append(data, make([]byte, grow)...)
	}
	data = data[:size]
	if op.Kind == Write {
		copy(data[op.Offset:], text)
	}
	return data
}

// Restore writes the disk to the directory to, which stands for root.
func (d Disk) Restore(root, to string) error {
	for path, c := range d {
		target := filepath.Join(to, strings.TrimPrefix(path, root))
		if c == nil {
			if err := os.MkdirAll(target, 0o700); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(target, c.Data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
