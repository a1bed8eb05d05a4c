package page_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/browsertest"
	"workos-relay/internal/journal"
	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// A browser runs no text of an event or an error as code, neither in the page as it is loaded nor
// in later updates.
func TestHostileNamesInABrowser(t *testing.T) {
	const hostile = `<img src=x onerror="window.hacked=1"><script>window.hacked=2</script><svg onload="window.hacked=3">`
	lane := running(`nats"><img src=x onerror="window.hacked=4">`)
	lane.Checkpoint.EventID = hostile
	w := newWorld(t, lane)
	tab := browsertest.Open(t) // which is closed before the relay
	show := func(n int) {
		l := w.past.Lane(lane.Lane)
		l.Observe(nil).Committed(pipeline.Outcome{Events: []source.Event{
			{ID: fmt.Sprint(n, hostile), Event: hostile, CreatedAt: now, Data: []byte(`{"organization_id":"<img src=x onerror=window.hacked=5>"}`)},
		}}, checkpoint.Checkpoint{})
		l.Hooks(nil).OnRetry(source.RetryInfo{Err: &source.APIError{Status: 400, Message: fmt.Sprint(n, hostile), RequestID: hostile}})
	}
	show(1)
	tab.Go(w.base)
	tab.Until(`document.querySelector("#connection").innerText == "Live"`)
	show(2)
	tab.Until(`document.querySelector("#events").innerText.includes("2<img") && document.querySelector("#errors").innerText.includes("2<img")`)
	require.True(t, browsertest.Eval[bool](tab, `window.hacked === undefined`))
	require.Zero(t, browsertest.Eval[int](tab, `document.querySelectorAll("main img, main script").length`))
}

// Updates do not move text that somebody reads, and keep unfolded parts unfolded.
func TestListsThatAreReadAreLeftAlone(t *testing.T) {
	w := newWorld(t, running("nats"))
	tab := browsertest.Open(t) // which is closed before the relay
	show := func(id string) {
		w.past.Lane("nats").Observe(nil).Committed(pipeline.Outcome{Events: []source.Event{{ID: id, Event: "user.created", Data: []byte(`{"a":"b"}`)}}}, checkpoint.Checkpoint{})
	}
	show("event_1")
	tab.Go(w.base)
	tab.Until(`document.querySelector("#connection").innerText == "Live"`)
	browsertest.Eval[bool](tab, `document.querySelector("#events details").open = true`)
	show("event_2")
	tab.Until(`document.querySelector("#events").innerText.includes("event_2")`)
	require.True(t, browsertest.Eval[bool](tab, `document.querySelector('[data-key="nats event_1"]').open && !document.querySelector('[data-key="nats event_2"]').open`))

	browsertest.Eval[bool](tab, `document.querySelector("#events summary").focus() || true`)
	show("event_3")
	tab.Until(`!document.querySelector(".held").hidden && document.querySelector("#types").innerText.includes("3")`)
	require.NotContains(t, tab.Text("#events"), "event_3")
	browsertest.Eval[bool](tab, `document.activeElement.blur() || true`)
	tab.Until(`document.querySelector("#events").innerText.includes("event_3") && document.querySelector(".held").hidden`)
}

func TestABrowserFindsTheRelayAgain(t *testing.T) {
	w := newWorldOn(t, testaddr.Free(t), running("nats")) // an address on which no other test listens
	tab := browsertest.Open(t)                            // which is closed before the relay
	tab.Go(w.base)
	tab.Until(`document.querySelector("#connection").innerText == "Live"`)
	w.set(running("nats"), running("kafka"))
	tab.Until(`document.querySelectorAll(".lane").length == 2 && document.querySelector("#connection").innerText == "Live"`)
	require.NoError(t, w.srv.Close(context.Background()))
	tab.Until(`document.querySelector("#connection").innerText == "No connection, trying again"`)
	w.serve(t, w.srv.Addr().String())
	tab.Until(`document.querySelector("#connection").innerText == "Live"`)
	tab.Complaints() // that nobody answered for a while
}

const isLive = `document.querySelector("#connection").innerText == "Live"`

// folded returns the lanes whose details are folded away, by their index.
func folded(tab *browsertest.Tab) []int {
	return browsertest.Eval[[]int](tab, `[...document.querySelectorAll(".lane .body")].flatMap((e, i) => e.checkVisibility() ? [] : [i])`)
}

