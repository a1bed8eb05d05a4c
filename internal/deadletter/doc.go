// Package deadletter reads the dead letters on a bus, and publishes the events of them again.
//
// In memory is about 1 KiB for each dead letter on the topic, and the events of a few MiB of them
// at a time.
package deadletter
