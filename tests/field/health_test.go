//go:build unix

package field

import (
	"fmt"
	"net/http"
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
			require.Zero(t, *r.Lane("").LagSeconds)

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
// status of its lane.
func agree(t *testing.T, r *relay, want admin.Health, when string) admin.LaneStatus {
	t.Helper()
	s, ok := r.Status()
	require.True(t, ok)
	require.Len(t, s.Lanes, 1)
	l := s.Lanes[0]
	require.Equal(t, want, s.Health, "%s: %+v", when, l)
	require.Equal(t, want, l.Health, when)
	require.Equal(t, want == admin.Healthy, l.HealthReason == "", "%s: %s", when, l.HealthReason)

	code, out, errs := r.Run(t, "status")
	require.Equal(t, map[admin.Health]int{admin.Healthy: exitDone, admin.Degraded: exitFailed, admin.ActionNeeded: exitDecides}[want], code, "%s: %s%s", when, out, errs)
	require.Regexp(t, `(?m)^`+l.Name+` +`+l.Type+` +`+want.String()+` `, out, when)
	_, out, _ = r.Run(t, "status", "--json")
	require.Contains(t, out, fmt.Sprintf(`"health": %q`, string(want)), when)

	_, body := r.Ready()
	require.Contains(t, body, fmt.Sprintf(`"health": %q`, string(want)), when)

	metrics := regexp.MustCompile(`(?m)^relay_lane_health.*$`).FindAllString(r.Metrics(), -1)
	for _, h := range admin.Healths() {
		value := 0
		if h == want {
			value = 1
		}
		require.Contains(t, metrics, fmt.Sprintf("relay_lane_health{health=%q,lane=%q} %d", string(h), l.Name, value), when)
	}

	icon := map[admin.Health]string{admin.Healthy: "good", admin.Degraded: "warn", admin.ActionNeeded: "bad"}[want]
	var page string // one is made a second
	r.Await(t, func() bool { page = statusPage(t, r); return strings.Contains(page, `href="`+icon+`.`) }, "the icon is %s", icon)
	title := regexp.MustCompile(`<title>([^<]*)</title>`).FindStringSubmatch(page)[1]
	require.Equal(t, want != admin.Healthy, strings.Contains(title, want.String()), "%s: %s", when, title)
	badge := regexp.MustCompile(`id="verdict"[^>]*><span class="pill ([a-z]+)">([^<]*)<`).FindStringSubmatch(page)
	require.Equal(t, icon, badge[1], when)
	require.Contains(t, strings.ToLower(badge[2]), want.String(), when)
	require.Contains(t, page, `>`+want.String()+`</span>`, when)
	return l
}