// Healthy lanes are folded, and others are not. A lane whose health changes folds or unfolds, but
// not while somebody reads it. A card that was folded or unfolded by hand stays so until then.
func TestHealthyLanesFold(t *testing.T) {
	lanes := []pipeline.Status{running("a"), running("b"), in("c", pipeline.Stopped, "why", "act")}
	w := newWorld(t, lanes...)
	tab := browsertest.Open(t) // which is closed before the relay
	tab.Go(w.base)
	tab.Until(isLive)
	require.Equal(t, []int{0, 1}, folded(tab))
	require.Equal(t, "c", browsertest.Eval[string](tab, `document.querySelector(".overview tbody a").innerText`))

	// By the link in the overview, with the keyboard.
	browsertest.Eval[bool](tab, `document.querySelector('.overview [data-key="b"] a').focus() || true`)
	tab.Press(kb.Enter)
	tab.Until(`document.querySelector("#lane-1-body").checkVisibility()`)
	require.Equal(t, "true", browsertest.Eval[string](tab, `document.querySelectorAll(".fold")[1].getAttribute("aria-expanded")`))
	// By its own button.
	browsertest.Eval[bool](tab, `document.querySelectorAll(".fold")[1].focus() || true`)
	tab.Press(" ")
	tab.Until(`!document.querySelector("#lane-1-body").checkVisibility()`)

	// The focus stays on a row of the overview that moves.
	browsertest.Eval[bool](tab, `document.querySelector('.overview [data-key="b"] a').focus() || true`)
	lanes[1] = in("b", pipeline.Stopped, "why", "act")
	w.set(lanes...)
	tab.Until(`document.querySelector(".overview tbody a").innerText == "b"`)
	require.Equal(t, "b", browsertest.Eval[string](tab, `document.activeElement.innerText`))
	tab.Until(`document.querySelector("#lane-1-body").checkVisibility()`)
	require.Equal(t, []int{0}, folded(tab))

	browsertest.Eval[bool](tab, `getSelection().selectAllChildren(document.querySelector("#lane-1-facts .facts")) || true`)
	lanes[1] = running("b")
	w.set(lanes...)
	tab.Until(`document.querySelector("#lane-1-state").innerText.includes("healthy")`)
	require.Equal(t, []int{0}, folded(tab), "it is read")
	browsertest.Eval[bool](tab, `getSelection().removeAllRanges() || true`)
	tab.Until(`!document.querySelector("#lane-1-body").checkVisibility()`)
}

// The values of a chart can be read with the keyboard and with the pointer, and what is read stays
// while the chart goes on. The range is chosen without loading the page again.
func TestValuesOfCharts(t *testing.T) {
	at := now.Add(-time.Minute).Truncate(time.Second)
	var clock atomic.Pointer[time.Time]
	past := journal.New(journal.Config{Now: func() time.Time { return *clock.Load() }})
	w := &world{now: now, past: past, lanes: []pipeline.Status{running("nats")}}
	lane := running("nats")
	sample := func(n int, lag time.Duration) {
		for range n {
			at = at.Add(time.Second)
			next := at
			clock.Store(&next)
			lane.Events += 7
			lane.At, lane.LastPoll, lane.SourceNow, lane.UnackedAt = at, at, at, at.Add(-lag)
			past.Sample([]pipeline.Status{lane})
		}
	}
	sample(31, 90*time.Second)
	sample(10, 2500*time.Millisecond)
	w.serve(t, "127.0.0.1:0")
	tab := browsertest.Open(t) // which is closed before the relay
	tab.Go(w.base)
	tab.Until(isLive)
	const text = `document.activeElement.getAttribute("aria-valuetext")`
	focus := func(kind string) {
		browsertest.Eval[bool](tab, fmt.Sprintf(`document.querySelector(".plot.%s .scrub").focus() || true`, kind))
	}
	value := func(at time.Time, v string) string { return at.UTC().Format(time.TimeOnly) + " UTC: " + v }
	began := at.Add(-40 * time.Second)
	focus("lag")
	require.Equal(t, "Lag of lane nats at a time", browsertest.Eval[string](tab, `document.activeElement.getAttribute("aria-label")`))
	require.Equal(t, value(began.Add(40*time.Second), "2.5 s"), browsertest.Eval[string](tab, text))
	tab.Press(kb.ArrowLeft)
	tab.Until(text + ` == "` + value(began.Add(30*time.Second), "1 min 30 s") + `"`)
	require.Equal(t, value(began.Add(30*time.Second), "1 min 30 s"), tab.Text(".plot.lag .reading"))
	tab.Press(kb.Home)
	tab.Until(text + ` == "` + value(began.Add(10*time.Second), "1 min 30 s") + `"`)
	tab.Press(kb.End)
	tab.Press(kb.ArrowLeft)
	sample(10, 0)
	tab.Until(`document.activeElement.max == 4`)
	require.Equal(t, value(began.Add(30*time.Second), "1 min 30 s"), browsertest.Eval[string](tab, text), "what is read stays")
	focus("rate")
	require.Equal(t, value(began.Add(50*time.Second), "7.0/s"), browsertest.Eval[string](tab, text))
	require.False(t, browsertest.Eval[bool](tab, `document.querySelector(".plot.lag .reading").checkVisibility()`))
	browsertest.Eval[bool](tab, `document.activeElement.blur() || true`)

	// Where the pointer is.
	browsertest.Eval[bool](tab, `{
		const e = document.querySelector(".plot.lag .scrub"), box = e.getBoundingClientRect();
		e.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: box.right, clientY: box.top + 5 }));
	} true`)
	require.Equal(t, value(began.Add(50*time.Second), "0 s"), tab.Text(".plot.lag .reading"))

	browsertest.Eval[bool](tab, `window.sameDocument = true`)
	browsertest.Eval[bool](tab, `document.querySelector("[data-range='5m']").click() || true`)
	tab.Until(`document.querySelector(".plot.lag figcaption").innerText.includes("last 5 min")`)
	require.True(t, browsertest.Eval[bool](tab, `window.sameDocument && location.search == "?range=5m"`))
	require.Equal(t, "5 min", browsertest.Eval[string](tab, `document.querySelector(".ranges [aria-current]").innerText`))
}

