package page_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/browsertest"
	"workos-relay/internal/journal"
	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// A browser runs no text of an event or an error as code, neither in the page as it is loaded nor
// in later updates.
func TestHostileNamesInABrowser(t *testing.T) {
	tab := browsertest.Open(t)
	const hostile = `<img src=x onerror="window.hacked=1"><script>window.hacked=2</script><svg onload="window.hacked=3">`
	lane := running(`nats"><img src=x onerror="window.hacked=4">`)
	lane.Checkpoint.EventID = hostile
	w := newWorld(t, lane)
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
	tab := browsertest.Open(t)
	w := newWorld(t, running("nats"))
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
	tab := browsertest.Open(t)
	w := newWorldOn(t, testaddr.Free(t), running("nats")) // an address on which no other test listens
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

// TestPicture makes docs/status-page.png: go test -run TestPicture -artifacts ./internal/admin/page
func TestPicture(t *testing.T) {
	tab := browsertest.Open(t)
	w := anHour(t)
	tab.Size(1240, 1180, false)
	for _, scheme := range []string{"light", "dark"} {
		tab.Prefer(scheme)
		tab.Go(w.base)
		tab.Until(`document.querySelector("#connection").innerText == "Live"`)
		require.Greater(t, browsertest.Eval[int](tab, `document.querySelector(".plot.rate .line").getAttribute("d").length`), 1000)
		tab.Picture(t.ArtifactDir(), "status-page-"+scheme)
	}
}

// anHour is a relay with two lanes after an hour of work, in which one of them had to wait for its
// bus.
func anHour(t *testing.T) *world {
	t.Helper()
	began := time.Now()
	at := began.Add(-time.Hour)
	w := &world{now: began, past: journal.New(journal.Config{Now: func() time.Time { return at }})}
	chance := rand.New(rand.NewPCG(1, 1))
	nats, kafka := running("nats"), running("kafka")
	kafka.Type, nats.Events, kafka.Events = "kafka", 1_310_400, 1_198_200
	trouble := func() bool { m := at.Sub(began).Minutes(); return m > -31 && m < -27 }
	o, reading := w.past.Lane("kafka").Observe(nil), w.past.Lane("nats").Hooks(nil)
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
		w.past.Sample([]pipeline.Status{nats, kafka})
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
		for _, lane := range []string{"nats", "kafka"} {
			w.past.Lane(lane).Observe(nil).Committed(pipeline.Outcome{Events: batch[max(0, len(batch)-2):]}, checkpoint.Checkpoint{})
			at = at.Add(15 * time.Millisecond)
		}
	}
	for _, s := range []*pipeline.Status{&nats, &kafka} {
		s.Since, s.LastPoll, s.Rate = began.Add(-9*time.Hour), began, 31.4
		s.Checkpoint.EventID = "event_01KB9V4T6QH8M2ZC3XGD5RNWEY"
	}
	kafka.Since = began.Add(-27 * time.Minute)
	w.lanes = []pipeline.Status{nats, kafka}
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
