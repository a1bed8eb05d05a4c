//go:build unix

package field

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// TestHealthIsTheSameEverywhere takes a relay through what can happen to it, and each time holds
// the page, `relay status`, its exit code, /readyz and the metrics against each other.
func TestHealthIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	for _, delivery := range []string{"auto", "at_least_once"} {
		t.Run(delivery, func(t *testing.T) {
			t.Parallel()
			api, bus := newAPI(t, backlog(2000)), newNATS(t, nil)
			r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL)+"delivery: "+delivery+"\n")
			r.Start(t)
			r.Await(t, func() bool { l := r.Lane(""); return l.State == pipeline.Running && l.Position.EventID != "" }, "it runs")
			agree(t, r, admin.Healthy, "behind")
			r.Await(t, func() bool { return r.Lane("").AtTip }, "it has caught up")
			agree(t, r, admin.Healthy, "caught up")
			r.Await(t, func() bool { lag := r.Lane("").LagSeconds; return lag != nil && *lag == 0 }, "it has no lag")

			code, _, errs := r.Run(t, "pause")
			require.Equal(t, exitDone, code, errs)
			r.AwaitState(t, "", pipeline.Paused)
			agree(t, r, admin.Degraded, "paused")
			code, _, errs = r.Run(t, "resume")
			require.Equal(t, exitDone, code, errs)
			r.Await(t, func() bool { return r.Lane("").AtTip }, "it runs again")

			api.FailRandomly(1, 1, sourcetest.Status(http.StatusUnauthorized))
			awaitHealth(t, r, admin.ActionNeeded)
			l := agree(t, r, admin.ActionNeeded, "API 401")
			require.NotEqual(t, pipeline.Running, l.State)
			require.Contains(t, l.HealthReason, "401")
			require.Nil(t, l.LagSeconds, "who cannot ask does not know")
			api.ClearFaults()
			awaitHealth(t, r, admin.Healthy)

			api.FailRandomly(1, 1, sourcetest.Reset())
			awaitHealth(t, r, admin.Degraded)
			l = agree(t, r, admin.Degraded, "API away")
			require.NotEqual(t, pipeline.Running, l.State)
			require.Regexp(t, `for \d+s, \d+ attempts failed: `, l.HealthReason)
			api.ClearFaults()
			awaitHealth(t, r, admin.Healthy)

			bus.Shutdown()
			bus.WaitForShutdown()
			gone := time.Now()
			awaitHealth(t, r, admin.Degraded)
			t.Logf("a bus that is away was noticed after %v", time.Since(gone).Round(time.Second))
			l = agree(t, r, admin.Degraded, "bus away")
			require.NotEqual(t, pipeline.Running, l.State)
			require.Regexp(t, `for \d+s.*: `, l.HealthReason)
			bus.start(t)
			awaitHealth(t, r, admin.Healthy)
			agree(t, r, admin.Healthy, "all is over")
		})
	}
}

// TestASilentBusAtTheTip: a network that swallows everything closes no connection, and a lane at
// the tip has nothing to publish. relay is degraded all the same, on either bus and in either mode,
// and healthy once the network is back.
func TestASilentBusAtTheTip(t *testing.T) {
	t.Parallel()
	for bus, begin := range map[string]func(t *testing.T, api, mode string) (config string, silence func(bool)){
		"nats": func(t *testing.T, api, mode string) (string, func(bool)) {
			link := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(newNATS(t, nil).URL, "nats://"))
			return natsConfig(api, "nats://"+link.Address) + "delivery: " + mode + "\n", func(on bool) { link.Set(testkit.Weather{Silent: on}) }
		},
		"kafka": func(t *testing.T, api, mode string) (string, func(bool)) {
			wire := &kafkaWire{}
			return newKfake(t, wire.option()).config(api, ", delivery: "+mode), wire.silent.Store
		},
	} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			modes(t, func(t *testing.T, mode string) {
				api := newAPI(t)
				appendEvents(t, api, "user.created", 20, 10)
				config, silence := begin(t, api.URL(), mode)
				r := newRelay(t, "relay", config)
				r.Start(t)
				r.Await(t, func() bool { return r.Lane("").AtTip }, "it has caught up")
				agree(t, r, admin.Healthy, "caught up")
				silence(true)
				began := time.Now()
				awaitHealth(t, r, admin.Degraded)
				t.Logf("noticed after %v", time.Since(began).Round(time.Second))
				agree(t, r, admin.Degraded, "silent")
				silence(false)
				awaitHealth(t, r, admin.Healthy)
				require.Equal(t, exitDone, r.Stop(t))
			})
		})
	}
}

func awaitHealth(t *testing.T, r *relay, want admin.Health) {
	t.Helper()
	r.Await(t, func() bool { s, ok := r.Status(); return ok && s.Health == want }, "it is %s", want)
}

