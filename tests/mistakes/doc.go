// Package mistakes runs the built binary with the mistakes that operators make, and asks of each
// that relay names what is wrong, where, and what to do next.
package mistakes
