// Package router turns an event into the messages that carry it: on which topic, under which key,
// with which headers and in which encoding.
//
// [New] checks a [Config] and returns a [Router]. [Router.Route] gives the messages of an event,
// [Router.DeadLetter] the message that stands for an event which can never be published.
//
// Without a [Route] an event goes to the topic that is named like its type, and its key is the id
// of its organization, else of the entity that it is about. The body is the event as received.
//
// A Router keeps no state, asks nothing of the bus, and gives the same messages for the same event
// each time.
package router
