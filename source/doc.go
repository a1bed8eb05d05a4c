// Package source reads the WorkOS Events API: a Client that makes one request, with the names of the events package of
// WorkOS's Go SDK; the catalogue of event types; and a Stream that yields every event in the order of the source, waits out
// what passes, and stops with a clear error where going on would lose or repeat events.
package source
