//go:build unix

package checkpoint

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"workos-relay/internal/operator"
)

// noFollow also keeps an open from waiting for somebody at the other end of a named pipe.
const noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

const (
	groupWrite = 0o020
	otherWrite = 0o002
)

// writers returns who else can replace files in a directory, and which argument of chmod ends that;
// empty if nobody.
func writers(dir string, info fs.FileInfo) (who, remedy string) {
	mode := info.Mode()
	if mode&fs.ModeSticky != 0 || mode.Perm()&(groupWrite|otherWrite) == 0 || mountRoot(dir, info) {
		return "", ""
	}
	if mode.Perm()&otherWrite != 0 {
		return "every user of this machine", "go-w"
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || mode&fs.ModeSetgid != 0 || trustedGroup(owner.Gid, os.Geteuid(), os.Getegid()) {
		return "", ""
	}
	return fmt.Sprintf("every user of the group %d", owner.Gid), "g-w"
}

// trustedGroup reports whether a group may write to relay's directories: that of root, and the
// private group of the process's user. Distributions that give each user a group of the same number
// let it write by default.
func trustedGroup(gid uint32, euid, egid int) bool {
	return gid == 0 || egid == euid && int64(gid) == int64(egid)
}

// mountRoot reports whether a file system or a volume begins at dir. Who can reach it is then
// decided by who can reach the mount, and relay often cannot change its mode.
func mountRoot(dir string, info fs.FileInfo) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return false
	}
	parent, err := os.Stat(filepath.Dir(real))
	if err != nil {
		return false
	}
	have, ok := info.Sys().(*syscall.Stat_t)
	above, okAbove := parent.Sys().(*syscall.Stat_t)
	return ok && okAbove && have.Dev != above.Dev
}

// checkOwner refuses a file that others can write to, and in a directory where everybody can make
// files, one that somebody else made.
func checkOwner(path string, info fs.FileInfo) error {
	dir := filepath.Dir(path)
	folder, err := os.Stat(dir)
	if err != nil {
		return err
	}
	shared := folder.Mode().Perm()&otherWrite != 0
	if info.Mode().Perm()&otherWrite != 0 && (!shared || !mountRoot(dir, folder)) {
		return operator.Require(fmt.Errorf("%s has mode %04o: every user of this machine can write to it", path, info.Mode().Perm()),
			"see whether it is what relay wrote, then take that right away: chmod go-w "+path)
	}
	have, ok := info.Sys().(*syscall.Stat_t)
	above, okAbove := folder.Sys().(*syscall.Stat_t)
	if !shared || !ok || !okAbove || have.Uid == 0 || have.Uid == above.Uid || int64(have.Uid) == int64(os.Geteuid()) {
		return nil
	}
	return operator.Require(fmt.Errorf("%s belongs to user %d, not to relay's user, in a directory where everybody can make files", path, have.Uid),
		"find out who made it, and remove it; or give relay its own directory")
}

// soleName reports whether the file has no other name, so that what is written to it shows nowhere
// else.
func soleName(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Nlink == 1
}
