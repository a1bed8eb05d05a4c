package testkit

import "syscall"

// diesWithParent lets no process outlive a test binary that panics or is killed.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
