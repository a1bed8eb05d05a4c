/*
 * Two relays, one lane, one bus that stores events and position in one step. README.md says how to
 * read this and how to run it.
 *
 * The bus refuses a commit whose token is not valid any more. On JetStream the token is the revision
 * of the position that the relay has seen last: every commit ends the tokens of before. On Kafka
 * (-DKAFKA) it is the session that a fence begins: every fence ends the sessions of before.
 *
 * -DPOISONED has an event that the bus can never take. -DBROKEN_... puts a fault into the protocol
 * that relay had or could have; each must violate something.
 */

#ifndef EVENTS
#define EVENTS 3   /* of the source: 0, 1, 2 */
#endif
#ifndef FAULTS
#define FAULTS 2   /* in one run: an answer that is late or lost, a crash, a stop, a purge */
#endif
#define BATCH  2   /* events in one commit at most */
#define CROSS  2   /* such fences in one run: pauses of random length let one get through after that */
#define LOOKS  2   /* periods without a change after which a holder counts as silent */
#define POISON 1   /* the event that the bus can never take */
#define NOBODY 2

/* The bus. */
byte stored;       /* the events before this one are stored, or the operator has agreed to skip them */
bool exists;       /* there is a position */
byte position;     /* the event that comes next */
byte holder = NOBODY;
bool released;
bool due;          /* the holder has not shown in this period that it is alive */
bool lapsed;       /* it was dead or stopped for a period, and has not moved the position since */

/* A commit under way: from and to are the position before and after it. */
mtype = { free, sent, accepted, refused };
typedef Request {
	mtype state = free;
	bool valid;    /* so is its token */
	byte from, to
}
Request request[2]; /* relay r waits for the answer */
Request late[2];    /* relay r has given it up; of several the last, the others never arrive */

/* The relays. */
bool valid[2];     /* the token of relay r is valid */
bool holds[2];     /* it holds the position, as far as it knows */
bool stopped[2];   /* by SIGSTOP, or behind a network that lets nothing through */
bool asking[2];    /* it has stopped with a question */
bool changed[2];   /* the position has changed since relay r looked last */
byte quiet[2];     /* for how many periods it has not */

byte faults;
bool lost;         /* the position was purged, and nobody has answered the question yet */
bool told;         /* the operator was shown which event is skipped, and has agreed */
bool paused;       /* by hand */
bool wasPaused;
byte crossed;      /* fences that met a commit of the other relay under way */

#define mayFail  (faults < FAULTS)
#define complete (exists && position == EVENTS)

#ifndef POISONED
#define blocked(p) false
#elif defined(BROKEN_ADVICE)
#define blocked(p) (!told && p <= POISON)
#else
#define blocked(p) (!told && p == POISON)
#endif

inline invalidate() {
	valid[0] = false; valid[1] = false;
	request[0].valid = false; request[1].valid = false;
	late[0].valid = false; late[1].valid = false
}

inline changes() {
	due = false; lapsed = false;
	changed[0] = true; changed[1] = true; quiet[0] = 0; quiet[1] = 0
}

inline clear(q) { q.state = free; q.valid = false; q.from = 0; q.to = 0 }

/* append stores the events of a commit. It asserts what consumers and operators rely on. */
inline append(r, q) {
	assert(q.from == q.to || !lost);            /* P3: nothing moves on after a loss */
	assert(q.from == q.to || holder == r);      /* P6: only the holder writes */
	do
	:: q.from < q.to ->
		if
		:: told && stored == POISON && q.from > POISON -> stored++
		:: else
		fi;
		assert(q.from == stored);               /* P2, P5: in order, each once */
		stored++; q.from++
	:: else -> break
	od
}

#ifdef BROKEN_COMPARE
#define matches(q) true
#else
#define matches(q) q.valid
#endif

/* decide is what the bus does with a commit of relay r, where yes and no are its states after that. */
inline decide(r, q, yes, no) {
	if
	:: matches(q) ->
		append(r, q);
		assert(holder == r || released || !exists || lapsed); /* P6: nobody takes over from a relay that is alive */
		exists = true; position = q.to; holder = r; released = false;
		assert(position <= stored || (told && position == POISON + 1)); /* P1 */
		changes();
#ifndef KAFKA
		invalidate();
#endif
		q.valid = true; q.state = yes
	:: else -> q.state = no
	fi
}

/* Commits arrive in any order. One that nobody waits for any more may get lost. */
active proctype Bus() {
end:
	do
	:: atomic { request[0].state == sent -> decide(0, request[0], accepted, refused) }
	:: atomic { request[1].state == sent -> decide(1, request[1], accepted, refused) }
	:: atomic { late[0].state == sent -> decide(0, late[0], free, free); clear(late[0]) }
	:: atomic { late[1].state == sent -> decide(1, late[1], free, free); clear(late[1]) }
	:: atomic { late[0].state == sent -> clear(late[0]) }
	:: atomic { late[1].state == sent -> clear(late[1]) }
	od
}

#define alive(r) (holder == r && !stopped[r] && !asking[r])

inline waits(r) {
	if
	:: !stopped[r] && !holds[r] && !changed[r] && quiet[r] < LOOKS -> quiet[r]++
	:: else
	fi
}

/* A period is as long as a relay that is alive needs at most to show it. */
active proctype Clock() {
end:
	do
	:: atomic {
#ifndef BROKEN_RENEWAL
		!(due && (alive(0) || alive(1))) ->
#endif
		if
		:: due && !alive(0) && !alive(1) -> lapsed = true
		:: else
		fi;
		due = true; waits(0); waits(1)
	}
	od
}

