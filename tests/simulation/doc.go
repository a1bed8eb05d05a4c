// Package simulation runs whole relays against a simulated world, from a seed.
//
// Two relays with the real lane, source and router are in a testing/synctest bubble, with an Events
// API in memory and a simulated bus. A seed decides what the world is like and what happens in it:
// requests that get lost, are late or arrive twice, answers that get lost, relays that are killed,
// stopped or stand still, a bus that restarts, an API that fails. Everything is judged against the
// promises when it happens, and once more in the end by the oracle that tests/chaos uses. When the
// faults have ended, everything must have arrived within a bound of virtual time, with one relay
// running and the other one standing by.
//
// # Reproducibility
//
// A seed that fails fails again: the same steps at the same virtual nanoseconds. Inside of a bubble
// neither the scheduler nor select is deterministic, so nothing may depend on them. Each decision
// follows from the seed alone: that of the schedule from one generator, that of a request to the
// bus from a generator of its process, which only the goroutine of the lane uses, that of a request
// to the API from its query. Times are drawn to the nanosecond, so that no two things that belong
// to different goroutines happen at once. The random part of relay's own pauses follows from the
// virtual time (retry.Default). TestASeedRepeats holds that against what happens.
package simulation
