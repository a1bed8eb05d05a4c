// Package source reads the WorkOS Events API.
//
// A [Client] makes one request. Its names are those of package events of WorkOS's Go SDK, so that a
// program written for that needs no other change than the import path.
//
// A [Stream] reads events for ever, in the order of the source. [Stream.Pages] begins at a
// position, [Stream.Resume] at a whole checkpoint. Both wait out what may pass, leave out what was
// read before, and end with an error if continuing would lose or repeat events. While a stream is
// far behind, several requests run at once; what comes out is the same.
//
// [Catalogue] and [Expand] are the event types that are known, and patterns over them.
//
// A [Getter] reads what the API serves beside the events; package lists reads its lists of objects
// with it.
//
// Package sourcetest is an Events API for tests, package webhook wakes a stream by WorkOS's
// webhooks.
package source
