// Package snapshot reads the objects that WorkOS has now from the lists of its API and turns them
// into state messages, for a lane that keeps the state of entities: pipeline publishes them before
// the events.
//
// An [Engine] belongs to one lane. It decides when a snapshot is due, reads its lists, several at
// once, and describes in a checkpoint.Snapshot how far it has come, so that a later process
// continues there. Afterwards it decides which events may change the state: what happened before
// the snapshot may not turn back what the snapshot has found.
//
// Memory does not grow with the number of objects. Of each list that is read at the same time,
// Engine.Readers of them, two pages are in memory, and of portions the one that the lane publishes
// and the one that is read ahead, each of at most Engine.MaxBytes and a page. A page is bounded by
// the client (source.max_response). Beyond that an Engine remembers at most 100,000 keys of objects
// that changed while they were read.
package snapshot
