package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// TestAWebhookWakesTheRelay: with an hour between polls, what a signed webhook tells of arrives at
// once. An unsigned one changes nothing, and what the body says is never published.
func TestAWebhookWakesTheRelay(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 50, Seed: 1}))
	url, js := newNATS(t)
	hook := freeAddress(t)
	config := strings.Replace(natsConfig(api.URL(), url, t.TempDir(), ""), "poll_interval: 20ms",
		"poll_interval: 1h, webhook: {listen: \""+hook+"\", secret: whsec_test}", 1)
	r := start(t, "run", "--config", writeConfig(t, config))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 50 }, patient, often, &r.stderr)
	asked := api.Count() // the next poll is an hour away

	require.NoError(t, api.Live(t.Context(), sourcetest.LiveConfig{Rate: 100_000, Seed: 2, Max: 1}))
	body := `{"id":"event_forged","event":"user.deleted","data":{},"created_at":"2026-01-01T00:00:00Z"}`
	call := func(signature string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+hook+"/workos/webhook", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("WorkOS-Signature", signature)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, http.StatusUnauthorized, call(sourcetest.SignWebhook("another secret", time.Now(), []byte(body))))
	require.Equal(t, asked, api.Count(), "an unsigned webhook must not make relay ask")
	require.Equal(t, http.StatusOK, call(sourcetest.SignWebhook("whsec_test", time.Now(), []byte(body))))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 51 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.NotContains(t, r.stderr.String(), "whsec_test")
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))
}

// TestABacklogIsReadInParallelAndInOrder: uneven events over a month, many readers, and what
// arrives is the one order of the source.
//
// P16: on the built binary.
func TestABacklogIsReadInParallelAndInOrder(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Profile: sourcetest.UnevenProfile(30_000, 30*24*time.Hour, 3), Seed: 3}),
		sourcetest.WithLatency(10*time.Millisecond, 5*time.Millisecond))
	url, js := newNATS(t)
	r := start(t, "run", "--config", writeConfig(t, natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), "")))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 30_001 }, 2*patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, requireAllInOrder(t, js, api.IDs(sourcetest.Filter{})))
	parallel := false
	for _, req := range api.Requests() {
		parallel = parallel || req.Query().Get("range_start") != ""
	}
	require.True(t, parallel, "it was read page after page")
}
