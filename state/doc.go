// Package state tells how events change objects: which kinds of object there are, which event sets
// or removes which object, and under which key the newest version of each object is kept.
//
// An [Entity] is a kind of object, such as user. [Entities] is the table of all of them. [ChangeOf]
// returns the [Change] that an event makes. Most events make none: they tell that something
// happened, or mention an object without giving its newest version.
package state
