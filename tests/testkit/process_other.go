//go:build unix && !linux

package testkit

import "syscall"

func diesWithParent() *syscall.SysProcAttr { return nil }
