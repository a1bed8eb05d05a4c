// Package soak keeps one relay at work for a long time, under load and faults, and requires that
// its memory, goroutines and file descriptors stay flat.
//
// relay is its own process, built from cmd/relay, with a lane to NATS JetStream and, where
// RELAY_TEST_KAFKA names brokers, one to Kafka. The Events API and the NATS server live in the
// test. Events are made all along. All along, too, some requests fail: 429, 5xx, connections that
// break before or within an answer, answers that are malformed or slow. By turns the whole API is
// down for a while, or throttles everybody, thousands of events come at once, the NATS server is
// stopped and started again, and the configuration is reloaded by SIGHUP. In the end every event
// must have been carried by every lane, and relay must stop in order.
//
// What is judged comes from relay's own /metrics. The first third of the time is for warming up. A
// quantity is flat if it lies no higher in the last third than in the middle one, but for a
// margin. Of each third the lower quartile counts, which is what remains when no fault is being
// dealt with: a leak raises that, a burst does not. Nothing depends on how fast the machine is.
//
// RELAY_SOAK says for how long, such as 30m; without it TestSoak is skipped. RELAY_SOAK_RATE is the
// average of events per second (150), and RELAY_SOAK_RELOAD=off leaves out the reloads. `make soak`
// runs 30 minutes and prints the table of docs/operate.md.
package soak
