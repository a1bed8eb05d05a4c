// Package batch is the part of a delivery that is the same if a position moves and if none does. It
// turns events into the messages of a batch, turns those that can never be published into dead
// letters, sizes a batch to what the bus takes, and decides what a failed attempt means.
//
// It makes no attempt and does not wait: its callers do, each in its own way. A lane of package
// pipeline commits a position with each batch. Package republish commits none.
package batch
