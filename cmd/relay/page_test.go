package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/browsertest"
	"workos-relay/source/sourcetest"
)

const pageToken = "hunter22-hunter22-hunter22"

func pageEvent(i int) []byte {
	return fmt.Appendf(nil, `{"object":"event","id":"event_9%025d","event":"user.updated","data":{"id":"<b>user</b>"},"created_at":"2030-01-01T00:00:00Z"}`, i)
}

// TestStatusPageInABrowser lives with the page of a running relay, as an operator does.
func TestStatusPageInABrowser(t *testing.T) {
	t.Parallel()
	tab := browsertest.Open(t)
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 500, Seed: 1}))
	url, js := newNATS(t)
	addr := freeAddress(t)
	config := strings.Replace(natsConfig(api.URL(), url, t.TempDir(), ""), `listen: ""`, fmt.Sprintf("listen: %s, token: %s, show_payloads: true", addr, pageToken), 1)
	config += "dead_letter: {}\n"
	config = strings.Replace(config, "poll_interval: 20ms", "poll_interval: 1h", 1) // what arrives was asked for by hand
	pollNow := func() {
		req, err := http.NewRequest(http.MethodPost, "http://"+addr+"/api/v1/poll", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+pageToken)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
	r := start(t, "run", "--config", writeConfig(t, config))
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 500 }, patient, often, &r.stderr)
	pictures := t.ArtifactDir()

	resp, err := http.Get("http://" + addr + "/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode, "nobody reads it without the token")

	tab.Size(1280, 900, false)
	tab.Prefer("light")
	tab.Go("http://relay:" + pageToken + "@" + addr + "/") // as typed into the browser's own question for a password
	t.Run("is live", func(t *testing.T) {
		tab.Until(`document.querySelector("#connection").innerText == "Live"`)
		tab.Until(`document.querySelector("#lane-0-facts").innerText.includes("500 events")`)
		require.Regexp(t, `nats stream WORKOS, \d+ topics`, tab.Text("#lane-0-facts"))
		browsertest.Eval[bool](tab, `window.sameDocument = true`)
		for i := range 20 {
			require.NoError(t, api.Append(pageEvent(i)))
		}
		pollNow()
		tab.Until(`document.querySelector("#lane-0-facts").innerText.includes("520 events")`)
		tab.Until(`document.querySelector("#events").innerText.includes("event_900000")`)
		require.True(t, browsertest.Eval[bool](tab, `window.sameDocument`), "without being loaded again")
	})
	t.Run("tells of deliveries, dead letters and requests", func(t *testing.T) {
		const facts, requests = `document.querySelector("#lane-0-facts").innerText`, `document.querySelector("#requests").innerText`
		tab.Until(facts + `.includes("p50") && ` + facts + `.includes("p99") && /Dead letters since relay started\s+0/.test(` + facts + `)`)
		tab.Until(`/^Requests to WorkOS [0-9.]+\/s of at most 5,000\/s$/.test(` + requests + `)`)
		require.NoError(t, api.Append(fmt.Appendf(nil, `{"object":"event","id":"event_9%025d","event":"user.updated","data":{"pad":%q},"created_at":"2030-01-01T00:00:00Z"}`, 20, strings.Repeat("x", 2<<20))))
		pollNow()
		tab.Until(`/Dead letters since relay started\s+1/.test(` + facts + `) && ` + facts + `.includes("Newest dead letter")`)
		tab.Until(facts + `.includes("521 events")`)
		api.Fail(1, sourcetest.TooManyRequests(time.Second, sourcetest.RetryAfterSeconds))
		pollNow()
		tab.Until(requests + `.includes("1 answer 429, the last at ")`)
		tab.Until(`!` + requests + `.includes("waits")`)
	})
	t.Run("shows errors with the request", func(t *testing.T) {
		api.Fail(1, sourcetest.Status(http.StatusBadGateway))
		pollNow()
		tab.Until(`document.querySelector("#errors").innerText.includes("502 Bad Gateway")`)
		require.Regexp(t, `request\s+\S+`, tab.Text("#errors"))
	})
	t.Run("is steered with the keyboard alone", func(t *testing.T) {
		const focused, state = `document.activeElement.innerText`, `document.querySelector("#lane-0-state .tag").innerText`
		for range 10 {
			tab.Press(kb.Tab)
			if browsertest.Eval[bool](tab, focused+`.startsWith("Pause")`) {
				break
			}
		}
		require.NotEqual(t, "none", browsertest.Eval[string](tab, `getComputedStyle(document.activeElement).outlineStyle`), "the focus can be seen")
		tab.Press(kb.Enter)
		tab.Until(state + ` == "paused" && ` + focused + `.startsWith("Resume")`)
		tab.Until(`document.querySelector("#result").innerText.includes("Lane nats is paused")`)
		tab.Picture(pictures, "paused")
		tab.Press(" ")
		tab.Until(state + ` == "running" && ` + focused + `.startsWith("Pause")`)
		tab.Press(kb.Tab)
		require.NoError(t, api.Append(pageEvent(21)))
		tab.Press(kb.Enter)
		tab.Until(`document.querySelector("#result").innerText == "Lane nats asks WorkOS now."`)
		tab.Until(`document.querySelector("#lane-0-facts").innerText.includes("522 events")`)
	})
	tab.Until(`document.querySelector(".plot.lag .line").getAttribute("d") != ""`)
	t.Run("fits every screen", func(t *testing.T) {
		for _, screen := range []struct {
			name          string
			width, height int64
		}{{"desktop", 1280, 900}, {"tablet", 768, 1024}, {"phone", 360, 740}} {
			for _, scheme := range []string{"light", "dark"} {
				tab.Size(screen.width, screen.height, screen.name == "phone")
				tab.Prefer(scheme)
				require.LessOrEqual(t, browsertest.Eval[int64](tab, `document.documentElement.scrollWidth`), screen.width, screen.name)
				require.Equal(t, scheme == "dark", browsertest.Eval[int](tab, `+getComputedStyle(document.body).backgroundColor.match(/\d+/)[0]`) < 128)
				tab.Picture(pictures, screen.name+"-"+scheme)
			}
		}
	})
	t.Run("is read without JavaScript", func(t *testing.T) {
		tab.Size(1280, 900, false)
		tab.Scripts(false)
		tab.Go("http://" + addr + "/")
		require.Contains(t, tab.Text("#lane-0-facts"), "522 events")
		require.NotEmpty(t, browsertest.Eval[string](tab, `document.querySelector(".plot.lag .line").getAttribute("d")`))
		require.Equal(t, "10", browsertest.Eval[string](tab, `document.querySelector("noscript meta[http-equiv=refresh]").content`))
		require.Empty(t, tab.Text("#connection"))
		require.True(t, browsertest.Eval[bool](tab, `document.querySelector(".actions").hidden`), "buttons that do nothing are not shown")
		tab.Picture(pictures, "without-javascript")
		tab.Scripts(true)
	})
	require.Empty(t, tab.Complaints())

	tab.Go("http://" + addr + "/")
	tab.Until(`document.querySelector("#connection").innerText == "Live"`)
	require.Equal(t, exitDone, r.stop(t), "a page that is live does not hold up the end")
	tab.Until(`document.querySelector("#connection").innerText != "Live"`)
	tab.Go("about:blank") // if nothing is asked for any more
	tab.Complaints()      // that relay does not answer any more
	require.NotContains(t, r.stderr.String(), pageToken)
}
