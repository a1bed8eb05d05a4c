// Package app runs the lanes of a configuration and changes them while they run. The commands of
// cmd/relay read flags, call this package and print.
//
// [NewLanes] turns the sinks of a configuration into lanes without connecting to anything. [Serve]
// opens them and runs them together with the admin server, the webhook server and the traces, until
// its context ends or no lane runs any more. A [Relay] is everything that runs.
//
// # The life of a lane
//
//	           open            start            the lane ends by itself
//	planned ---------> opened -------> running ------------------------> stopped
//	                     |               |  ^                              |  ^
//	                     |        reload |  | start                 start  |  | fails again
//	                     |               v  |                              v  |
//	                     |            replaced                           running
//	                     v               |                                 |
//	                  closed <-----------+---------------------------------+
//	                            relay stops, or a reload removes the lane
//
// A lane is planned by NewLanes or by a reload, opened by open or join, and runs in the
// [pipeline.Group] of the relay. A member is an opened lane with all its parts. It never changes: a
// reload or a move makes a new member, which takes over the store, usually the bus, and the lease
// of the old one. What a running lane does by itself (waiting for the lease, delivering, retrying,
// paused, standing by) is the business of package pipeline.
//
// # Who may change what
//
// Three kinds of control act on lanes. None of them waits for another lane.
//
//   - Pause, resume and poll act at once. They hold Relay.mu for reading, so that what they do to a
//     lane is not lost when another member takes its place.
//   - A move of the position (SetCheckpoint) and the restart of a lane by a reload hold the gate of
//     that lane.
//   - A reload holds the gate reloading. It first does everything that can fail, then takes the
//     gates of the lanes that change, each lane on its own. Gates of lanes are taken inside of
//     reloading, never the other way round.
//
// Relay.mu is held for moments only, and never while anything waits.
package app
