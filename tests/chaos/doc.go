// Package chaos breaks a whole relay at random and checks with an oracle what reached
// the bus.
//
// Everything is real and its own process, so that it can die as it would in production: two
// relays (one active, one standing by, each with its own folder) built from cmd/relay, the three
// servers of the bus, which store in files, and between them connections that can be cut, delayed
// and silenced. Only the Events API lives in the test, which makes events all along and so knows
// each of them and their order.
//
// A schedule drawn from a seed kills (SIGKILL) and pauses (SIGSTOP) relays and servers, the leader
// of the stream among them, moves leaders, breaks connections, and has the API fail and throttle;
// faults overlap. The seed fixes what is done and in which order, not what the processes do
// meanwhile, so a seed repeats a schedule and only mostly its outcome. It is printed, and set by
// -chaos.seed or RELAY_CHAOS_SEED; the number of kills by -chaos.kills or RELAY_CHAOS_KILLS. `make
// chaos` runs the long profile.
//
// # What is shown
//
// TestChaosNATS, exactly_once on a stream of three replicas: a consumer of the stream finds every
// event of the source once, in the source's order, byte for byte as the API served it. The position
// never goes back, its generation never falls, a generation has one holder, and each position seen
// stands in the stream right behind the events it speaks of. A write by a relay that had lost its
// place would be a copy or an event out of order. The stream's duplicate window is 100 ms, so
// nothing is owed to it.
//
// TestChaosNATSAtLeastOnce, a single relay with its position in a file: no event is lost, and the
// first copies come in the source's order. How many copies there are is printed and not judged.
//
// TestChaosKafka and TestChaosKafkaAtLeastOnce, on three real brokers: the same for consumers that
// read committed, with the order of each partition.
//
// TestTwinsNATS and TestTwinsKafka pause two relays by turns for as long as -chaos.twins or
// RELAY_CHAOS_TWINS says, and judge the same.
//
// TestLeaderOfTheStreamKilled, TestAPositionTakenAway, TestAnOutageLongerThanTheDuplicateWindow and
// TestAWriteThatComesTooLate are the cases that must not be left to chance.
//
// # What is not shown
//
// The operating system lives through all of it, and with it data that was written and not yet
// synced: power failures are beyond these tests. One server at a time is down or paused, and the
// next one only after all replicas have caught up; a bus that loses what it acknowledged, as one
// may that loses its quorum's disks, is beyond what a relay can mend. Retention, compaction and
// consumers that read uncommitted are not touched.
package chaos
