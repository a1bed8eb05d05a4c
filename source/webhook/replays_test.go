package webhook

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// TestAReplayDoesNotWake sends a webhook again in every form that has a right signature.
func TestAReplayDoesNotWake(t *testing.T) {
	t.Parallel()
	const body, second = `{"id":"wh_1","event":"user.created"}`, "whsec_2"
	now := noon
	var woken, named int
	var results []Result
	h := NewHandler("", 0, func() time.Time { return now }, func() { woken++ })
	h.Secrets = func() []string { return []string{secret, second} }
	h.OnEvent = func(string) { named++ }
	h.OnResult = func(r Result) { results = append(results, r) }
	good := sourcetest.SignWebhook(secret, noon, []byte(body))
	stamp, v1, _ := strings.Cut(good, ", ")
	_, other, _ := strings.Cut(sourcetest.SignWebhook(second, noon, []byte(body)), ", ")
	require.Equal(t, http.StatusOK, post(h, "POST", good+", "+other, body).Code)
	for _, header := range []string{
		good, good + ", " + other, stamp + ", " + other, v1 + "," + stamp, stamp + ", v1=" + strings.ToUpper(v1[3:]),
		stamp + ", v1=" + strings.Repeat("00", 32) + ", " + v1, stamp + ", v0=x, " + v1,
	} {
		now = now.Add(time.Second)
		require.Equal(t, http.StatusOK, post(h, "POST", header, body).Code, "WorkOS need not send it again")
		require.Equal(t, Repeated, results[len(results)-1], header)
	}
	require.Equal(t, []int{1, 1}, []int{woken, named})

	// The same body with another time was signed again, and another body is another webhook.
	require.Equal(t, http.StatusOK, post(h, "POST", sourcetest.SignWebhook(secret, noon.Add(time.Millisecond), []byte(body)), body).Code)
	require.Equal(t, http.StatusOK, post(h, "POST", sourcetest.SignWebhook(secret, noon, []byte(body+" ")), body+" ").Code)
	require.Equal(t, 3, woken)
}

// TestReplaysAreKnownAsLongAsTheyAreValid: a webhook of the future is valid for longer, and a clock
// may be set back.
func TestReplaysAreKnownAsLongAsTheyAreValid(t *testing.T) {
	t.Parallel()
	now := noon
	woken := 0
	h := NewHandler(secret, 0, func() time.Time { return now }, func() { woken++ })
	send := func(at time.Time) int {
		return post(h, "POST", sourcetest.SignWebhook(secret, at, []byte("{}")), "{}").Code
	}
	future := noon.Add(DefaultTolerance)
	require.Equal(t, http.StatusOK, send(future))
	for now = noon; !now.After(future.Add(DefaultTolerance)); now = now.Add(10 * time.Second) {
		require.Equal(t, http.StatusOK, send(future))
	}
	require.Equal(t, 1, woken)
	require.Equal(t, http.StatusUnauthorized, send(future), "it is not valid any more")
	require.Equal(t, http.StatusUnauthorized, send(now.Add(DefaultTolerance+time.Millisecond)), "nor yet")
	require.Equal(t, http.StatusOK, send(now))
	require.Len(t, h.Replays.known, 1, "what is not valid any more is forgotten")
	require.Equal(t, 2, woken)
	last := now
	now = now.Add(-time.Minute)
	require.Equal(t, http.StatusOK, send(last))
	require.Equal(t, 2, woken, "a clock that is set back")
}

// TestReplaysAreBounded fills the memory. A new webhook is always accepted.
func TestReplaysAreBounded(t *testing.T) {
	t.Parallel()
	var r Replays
	one := func(n int) []mac { return []mac{mac([]byte(fmt.Sprintf("%032d", n)))} }
	for n := range 3 * maxReplays {
		require.True(t, r.add(one(n), noon, noon.Add(time.Minute)))
		require.False(t, r.add(one(n), noon, noon.Add(time.Minute)))
	}
	require.Len(t, r.known, maxReplays)
	require.Len(t, r.queue, maxReplays)
	require.LessOrEqual(t, cap(r.queue), 4*maxReplays)
	require.False(t, r.add(one(3*maxReplays-maxReplays), noon, noon.Add(time.Minute)), "the newest are known")
	require.True(t, r.add(one(0), noon, noon.Add(time.Minute)), "the oldest are accepted once more")
	require.True(t, r.add(one(-1), noon.Add(time.Hour), noon.Add(2*time.Hour)))
	require.Len(t, r.known, 1)
}

// FuzzWebhook sends any header and body to the handler, as they are and rightly signed.
func FuzzWebhook(f *testing.F) {
	f.Add("t=1764000000000, v1="+strings.Repeat("ab", 32), `{"event":"user.created"}`, int64(0))
	f.Fuzz(func(t *testing.T, header, body string, skew int64) {
		woken := 0
		var named []string
		h := NewHandler(secret, 0, func() time.Time { return noon }, func() { woken++ })
		h.OnEvent = func(eventType string) { named = append(named, eventType) }
		require.NotEqual(t, http.StatusOK, post(h, "POST", header, body).Code, "nobody knows the secret")
		require.Zero(t, woken)
		at := noon.Add(time.Duration(skew%int64(10*time.Minute/time.Millisecond)) * time.Millisecond)
		right := sourcetest.SignWebhook(secret, at, []byte(body))
		valid := at.Sub(noon).Abs() <= DefaultTolerance && len(body) <= maxBody
		require.Equal(t, valid, post(h, "POST", right, body).Code == http.StatusOK)
		require.Equal(t, valid, woken == 1)
		require.Equal(t, valid, len(named) == 1)
		post(h, "POST", right, body)
		if len(header) < maxHeader/2 && !strings.Contains(header, "t=") {
			post(h, "POST", header+","+right, body)
		}
		require.LessOrEqual(t, woken, 1, "it wakes once")
		require.NotEqual(t, http.StatusOK, post(h, "POST", right, body+" ").Code, "another body")
	})
}
