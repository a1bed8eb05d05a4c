//go:build race

package main

// raceDetector: memory is several times what it is without.
const raceDetector = true
