package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotPermitted means that this machine does not let a process trace another one.
var ErrNotPermitted = errors.New("ptrace is not permitted here")

// Process is a traced program. Its methods are safe for concurrent use.
type Process struct {
	pid   int
	ended chan struct{}

	mu     sync.Mutex // guards what follows
	record Record
	err    error // why the record is not complete
	status syscall.WaitStatus
}

// Start starts the program argv[0] under the tracer. It records what it does to the files below
// root, which need not exist. Its standard output is recorded and goes nowhere; its standard error
// goes to log. The program is killed when this process ends.
func Start(root string, argv, env []string, log *os.File) (*Process, error) {
	p := &Process{ended: make(chan struct{}), record: Record{Root: root, Disk: Disk{}}}
	t := &tracer{Process: p, threads: map[int]*call{}, files: map[key]int{}}
	if err := t.list(); err != nil {
		return nil, err
	}
	started := make(chan error)
	go t.run(argv, env, log, started)
	return p, <-started
}

// Pid returns the id of the process.
func (p *Process) Pid() int { return p.pid }

// Kill kills the program and waits for its end.
func (p *Process) Kill() {
	_ = syscall.Kill(p.pid, syscall.SIGKILL)
	<-p.ended
}

// Signal sends a signal to the program.
func (p *Process) Signal(s syscall.Signal) error { return syscall.Kill(p.pid, s) }

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Record waits for the end of the program. It returns what the program did, how it ended, and an
// error if the program did something to a file that this package does not know.
func (p *Process) Record() (*Record, syscall.WaitStatus, error) {
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	return &p.record, p.status, p.err
}

// Ops returns how many operations were recorded so far.
func (p *Process) Ops() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.record.Ops)
}

// Written returns how many bytes the program has written to files so far.
func (p *Process) Written() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.record.Ops {
		if p.record.Ops[i].Kind == Write {
			n += len(p.record.Ops[i].Data)
		}
	}
	return n
}

type key struct{ dev, ino uint64 }

// call is a system call that a thread is in.
type call struct {
	in     bool
	number uint64
	args   [6]uint64
	before int    // operations recorded when it began
	path   string // resolved at its beginning
	to     string
	exists bool // the file to open was there
	offset int64
	sync   bool // what is written is durable at once
	data   []byte
}

type tracer struct {
	*Process
	threads map[int]*call
	files   map[key]int
	last    int
}

// list reads what the root holds before the program starts.
func (t *tracer) list() error {
	return filepath.WalkDir(t.record.Root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			t.record.Disk[path] = nil
			return nil
		}
		data, err := os.ReadFile(path) //nolint:gosec // below the root, which a test names
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		t.record.Disk[path] = &Content{file: t.known(st), Data: data}
		return nil
	})
}

// known returns the file that st describes, a new one if it was not seen before.
func (t *tracer) known(st unix.Stat_t) int {
	k := key{st.Dev, st.Ino}
	if t.files[k] == 0 {
		t.last++
		t.files[k] = t.last
	}
	return t.files[k]
}

// Options and requests of ptrace that package syscall does not name.
const (
	exitKill       = 0x100000
	getSyscallInfo = 0x420e
	noThread       = 0x20000000 // __WNOTHREAD: only children of this thread
	traceGood      = 0x80       // marks the stop at a system call
)

// run starts the program and traces it to its end. The kernel ties a tracer to its thread.
func (t *tracer) run(argv, env []string, log *os.File, started chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	defer close(t.ended)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		started <- err
		return
	}
	defer func() { _ = null.Close() }()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{ //nolint:gosec // a test names the program
		Env: env, Files: []uintptr{null.Fd(), null.Fd(), log.Fd()}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		if errors.Is(err, syscall.EPERM) {
			err = fmt.Errorf("%w: %w", ErrNotPermitted, err)
		}
		started <- err
		return
	}
	t.pid = pid
	var ws syscall.WaitStatus
	if _, err = wait(pid, &ws); err == nil {
		err = syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACESYSGOOD|syscall.PTRACE_O_TRACECLONE|syscall.PTRACE_O_TRACEFORK|
			syscall.PTRACE_O_TRACEVFORK|syscall.PTRACE_O_TRACEEXEC|exitKill)
	}
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		started <- fmt.Errorf("%w: %w", ErrNotPermitted, err)
		return
	}
	t.threads[pid] = &call{}
	started <- nil
	_ = syscall.PtraceSyscall(pid, 0)
	for {
		tid, err := wait(-1, &ws)
		if err != nil { // the last thread has ended
			return
		}
		if ws.Exited() || ws.Signaled() {
			delete(t.threads, tid)
			if tid == pid {
				t.mu.Lock()
				t.status = ws
				t.mu.Unlock()
			}
			continue
		}
		_ = syscall.PtraceSyscall(tid, t.stopped(tid, ws)) // an error: the thread was killed meanwhile
	}
}

