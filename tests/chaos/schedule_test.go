//go:build unix

package chaos

import (
	"fmt"
	"time"

	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// fault is one thing that goes wrong.
type fault func(w *world)

// kills are drawn until there were enough of them, each kind as often as any other.
var kills = []fault{killRelay, killRelays, killServer, killLeader}

var lesser = []fault{
	pauseRelay, pauseRelay, pauseServer, moveLeader,
	cutBus, delayBus, silenceBus, breakBusInMidSentence,
	cutAPI, silenceAPI, failAPI, throttleAPI,
}

// schedule draws faults until so many processes were killed, and mends everything at last.
func (w *world) schedule(enough int) {
	var killing, breaking []fault
	for killed := 0; killed < enough; killed = w.did["kill relay"] + w.did["kill server"] {
		for range w.rnd.IntN(3) {
			w.draw(&breaking, lesser)(w)
			w.pass(w.upTo(700 * time.Millisecond))
		}
		if w.rnd.IntN(2) == 0 {
			w.burst()
		}
		w.draw(&killing, kills)(w)
		most := 1500 * time.Millisecond
		if w.rnd.IntN(4) == 0 {
			most = 8 * time.Second // beyond takeover_after
		}
		w.pass(w.upTo(most))
		if w.rnd.IntN(3) == 0 {
			w.mendAll()
			w.flows(1 + w.rnd.IntN(300))
		}
		w.requireAlive()
	}
	w.mendAll()
}

// burst makes many events at once and returns while they are on their way, so that what dies next
// dies in the middle of a batch.
func (w *world) burst() {
	events := 500 + w.rnd.IntN(2500)
	some := 1 + w.rnd.IntN(events)
	w.note("burst", " of %d events", events)
	goal := w.bus.count() + some
	w.append(events)
	for end := time.Now().Add(time.Second); w.bus.count() < goal && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// draw takes a card from a deck, which is shuffled again when it is used up.
func (w *world) draw(deck *[]fault, all []fault) fault {
	if len(*deck) == 0 {
		*deck = append(*deck, all...)
		w.rnd.Shuffle(len(all), func(i, j int) { (*deck)[i], (*deck)[j] = (*deck)[j], (*deck)[i] })
	}
	f := (*deck)[0]
	*deck = (*deck)[1:]
	return f
}

func (w *world) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rnd.Int64N(int64(d/time.Millisecond))+1) * time.Millisecond
}

// broken says that what is broken is to be mended after so long.
func (w *world) broken(what string, after time.Duration, do func()) {
	w.mending[what] = mend{at: time.Now().Add(after), do: do}
}

// mendNow mends what is broken of it.
func (w *world) mendNow(what string) {
	if m, is := w.mending[what]; is {
		delete(w.mending, what)
		m.do()
	}
}

func (w *world) mendAll() {
	for what := range w.mending {
		w.mendNow(what)
	}
}

// pass lets time pass, and mends what is due.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); ; {
		next, due := end, ""
		for what, m := range w.mending {
			if m.at.Before(next) {
				next, due = m.at, what
			}
		}
		time.Sleep(time.Until(next))
		if due == "" {
			return
		}
		w.mendNow(due)
	}
}

func killRelay(w *world) { w.killOneRelay(w.rnd.IntN(len(w.relays))) }

func killRelays(w *world) {
	for i := range w.relays {
		w.killOneRelay(i)
	}
}

func (w *world) killOneRelay(i int) {
	r, what := w.relays[i], fmt.Sprintf("relay%d", i)
	w.mendNow(what)
	down := w.upTo(6 * time.Second)
	w.note("kill relay", " %d for %v", i, down)
	r.Kill()
	w.broken(what, down, func() { r.Start(w.t) })
}

// pauseRelay stops a relay for so long that the other one takes over, or for less.
func pauseRelay(w *world) {
	i := w.rnd.IntN(len(w.relays))
	r, what := w.relays[i], fmt.Sprintf("relay%d", i)
	w.mendNow(what)
	down := w.upTo(9 * time.Second)
	w.note("pause relay", " %d for %v", i, down)
	r.Pause()
	w.broken(what, down, r.Resume)
}

func killServer(w *world) { w.killOneServer(w.rnd.IntN(len(w.bus.servers()))) }

