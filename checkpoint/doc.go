// Package checkpoint says how far a lane of relay has come, and keeps that safe.
//
// A [Position] is a place in the order of the source: everything up to and including an event. A
// [Checkpoint] is a Position together with whose it is, who moved it last, and what else a reader
// needs to continue from there. A [Store] keeps one Checkpoint and replaces it by compare and swap.
//
// Two stores are in this package: [File], a directory under a lock, for use, and [Memory], for
// tests. A bus that keeps positions has its Store in its own package. Package checkpointtest has
// the tests that every Store passes.
//
// A Store tells four things apart that must not be confused. [ErrNotFound]: there has never been a
// checkpoint. [ErrLost]: there was one. [ErrCorrupt]: it cannot be read. [ErrForeign]: it belongs
// to somebody else. Only after ErrNotFound may a lane begin at the beginning.
//
// A [Destination] records, outside of a bus, what was stored on it.
//
// The package knows nothing of sources, sinks or the pipeline.
package checkpoint
