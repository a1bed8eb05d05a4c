// Package pipeline carries events from a source through a router to a target. It owns order,
// reading ahead, acknowledgement and the moving of the checkpoint.
//
// A [Lane] carries the events of one source to one target. [Group] runs several of them, each
// independent of the others. What a lane reads ahead lives in its memory; the position that is
// committed belongs to its [Target], and never moves past an event that the bus has not
// acknowledged.
//
// A Target does one thing: it appends messages and moves the position. [ExactlyOnce] does both in
// one atomic act of a [sink.Ledger], a bus that also keeps the position. [AtLeastOnce] publishes
// through a [sink.Sink] and then commits to a [checkpoint.Store]. [Delivery] finds out which of the
// two a lane needs and keeps to it. After any error the lane loads the position and goes on from
// there.
//
// Several processes may run the same lane on a Ledger. One is active, the others stand by, and the
// bus itself refuses the one that was overtaken. [Guard] notices if a bus has lost what it
// acknowledged.
//
// [Lane.Status] is a snapshot of a lane. An [Observer] is told what happens. [Lane.Pause],
// [Lane.Resume] and [Lane.Move] control a running lane.
package pipeline
