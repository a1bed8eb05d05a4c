// Package powercut shows tests what a disk holds after a power failure. It runs a program under a
// tracer (ptrace), records what the program does to the files of a directory, and works out from
// the record what is on the disk if the power fails after any of these operations: what a program
// has written and not synced may be lost, and so may names that it has created, renamed or removed.
// It works on Linux only, and needs no rights.
package powercut