// Without JavaScript nothing is folded, and no button is shown.
func TestNothingFoldsWithoutJavaScript(t *testing.T) {
	w := newWorld(t, running("a"), running("b"))
	tab := browsertest.Open(t) // which is closed before the relay
	tab.Scripts(false)
	tab.Go(w.base)
	require.Empty(t, folded(tab))
	require.Zero(t, browsertest.Eval[int](tab, `[...document.querySelectorAll("button")].filter((b) => b.checkVisibility()).length`))
}

// Without a connection the page says since when, and nothing on it looks like the present state.
func TestALostConnection(t *testing.T) {
	w := newWorldOn(t, testaddr.Free(t), running("a"), in("b", pipeline.Stopped, "why", "act"))
	tab := browsertest.Open(t) // which is closed before the relay
	tab.Go(w.base)
	tab.Until(isLive)
	const grey = `[...document.querySelectorAll(".pill, .reason")].every((e) => {
		const [r, g, b] = getComputedStyle(e).color.match(/\d+/g).map(Number);
		return Math.max(r, g, b) - Math.min(r, g, b) < 30;
	})`
	require.False(t, browsertest.Eval[bool](tab, grey))
	require.False(t, browsertest.Eval[bool](tab, `document.querySelector("#lost").checkVisibility()`))
	require.NoError(t, w.srv.Close(context.Background()))
	tab.Until(`document.querySelector("#lost").checkVisibility()`)
	require.Equal(t, "No connection to relay since "+now.UTC().Format(time.TimeOnly)+" UTC. Everything below is as it was then.", tab.Text("#lost"))
	require.True(t, browsertest.Eval[bool](tab, grey))
	require.Equal(t, "? relay workos: no connection", browsertest.Eval[string](tab, `document.title`))
	require.Contains(t, browsertest.Eval[string](tab, `document.querySelector("#icon").href`), "lost.")
	require.True(t, browsertest.Eval[bool](tab, `[...document.querySelectorAll("[data-action]")].every((b) => b.getAttribute("aria-disabled") == "true")`))

	w.serve(t, w.srv.Addr().String())
	tab.Until(isLive + ` && !document.querySelector("#lost").checkVisibility()`)
	require.False(t, browsertest.Eval[bool](tab, grey))
	require.Equal(t, "!! relay workos: action needed", browsertest.Eval[string](tab, `document.title`))
	require.Equal(t, "Pause lane a", browsertest.Eval[string](tab, `document.querySelector("[data-action]:not([aria-disabled])").textContent`))
	tab.Complaints() // that nobody answered for a while
}

