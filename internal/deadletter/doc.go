// Package deadletter reads the dead letters on a bus, and publishes their events again.
//
// It keeps about 1 KiB in memory for each dead letter on the topic. It loads the events of the dead
// letters in parts of a few MiB.
package deadletter