func wait(pid int, ws *syscall.WaitStatus) (int, error) {
	for {
		tid, err := syscall.Wait4(pid, ws, syscall.WALL|noThread, nil)
		if !errors.Is(err, syscall.EINTR) {
			return tid, err
		}
	}
}

// stopped handles a stop of a thread, and returns the signal that the thread gets.
func (t *tracer) stopped(tid int, ws syscall.WaitStatus) int {
	c, known := t.threads[tid]
	if !known {
		c = &call{}
		t.threads[tid] = c
	}
	switch s := ws.StopSignal(); {
	case s == syscall.SIGTRAP|traceGood:
		t.mu.Lock()
		defer t.mu.Unlock()
		err := t.syscall(tid, c)
		killed := errors.Is(err, syscall.ESRCH) || errors.Is(err, fs.ErrNotExist) // meanwhile
		if err != nil && !killed && t.err == nil {
			t.err = err
		}
		return 0
	case s == syscall.SIGTRAP, s == syscall.SIGSTOP && !known: // an event, or a new thread
		return 0
	default:
		return int(s)
	}
}

// info is struct ptrace_syscall_info.
type info struct {
	op   uint8
	_    [3]uint8
	arch uint32
	_    [2]uint64
	nr   uint64 // at the end of a call, what it returns
	args [6]uint64
	_    [4]uint64
}

// syscall is called at the beginning and at the end of a system call.
func (t *tracer) syscall(tid int, c *call) error {
	var i info
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(i), uintptr(unsafe.Pointer(&i)), 0, 0); errno != 0 { //nolint:gosec // as ptrace takes it
		return fmt.Errorf("asking for the system call of a thread: %w", errno)
	}
	const entry, exit = 1, 2
	switch {
	case i.op == entry:
		*c = call{in: true, number: i.nr, args: i.args, before: len(t.record.Ops)}
		return t.begin(tid, c)
	case i.op == exit && c.in:
		c.in = false
		if result := int64(i.nr); result >= 0 { //nolint:gosec // a result is signed
			return t.end(tid, c, result)
		}
	}
	return nil
}

// begin notes what is to be known from before a call.
func (t *tracer) begin(tid int, c *call) (err error) {
	switch c.number {
	case unix.SYS_OPENAT:
		if c.path, err = t.at(tid, c.args[0], c.args[1]); err == nil && t.below(c.path) {
			c.exists = unix.Access(c.path, unix.F_OK) == nil
		}
	case unix.SYS_UNLINKAT, unix.SYS_MKDIRAT:
		c.path, err = t.at(tid, c.args[0], c.args[1])
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		if c.path, err = t.at(tid, c.args[0], c.args[1]); err == nil {
			c.to, err = t.at(tid, c.args[2], c.args[3])
		}
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		_, isFile := t.file(tid, c.args[0])
		if said := c.number == unix.SYS_WRITE && c.args[0] == 1; !isFile && !said {
			return nil
		}
		if c.data, err = memory(tid, c.args[1], int(c.args[2])); err == nil && isFile { //nolint:gosec // no more than the program has in memory
			err = c.place(tid)
		}
	case unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_PWRITEV2, unix.SYS_FALLOCATE, unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE:
		fd := c.args[0]
		if c.number == unix.SYS_COPY_FILE_RANGE || c.number == unix.SYS_SPLICE {
			fd = c.args[2]
		}
		if _, isFile := t.file(tid, fd); isFile {
			return fmt.Errorf("the program changed a file by system call %d, which is not recorded", c.number)
		}
	case unix.SYS_MMAP:
		const flags = 3
		if _, isFile := t.file(tid, c.args[4]); isFile && c.args[2]&unix.PROT_WRITE != 0 && c.args[flags]&unix.MAP_SHARED != 0 {
			return errors.New("the program mapped a file into its memory, to write to it, which is not recorded")
		}
	}
	return err
}