// agree requires that every place at which relay tells its health tells this one, and returns the
// status of its lane. What the places tell counts only if the health was the same before and after
// they were asked: a machine that stands still for a moment changes it.
func agree(t *testing.T, r *relay, want admin.Health, when string) admin.LaneStatus {
	t.Helper()
	for began := time.Now(); ; time.Sleep(testkit.Interval(began)) {
		awaitHealth(t, r, want)
		before, _ := r.Status()
		told := healthTold(t, r, want)
		after, _ := r.Status()
		if !sameHealth(before, after, want) {
			require.Less(t, time.Since(began), patient, "%s: it does not stay %s: %+v", when, want, after)
			continue
		}
		requireTold(t, told, before.Lanes[0], want, when)
		return before.Lanes[0]
	}
}

// sameHealth reports whether the only lane was in the same state and health at both times.
func sameHealth(before, after admin.Status, want admin.Health) bool {
	if len(before.Lanes) != 1 || len(after.Lanes) != 1 || before.Health != want || after.Health != want {
		return false
	}
	a, b := before.Lanes[0], after.Lanes[0]
	return a.State == b.State && (a.Since == nil) == (b.Since == nil) && (a.Since == nil || a.Since.Equal(*b.Since))
}

// health is what each place tells of it.
type health struct {
	code                   int // exit code of relay status
	text, json, readyz     string
	metrics                []string
	page, icon, title      string
	badgeColour, badgeText string
}

// icons are those of the page, by what they stand for.
var icons = map[admin.Health]string{admin.Healthy: "good", admin.Degraded: "warn", admin.ActionNeeded: "bad"}

func healthTold(t *testing.T, r *relay, want admin.Health) (h health) {
	t.Helper()
	h.code, h.text, _ = r.Run(t, "status")
	_, h.json, _ = r.Run(t, "status", "--json")
	_, h.readyz = r.Ready()
	h.metrics = regexp.MustCompile(`(?m)^relay_lane_health.*$`).FindAllString(r.Metrics(), -1)
	r.Await(t, func() bool { // a page is made once a second
		h.page = statusPage(t, r)
		h.icon = regexp.MustCompile(`href="(good|warn|bad)\.`).FindStringSubmatch(h.page)[1]
		s, _ := r.Status()
		return h.icon == icons[want] || s.Health != want
	}, "the icon is %s", icons[want])
	h.title = regexp.MustCompile(`<title>([^<]*)</title>`).FindStringSubmatch(h.page)[1]
	badge := regexp.MustCompile(`id="verdict"[^>]*><span class="pill ([a-z]+)">([^<]*)<`).FindStringSubmatch(h.page)
	h.badgeColour, h.badgeText = badge[1], badge[2]
	return h
}

// requireTold requires that each place has told want of the lane l.
func requireTold(t *testing.T, h health, l admin.LaneStatus, want admin.Health, when string) {
	t.Helper()
	require.Equal(t, want, l.Health, when)
	require.Equal(t, want == admin.Healthy, l.HealthReason == "", "%s: %s", when, l.HealthReason)
	require.Equal(t, map[admin.Health]int{admin.Healthy: exitDone, admin.Degraded: exitFailed, admin.ActionNeeded: exitDecides}[want], h.code, "%s: %s", when, h.text)
	require.Regexp(t, `(?m)^`+l.Name+` +`+l.Type+` +`+want.String()+` `, h.text, when)
	require.Contains(t, h.json, fmt.Sprintf(`"health": %q`, string(want)), when)
	require.Contains(t, h.readyz, fmt.Sprintf(`"health": %q`, string(want)), when)
	for _, one := range admin.Healths() {
		value := 0
		if one == want {
			value = 1
		}
		require.Contains(t, h.metrics, fmt.Sprintf("relay_lane_health{health=%q,lane=%q} %d", string(one), l.Name, value), when)
	}
	require.Equal(t, icons[want], h.icon, when)
	require.Equal(t, want != admin.Healthy, strings.Contains(h.title, want.String()), "%s: %s", when, h.title)
	require.Equal(t, icons[want], h.badgeColour, when)
	require.Contains(t, strings.ToLower(h.badgeText), want.String(), when)
	require.Contains(t, h.page, `>`+want.String()+`</span>`, when)
}

// TestALaneThatReadsASnapshotIsHealthy: it asks for no events meanwhile, so that no answer to such
// a request is due.
func TestALaneThatReadsASnapshotIsHealthy(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Organizations: 2, Users: 3})), newNATS(t, nil)
	answer := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "/users") {
			select {
			case <-answer:
			case <-req.Context().Done():
			}
		}
		api.ServeHTTP(w, req)
	}))
	t.Cleanup(slow.Close)
	r := newRelay(t, "relay", strings.Replace(natsConfig(slow.URL, bus.URL), "}]", ", state: {entities: [organization, user], snapshot: first_start}}]", 1))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("").Snapshot != nil }, "the snapshot has begun")
	awaitHealth(t, r, admin.Healthy)
	l := agree(t, r, admin.Healthy, "reads a snapshot")
	require.Nil(t, l.Snapshot.FinishedAt)
	require.Nil(t, l.LastPoll)
	close(answer)
	r.Await(t, func() bool { l := r.Lane(""); return l.AtTip && l.Snapshot != nil && l.Snapshot.FinishedAt != nil }, "it has carried everything")
	awaitHealth(t, r, admin.Healthy)
	require.Equal(t, exitDone, r.Stop(t))
}
