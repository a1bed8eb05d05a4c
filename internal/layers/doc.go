// Package layers holds the rules that the packages of relay keep among each other, as tests: which
// package may import which, and that the public packages show no internal type. It has no code of
// its own.
package layers
