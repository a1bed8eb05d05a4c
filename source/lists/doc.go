// Package lists reads the list endpoints of WorkOS's API: what exists now, as package source reads
// what has happened.
//
// [Endpoints] is the table of what can be listed, by the kind of object. [Client.Page] reads one
// page of a list and returns each object as WorkOS sent it, with the [Cursor] to continue at.
// [Client.Get] looks at one object. Requests share the API key, the rate limit, the connections and
// the retries of a [source.Client].
//
// A list is read oldest first. What is created while it is read comes at its end. What is deleted
// meanwhile is left out or not, depending on which comes first.
package lists
