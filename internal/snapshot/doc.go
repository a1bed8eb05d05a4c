// Package snapshot reads the objects that WorkOS has now from the lists of its API and turns them
// into state messages, for a lane that keeps the state of entities: pipeline publishes them before
// the events.
//
// An [Engine] belongs to one lane. It decides when a snapshot is due, reads its lists, several at
// once, and describes in a checkpoint.Snapshot how far it has come, so that a later process
// continues there. Afterwards it decides which events may change the state: what happened before
// the snapshot may not turn back what the snapshot has found.
//
// Reading is bounded: of each list that is read at the same time two pages are in memory, and the
// portion that the lane publishes.
package snapshot