// TestLooks shows the page with few and many lanes, healthy and not, live and not, on screens of
// three widths in both colour schemes: nothing is wider than the screen, and axe-core finds
// nothing. To see it all: go test -run TestLooks -artifacts ./internal/admin/page
func TestLooks(t *testing.T) {
	tab := browsertest.Open(t)
	pictures := flag.Lookup("test.artifacts").Value.String() == "true"
	twelve := several()
	for _, name := range []string{"audit", "billing", "crm", "search", "warehouse-with-a-long-name-of-its-own"} {
		twelve = append(twelve, running(name))
	}
	degraded := in("kafka", pipeline.Retrying, "publishing 412 messages to kafka-2:9092: NOT_ENOUGH_REPLICAS: the topic has fewer replicas in sync than min.insync.replicas asks for", "")
	degraded.Since = now.Add(-time.Minute)
	for _, look := range []struct {
		name  string
		lanes []pipeline.Status
	}{{"one", []pipeline.Status{running("nats")}}, {"two", []pipeline.Status{running("nats"), degraded}}, {"twelve", twelve}} {
		w := anHour(t, look.lanes...)
		tab.Go(w.base)
		tab.Until(isLive)
		see := func(when string) {
			for _, width := range []int64{1280, 390, 320} {
				for _, scheme := range []string{"light", "dark"} {
					tab.Size(width, 900, width < 500)
					tab.Prefer(scheme)
					name := fmt.Sprint(look.name, "-", when, "-", width, "-", scheme)
					require.LessOrEqual(t, browsertest.Eval[int64](tab, `document.documentElement.scrollWidth`), width, name)
					if width == 1280 || scheme == "light" && width == 320 && look.name == "twelve" { // the others differ in nothing that it looks at
						require.Empty(t, tab.Violations(), name)
					}
					if pictures {
						tab.Picture(t.ArtifactDir(), name)
					}
				}
			}
		}
		see("live")
		if look.name == "two" {
			require.NoError(t, w.srv.Close(context.Background()))
			tab.Until(`document.querySelector("#lost").checkVisibility()`)
			see("lost")
			tab.Go("about:blank")
			tab.Complaints() // that nobody answers
		}
	}
	tab.Go("about:blank") // before the relay ends
}

// TestPicture makes docs/status-page.png: go test -run TestPicture -artifacts ./internal/admin/page
func TestPicture(t *testing.T) {
	w := anHour(t, twoAtWork()...)
	tab := browsertest.Open(t) // which is closed before the relay
	tab.Size(1240, 1180, false)
	for _, scheme := range []string{"light", "dark"} {
		tab.Prefer(scheme)
		tab.Go(w.base)
		tab.Until(`document.querySelector("#connection").innerText == "Live"`)
		browsertest.Eval[bool](tab, `document.querySelectorAll(".fold").forEach((b) => b.click()) || true`)
		require.Greater(t, browsertest.Eval[int](tab, `document.querySelector(".plot.rate .line").getAttribute("d").length`), 1000)
		tab.Picture(t.ArtifactDir(), "status-page-"+scheme)
	}
}

// twoAtWork are two healthy lanes.
func twoAtWork() []pipeline.Status {
	nats, kafka := running("nats"), running("kafka")
	kafka.Type = "kafka"
	return []pipeline.Status{nats, kafka}
}

