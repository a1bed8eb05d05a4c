// Package examples runs the consumers of examples/ against real servers that deliver again, abort
// transactions and carry poison, while the consumers are killed.
package examples
