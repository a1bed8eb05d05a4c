// Package hostile shows that relay holds against input that somebody made to harm it: clients of
// its listeners, an Events API, and servers of the bus. Each test runs the built binary; memory is
// judged by the kernel's peak of the process.
//
// A file holds one kind of input, and what pretends to be a client or a server stands beside the
// tests that use it.
//
// What it does not show: an attacker who can write the configuration or the data directory, and one
// who is on the machine.
package hostile
