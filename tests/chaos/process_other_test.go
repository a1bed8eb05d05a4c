//go:build unix && !linux

package chaos

import "syscall"

func diesWithParent() *syscall.SysProcAttr { return nil }