// end records a call that succeeded.
func (t *tracer) end(tid int, c *call, result int64) error {
	switch c.number {
	case unix.SYS_OPENAT:
		file, isFile := t.opened(tid, c, result)
		if isFile && !c.exists && c.args[2]&unix.O_CREAT != 0 {
			t.add(Op{Kind: Create, Path: c.path, File: file})
		} else if isFile && c.args[2]&unix.O_TRUNC != 0 {
			t.add(Op{Kind: Truncate, File: file})
		}
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		file, isFile := t.file(tid, c.args[0])
		switch {
		case c.data == nil:
		case !isFile:
			t.add(Op{Kind: Say, Data: c.data[:result]})
		default:
			t.add(Op{Kind: Write, File: file, Offset: c.offset, Data: c.data[:result]})
			if c.sync {
				t.add(Op{Kind: Sync, File: file, Before: len(t.record.Ops)})
			}
		}
	case unix.SYS_FTRUNCATE:
		if file, isFile := t.file(tid, c.args[0]); isFile {
			t.add(Op{Kind: Truncate, File: file, Size: int64(c.args[1])}) //nolint:gosec // a size
		}
	case unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		if file, isFile := t.file(tid, c.args[0]); isFile {
			t.add(Op{Kind: Sync, File: file, Before: c.before})
		} else if path := fdPath(tid, c.args[0]); t.below(path) || path == filepath.Dir(t.record.Root) {
			t.add(Op{Kind: SyncDir, Path: path, Before: c.before})
		}
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		t.named(Op{Kind: Rename, Path: c.path, To: c.to})
	case unix.SYS_LINKAT:
		t.named(Op{Kind: Link, Path: c.path, To: c.to})
	case unix.SYS_UNLINKAT:
		t.named(Op{Kind: Remove, Path: c.path})
	case unix.SYS_MKDIRAT:
		t.named(Op{Kind: Mkdir, Path: c.path})
	}
	return nil
}

func (t *tracer) add(op Op) { t.record.Ops = append(t.record.Ops, op) }

func (t *tracer) named(op Op) {
	if t.below(op.Path) {
		t.add(op)
	}
}

// below reports whether path is the root or below it.
func (t *tracer) below(path string) bool {
	rest, ok := strings.CutPrefix(path, t.record.Root)
	return ok && (rest == "" || rest[0] == filepath.Separator)
}

// opened returns the regular file below the root that a call has opened.
func (t *tracer) opened(tid int, c *call, fd int64) (int, bool) {
	var st unix.Stat_t
	if !t.below(c.path) || unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", tid, fd), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false
	}
	if !c.exists { // the number of a file that is gone may come again
		delete(t.files, key{st.Dev, st.Ino})
	}
	return t.known(st), true
}

// file returns the known file behind a descriptor.
func (t *tracer) file(tid int, fd uint64) (int, bool) {
	var st unix.Stat_t
	if unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd)), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG { //nolint:gosec // a descriptor
		return 0, false
	}
	file, ok := t.files[key{st.Dev, st.Ino}]
	return file, ok
}

// place finds out where a write goes, and whether it is durable at once.
func (c *call) place(tid int) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", tid, c.args[0]))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "pos":
			c.offset, err = strconv.ParseInt(value, 10, 64)
		case "flags":
			var flags uint64
			flags, err = strconv.ParseUint(value, 8, 64)
			c.sync = flags&unix.O_DSYNC != 0
			if flags&unix.O_APPEND != 0 {
				var st unix.Stat_t
				err = unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", tid, c.args[0]), &st)
				c.offset = st.Size
			}
		}
		if err != nil {
			return err
		}
	}
	if c.number == unix.SYS_PWRITE64 {
		const offset = 3
		c.offset = int64(c.args[offset]) //nolint:gosec // an offset
	}
	return nil
}

// at returns the path that a call names, relative to a directory that is open.
func (t *tracer) at(tid int, dir, name uint64) (string, error) {
	path, err := text(tid, name)
	if err != nil || filepath.IsAbs(path) {
		return filepath.Clean(path), err
	}
	if int32(dir) == unix.AT_FDCWD { //nolint:gosec // a descriptor
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", tid))
		return filepath.Join(cwd, path), err
	}
	return filepath.Join(fdPath(tid, dir), path), nil
}

func fdPath(tid int, fd uint64) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd))) //nolint:gosec // a descriptor
	return path
}

// memory reads n bytes of the memory of a thread.
func memory(tid int, at uint64, n int) ([]byte, error) {
	data := make([]byte, n)
	for read := 0; read < n; {
		local := []unix.Iovec{{Base: &data[read], Len: uint64(n - read)}} //nolint:gosec // not negative
		k, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: uintptr(at) + uintptr(read), Len: n - read}}, 0)
		if err != nil {
			return nil, fmt.Errorf("reading the memory of the program: %w", err)
		}
		read += k
	}
	return data, nil
}

// text reads a string that ends with a zero.
func text(tid int, at uint64) (string, error) {
	const page = 4096
	var all []byte
	for len(all) < page {
		piece, err := memory(tid, at, int(page-at%page)) //nolint:gosec // less than a page
		if err != nil {
			return "", err
		}
		if end := bytes.IndexByte(piece, 0); end >= 0 {
			return string(append(all, piece[:end]...)), nil
		}
		all = append(all, piece...)
		at += uint64(len(piece))
	}
	return "", errors.New("the program named a path that is too long")
}