// anHour is a relay after an hour of work, in which the first two lanes did something: the second
// of them had to wait for its bus.
func anHour(t *testing.T, lanes ...pipeline.Status) *world {
	t.Helper()
	began := now
	at := began.Add(-time.Hour)
	w := &world{now: began, past: journal.New(journal.Config{Now: func() time.Time { return at }})}
	chance := rand.New(rand.NewPCG(1, 1))
	lanes = slices.Clone(lanes)
	nats, kafka := lanes[0], lanes[0]
	if len(lanes) > 1 {
		kafka = lanes[1]
	}
	nats.Events, kafka.Events = 1_310_400, 1_198_200
	trouble := func() bool { m := at.Sub(began).Minutes(); return m > -31 && m < -27 }
	o, reading := w.past.Lane(kafka.Lane).Observe(nil), w.past.Lane(nats.Lane).Hooks(nil)
	waits := 0.0
	for second := range 3600 {
		at = at.Add(time.Second)
		rate := 28 + 6*chance.NormFloat64()
		if second%900 > 700 {
			rate += 70 * chance.Float64() // a directory sync
		}
		n := uint64(max(0, rate))
		nats.Events += n
		nats.SourceNow, nats.UnackedAt = at, at.Add(-time.Duration(300+chance.IntN(1500))*time.Millisecond)
		if trouble() {
			waits += float64(n)
			if second%15 == 0 {
				o.Retrying(pipeline.Publishing, errors.New("publishing 412 messages to kafka-2:9092: NOT_ENOUGH_REPLICAS: the topic has fewer replicas in sync than min.insync.replicas asks for"))
			}
		} else {
			more := min(waits, 90)
			waits -= more
			kafka.Events += n + uint64(more)
		}
		lag := time.Duration(waits/28*float64(time.Second)) + time.Duration(500+chance.IntN(2500))*time.Millisecond
		kafka.SourceNow, kafka.UnackedAt = at, at.Add(-lag)
		if second == 3100 {
			reading.OnRetry(source.RetryInfo{Err: &source.APIError{Status: 429, Message: "Too many requests", RequestID: "9c3f0b1e-77d2-4b0a-9a57-2f1f5f1f2c1b"}})
		}
		w.past.Sample(append([]pipeline.Status{nats, kafka}[:min(2, len(lanes))], lanes[min(2, len(lanes)):]...))
	}
	for i := range 12 { // more than the list of errors shows without scrolling
		if len(lanes) > 2 {
			o.Retrying(pipeline.Publishing, fmt.Errorf("publishing to stream EVENTS_%d: no answer from nats://nats-%d.example:4222 within 10s", i, i))
		}
	}
	types := []string{ // the frequent ones first
		"dsync.user.updated", "session.created", "dsync.group.user_added", "user.created", "authentication.sso_succeeded", "organization_membership.created", "dsync.user.created", "session.revoked",
	}
	for i := range 200 {
		at = began.Add(time.Duration(i-200) * 400 * time.Millisecond)
		var batch []source.Event
		for range 2 {
			batch = append(batch, source.Event{
				ID: "event_" + ulid(chance), Event: types[min(chance.IntN(len(types)), chance.IntN(len(types)))], CreatedAt: at.Add(-time.Second),
				Data: fmt.Appendf(nil, `{"organization_id":"org_%s"}`, ulid(chance)),
			})
		}
		for _, lane := range []string{nats.Lane, kafka.Lane} {
			w.past.Lane(lane).Observe(nil).Committed(pipeline.Outcome{Events: batch[max(0, len(batch)-2):]}, checkpoint.Checkpoint{})
			at = at.Add(15 * time.Millisecond)
		}
	}
	for i := range lanes {
		s := &lanes[i]
		s.LastPoll, s.Rate = began, 31.4
		s.Checkpoint.EventID = "event_01KB9V4T6QH8M2ZC3XGD5RNWEY"
	}
	lanes[0].Events, lanes[0].SourceNow, lanes[0].UnackedAt = nats.Events, nats.SourceNow, nats.UnackedAt
	if len(lanes) > 1 && lanes[1].State == pipeline.Running {
		lanes[1].Events, lanes[1].SourceNow, lanes[1].UnackedAt = kafka.Events, kafka.SourceNow, kafka.UnackedAt
	}
	w.lanes = lanes
	w.activity = map[string]admin.Activity{}
	for i, l := range lanes {
		w.activity[l.Lane] = admin.Activity{
			Delivery:    &admin.Delivery{WindowSeconds: 300, Events: 9000, P50Seconds: 0.084 + float64(i)/100, P99Seconds: 0.912 + float64(i)/3},
			DeadLetters: &admin.DeadLetters{},
		}
	}
	if len(lanes) > 1 {
		l := w.activity[lanes[1].Lane]
		l.DeadLetters = &admin.DeadLetters{Events: 3, Newest: &admin.DeadLetter{
			EventID: "event_01KB9V4SZK3W9M7TQH5CVB1RXE", Type: "dsync.group.updated", At: began.Add(-2 * time.Hour),
			Reason: "the message has 1.3 MB, and the bus takes 1.0 MB",
		}}
		w.activity[lanes[1].Lane] = l
	}
	limited := began.Add(-500 * time.Second)
	w.requests = &admin.Requests{PerSecond: 4.1, Limit: 80, RateLimited: 1, RateLimitedAt: &limited}
	w.serve(t, "127.0.0.1:0")
	return w
}

// ulid is an id like those of WorkOS.
func ulid(chance *rand.Rand) string {
	const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	b := []byte("01KB9V4")
	for len(b) < 26 {
		b = append(b, digits[chance.IntN(len(digits))])
	}
	return string(b)
}
