package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/conf/secret"
)

func client(n byte) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 32) }

// TestGuessesAreSlowedDown lets one client guess as fast as it can, with many requests at once.
func TestGuessesAreSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g guesses
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var mu sync.Mutex
		compared := 0
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if g.enter(ctx, client(1), guessWait) {
						mu.Lock()
						compared++
						mu.Unlock()
					} else {
						time.Sleep(10 * time.Millisecond)
					}
				}
			})
		}
		time.Sleep(30 * time.Second)
		began := time.Now()
		require.True(t, g.enter(ctx, client(2), 0), "another client is not delayed")
		require.Equal(t, began, time.Now())
		wg.Wait()
		require.InDelta(t, guessBurst+60*guessRate, compared, guessRate*guessWait.Seconds()+1)

		time.Sleep(2 * guessWait)
		require.True(t, g.enter(t.Context(), client(1), 0), "it may try again soon")
		require.Zero(t, g.waiters)
	})
}

func TestARightTokenIsNoGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g guesses
		for range 10 * guessBurst {
			began := time.Now()
			require.True(t, g.enter(t.Context(), client(1), 0))
			require.Equal(t, began, time.Now(), "it does not wait")
			g.right(client(1))
		}
	})
}

// TestNoGuessWaitsLongerThanItMay: a request that would have to wait longer is refused at once.
func TestNoGuessWaitsLongerThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g guesses
		for range guessBurst {
			require.True(t, g.enter(t.Context(), client(1), 0))
		}
		began := time.Now()
		require.False(t, g.enter(t.Context(), client(1), 0))
		require.Equal(t, began, time.Now())
		require.True(t, g.enter(t.Context(), client(1), guessWait))
		require.Equal(t, time.Second/guessRate, time.Since(began))
	})
}

func TestGuessersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g guesses
		for i := range 10 * guessClients {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32)
			require.True(t, g.enter(t.Context(), p, 0))
			require.LessOrEqual(t, len(g.clients), guessClients)
		}
	})
}

func TestClientOf(t *testing.T) {
	for address, want := range map[string]string{
		"10.1.2.3:80":            "10.1.2.3/32",
		"[::ffff:10.1.2.3]:80":   "10.1.2.3/32",
		"[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":      "fe80::/64",
		"":                       "invalid Prefix",
		"@":                      "invalid Prefix",
	} {
		require.Equal(t, want, ClientOf(&http.Request{RemoteAddr: address}).String(), address)
	}
}

// TestRefusalsAreCountedAndTold sends wrong tokens until they are not compared any more, and a
// right one afterwards.
func TestRefusalsAreCountedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const token = "0123456789abcdef-the-token"
		core, told := observer.New(zap.InfoLevel)
		counted := map[Reason]int{}
		s := &Server{cfg: Config{Logger: zap.New(core), Now: time.Now, OnRefused: func(r Reason) { counted[r]++ }}}
		s.security.Store(&Security{Token: secret.String(token)})
		h := s.handler()
		get := func(path, with string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			r.RemoteAddr = "10.0.0.7:1234"
			if with != "" {
				r.Header.Set("Authorization", "Bearer "+with)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		require.Equal(t, http.StatusUnauthorized, get("/api/v1/status", "").Code)
		for range guessBurst / 2 {
			require.Equal(t, http.StatusUnauthorized, get("/api/v1/status", "wrong").Code)
			require.Equal(t, http.StatusServiceUnavailable, get("/readyz", "wrong").Code, "a probe is answered")
		}
		require.Equal(t, map[Reason]int{NoCredentials: 1, WrongCredentials: guessBurst}, counted)

		// As many requests at once as may wait, and then one more.
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range int(guessRate * guessWait.Seconds()) {
			wg.Go(func() { s.guesses.enter(ctx, netip.MustParsePrefix("10.0.0.7/32"), guessWait) })
		}
		synctest.Wait()
		refused := get("/api/v1/status", token)
		require.Equal(t, http.StatusTooManyRequests, refused.Code, "the right token is not compared either")
		require.Equal(t, "2", refused.Header().Get("Retry-After"))
		require.Contains(t, refused.Body.String(), "10.0.0.7/32")
		probe := get("/readyz", token)
		require.Equal(t, http.StatusServiceUnavailable, probe.Code)
		require.NotContains(t, probe.Body.String(), "reasons", "nor by a probe")
		cancel()
		wg.Wait()
		require.Equal(t, 2, counted[TooManyGuesses])
		time.Sleep(2 * guessWait)
		require.Equal(t, http.StatusOK, get("/api/v1/status", token).Code)

		require.Len(t, told.FilterField(zap.String("reason", string(WrongCredentials))).All(), 1)
		time.Sleep(refusedEvery)
		get("/api/v1/status", "wrong")
		last := told.FilterField(zap.String("reason", string(WrongCredentials))).All()
		require.Len(t, last, 2)
		require.EqualValues(t, guessBurst, last[1].ContextMap()["requests"], "with those that were not told of")
		for _, line := range told.All() {
			require.NotContains(t, line.ContextMap(), "token")
		}
	})
}