#define runs  (!stopped[me])
#define taken (changed[me] && exists && holder != me && !released)

inline send(upTo) {
	request[me].from = at; request[me].to = upTo;
	request[me].valid = valid[me]; request[me].state = sent;
	at = upTo
}

/* giveUp stops waiting. What was sent may still arrive. */
inline giveUp() {
	if
	:: request[me].state == sent ->
		late[me].from = request[me].from; late[me].to = request[me].to;
		late[me].valid = request[me].valid; late[me].state = sent
	:: else
	fi;
	clear(request[me])
}

/* doubt is the end of everything that the relay believes about the position. */
inline doubt() { holds[me] = false; valid[me] = false; at = 0 }

/* restart is a crash: nothing remains but the holder id. */
inline restart() { faults++; giveUp(); doubt(); quiet[me] = 0; changed[me] = true }

proctype Relay(byte me) {
	byte at;

look:   /* the position is read before every claim and after every doubt */
	atomic {
		runs ->
		at = position;
#ifndef KAFKA
		valid[me] = true;
#endif
		changed[me] = false;
		if
#ifdef BROKEN_FIRST_START
		:: !exists -> at = 0; goto claim
#else
		:: !exists && !lost -> at = 0; goto claim       /* the first start */
		:: lost -> goto ask
#endif
		:: exists && (holder == me || released) -> goto claim
		:: exists && holder != me && !released && quiet[me] >= LOOKS -> goto claim
		:: else -> doubt()
		fi
	}
	/* standby */
	atomic {
		if
		:: runs && (changed[me] || released || holder == me || !exists || quiet[me] >= LOOKS) -> goto look
		:: mayFail -> restart(); goto look
		fi
	}

claim:
#ifdef KAFKA
#ifndef BROKEN_STALE_LOOK
	atomic {                                            /* a fence disturbs a relay that writes */
		if
		:: runs && taken -> goto look
		:: runs && !taken
		fi
	}
#endif
	atomic {
		runs && (request[1-me].state == free || crossed < CROSS) ->
		crossed = (request[1-me].state == free -> crossed : crossed + 1);
		invalidate(); valid[me] = true;                 /* the fence; what is read after it is final */
#ifndef BROKEN_LOAD_BEFORE_FENCE
		if
#ifndef BROKEN_FIRST_START
		:: lost -> goto ask
#endif
#ifndef BROKEN_STALE_LOOK
		:: taken -> goto look
#endif
		:: else -> at = position
		fi;
#endif
		send(at)
	}
#else
	atomic { runs -> send(at) }                         /* the token is of the look: nothing has changed since, or it is refused */
#endif

await:
	atomic {
		if
		:: runs && request[me].state == accepted ->
			valid[me] = request[me].valid; holds[me] = true;
			quiet[me] = 0; changed[me] = false;
			clear(request[me])
		:: runs && request[me].state == refused ->
			clear(request[me]); doubt(); goto look
		:: runs && mayFail ->                           /* no answer in time: stored, or not, or later */
			faults++; giveUp();
#ifndef BROKEN_GUESS
			doubt(); goto look
#endif
		:: mayFail -> restart(); goto look
		fi
	}

deliver:
	atomic {
		if
		:: runs && !paused && at < EVENTS ->
			if
			:: blocked(at) -> goto ask
#ifndef BROKEN_ADVICE
			:: !blocked(at) && (at + 1 == EVENTS || blocked(at + 1)) -> send(at + 1) /* what precedes it goes first */
#else
			:: !blocked(at) && at + 1 == EVENTS -> send(at + 1)
#endif
			:: !blocked(at) && at + 1 < EVENTS && !blocked(at + 1) ->
				if
				:: send(at + 1)
				:: send(at + BATCH)
				fi
			fi
#ifndef BROKEN_RENEWAL
		:: runs && due && (paused || at == EVENTS) -> send(at)
#endif
		:: mayFail -> restart(); goto look
		fi
	}
	goto await;

ask:    /* it has stopped, until somebody answers and starts it again */
	atomic { giveUp(); doubt(); asking[me] = true }
	atomic { !asking[me] -> changed[me] = true; goto look }
}

/* Machines, and the network between them. */
active proctype World() {
end:
	do
	:: atomic { mayFail && !stopped[0] -> faults++; stopped[0] = true }
	:: atomic { mayFail && !stopped[1] -> faults++; stopped[1] = true }
	:: stopped[0] -> stopped[0] = false
	:: stopped[1] -> stopped[1] = false
	od
}

/* move is `relay checkpoint set`: a commit, after which no token of before is valid. */
inline move(to_) {
	invalidate(); changes();
	exists = true; position = to_; holder = NOBODY; released = true;
	asking[0] = false; asking[1] = false
}

active proctype Operator() {
end:
	do
	:: atomic { !wasPaused -> paused = true; wasPaused = true }
	:: paused -> paused = false
	:: atomic {                                         /* somebody purges the position */
		mayFail && exists && !lost -> faults++;
		exists = false; position = 0; holder = NOBODY; released = false; lost = true;
		invalidate(); changes()
	}
	:: atomic { (asking[0] || asking[1]) && lost -> lost = false; move(stored) }
	:: atomic { (asking[0] || asking[1]) && exists && blocked(position) -> told = true; move(POISON + 1) }
	:: atomic { (asking[0] || asking[1]) && exists && !blocked(position) -> asking[0] = false; asking[1] = false }
	od
}

init { atomic { run Relay(0); run Relay(1) } }

#ifdef LIVE
ltl progress { <> complete }
#endif
