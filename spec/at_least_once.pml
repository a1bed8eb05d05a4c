/*
 * One lane in at_least_once: the position is in a file, and a lock lets one process in. README.md
 * says how to read this and how to run it.
 *
 * -DBROKEN_... puts a fault into the protocol; each must violate something.
 */

#ifndef EVENTS
#define EVENTS 3   /* of the source: 0, 1, 2 */
#endif
#ifndef FAULTS
#define FAULTS 3   /* in one run: an answer that is lost, a crash, a disk that is full */
#endif
#define WINDOW 2   /* events in flight at most */
#define FREE   2

byte copies[EVENTS];  /* of each event on the bus */
byte first;           /* the events before this one are on the bus at least once */
byte position;        /* in the file: the event that comes next */
byte lock = FREE;     /* the process that has the lock */
byte risked[EVENTS];  /* how often this event was in flight without an answer that arrived */
byte faults;

#define mayFail  (faults < FAULTS)
#define complete (position == EVENTS)

/* store is the bus: it has the event, and says so unless the answer is lost. */
inline store(e) {
	assert(e <= first);                             /* P2: nothing overtakes an event before it */
	copies[e]++;
	assert(copies[e] <= 1 + risked[e]);             /* P7: what comes twice was in flight */
	first = (e == first -> first + 1 : first)
}

proctype Relay(byte me) {
	byte at, acked, n;

start:
#ifndef BROKEN_LOCK
	atomic { lock == FREE -> lock = me }
#else
	lock = me;
#endif
	atomic { at = position; acked = position }

deliver:
	atomic {
		if
		:: acked == EVENTS && position == EVENTS -> goto rest
		:: acked != position -> goto commit
		:: acked == position && acked < EVENTS -> at = acked; n = 0
		fi
	}
	/* A batch goes out in order. The bus has stored it or a part of it when the answers stop. */
	do
	:: atomic { n < WINDOW && at < EVENTS ->
#ifdef BROKEN_EARLY
		acked = at + 1;                             /* counted before the answer */
#endif
		if
		:: store(at); acked = at + 1; at++; n++
		:: mayFail -> faults++; risked[at]++; store(at); break      /* stored, and the answer is lost */
		:: mayFail -> faults++; break                               /* not stored */
		fi }
	:: atomic { n == WINDOW || at == EVENTS -> break }
	:: atomic { mayFail -> faults++; goto crash }
	od;
	goto deliver;

commit: /* written to another file, synced, and put into its place */
	atomic {
		if
		:: assert(position <= acked);               /* P6: nobody else has moved it */
			position = acked;
			assert(position <= first)               /* P1 */
		:: mayFail -> faults++                      /* the disk is full: it is tried again, and nothing moves meanwhile */
		:: mayFail -> faults++; goto crash
		fi
	}
	goto deliver;

crash:  /* the process that starts again knows the file alone */
	atomic {
		lock = (lock == me -> FREE : lock);
		n = position;
		do
		:: n < EVENTS && n < acked -> risked[n]++; n++
		:: else -> break
		od;
		at = 0; acked = 0; n = 0
	}
	goto start;

rest:
	atomic { lock = (lock == me -> FREE : lock) }
}

init { atomic { run Relay(0); run Relay(1) } }

#ifdef LIVE
ltl progress { <> complete }
#endif
