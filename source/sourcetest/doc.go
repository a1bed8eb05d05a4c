// Package sourcetest is a WorkOS Events API to test against: strict where WorkOS documents a rule,
// switchable by option where the documents leave a doubt, and fast enough to be a benchmark's
// source.
//
// A [Server] answers in three ways that behave alike: as an http.Handler, on its own socket
// ([Server.Start]), and in memory as an http.RoundTripper ([Server.RoundTripper]). The last starts
// no goroutine and opens no socket, so it runs inside a testing/synctest bubble, where latency,
// rate limits, hold-back and retention follow the bubble's clock.
//
// Events come from raw bytes ([Server.Append]), from a deterministic population that is rendered on
// demand and so costs no memory ([WithPopulation]), and from live generation ([Server.Live]). What
// a page carries is byte for byte what was stored.
//
// With [WithWorld] the server also has objects, and answers for their list endpoints. [World]
// changes them, so that lists and events agree, and knows what is right.
//
// The names, addresses and domains in generated events are invented.
package sourcetest