func killLeader(w *world) {
	i := w.rnd.IntN(len(w.bus.servers()))
	w.healServers()
	if leader := w.bus.leader(); leader >= 0 {
		i = leader
		w.note("leader", " is server %d", i)
	}
	w.killOneServer(i)
}

func (w *world) killOneServer(i int) {
	s, down := w.bus.servers()[i], w.upTo(4*time.Second)
	if !w.healServers() {
		return
	}
	w.note("kill server", " %d for %v", i, down)
	s.Kill()
	w.broken("server", down, func() { s.Start(w.t) })
}

func pauseServer(w *world) {
	i := w.rnd.IntN(len(w.bus.servers()))
	s, down := w.bus.servers()[i], w.upTo(6*time.Second)
	if !w.healServers() {
		return
	}
	w.note("pause server", " %d for %v", i, down)
	s.Pause()
	w.broken("server", down, s.Resume)
}

// healServers waits until all servers have everything, and reports whether they do. Only then may
// the next one be broken.
func (w *world) healServers() bool {
	w.mendNow("server")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); w.pass(often) {
		if w.bus.whole() {
			return true
		}
	}
	w.note("servers not whole", "")
	return false
}

func moveLeader(w *world) {
	w.note("move leader", "")
	w.bus.stepDown()
}

// busWeather changes one relay's way to the bus, to all its servers or to one of them.
func (w *world) busWeather(kind string, most time.Duration, now testkit.Weather) {
	i := w.rnd.IntN(len(w.relays))
	links := w.bus.linksOf(i)
	if len(links) > 1 && w.rnd.IntN(3) == 0 {
		n := w.rnd.IntN(len(links))
		links = links[n : n+1]
	}
	what := fmt.Sprintf("bus%d", i)
	w.mendNow(what)
	lasts := w.upTo(most)
	w.note(kind, " of relay %d over %d links for %v", i, len(links), lasts)
	set := func(now testkit.Weather) {
		for _, l := range links {
			l.Set(now)
		}
	}
	set(now)
	w.broken(what, lasts, func() { set(testkit.Weather{}) })
}

func cutBus(w *world)     { w.busWeather("cut bus", 3*time.Second, testkit.Weather{Cut: true}) }
func silenceBus(w *world) { w.busWeather("silence bus", 6*time.Second, testkit.Weather{Silent: true}) }

func delayBus(w *world) {
	w.busWeather("delay bus", 4*time.Second, testkit.Weather{Delay: w.upTo(300 * time.Millisecond)})
}

func breakBusInMidSentence(w *world) {
	w.busWeather("break bus", 3*time.Second, testkit.Weather{Budget: 1 + w.rnd.Int64N(300_000)})
}

func (w *world) apiWeather(kind string, most time.Duration, now testkit.Weather) {
	w.mendNow("api way")
	lasts := w.upTo(most)
	w.note(kind, " for %v", lasts)
	w.apiVia.Set(now)
	w.broken("api way", lasts, func() { w.apiVia.Set(testkit.Weather{}) })
}

func cutAPI(w *world) {
	w.apiWeather("cut api", 2*time.Second, testkit.Weather{Cut: w.rnd.IntN(2) == 0, Budget: 1 + w.rnd.Int64N(100_000)})
}

func silenceAPI(w *world) { w.apiWeather("silence api", 3*time.Second, testkit.Weather{Silent: true}) }

// failAPI makes the API fail in ways that may pass. A page that descends, or that repeats what was
// read, is no such way: relay stops there and asks.
func failAPI(w *world) {
	w.mendNow("api")
	lasts := w.upTo(4 * time.Second)
	w.note("fail api", " for %v", lasts)
	w.api.FailRandomly(0.4, w.rnd.Uint64(), sourcetest.Reset(), sourcetest.Cut(0.5), sourcetest.Status(500), sourcetest.Status(503),
		sourcetest.Malformed(), sourcetest.WrongShape(), sourcetest.Empty(), sourcetest.Slow(100*time.Millisecond, 100*time.Millisecond),
		sourcetest.Trickle(300*time.Millisecond))
	w.broken("api", lasts, w.api.ClearFaults)
}

func throttleAPI(w *world) {
	w.mendNow("api")
	lasts := w.upTo(2 * time.Second)
	w.note("throttle api", " for %v", lasts)
	w.api.FailFor(lasts, sourcetest.TooManyRequests(time.Second, sourcetest.RetryAfterSeconds))
	w.broken("api", lasts, w.api.ClearFaults)
}
