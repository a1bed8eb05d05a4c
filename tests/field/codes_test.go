//go:build unix

package field

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
)

// TestAFailureHasItsCodeEverywhere: while something fails, the log, `relay status` as text and as
// JSON, /readyz and the page show the same code, and `relay help troubleshoot` finds its heading by
// the code, and first by the line of the log without it.
func TestAFailureHasItsCodeEverywhere(t *testing.T) {
	t.Parallel()
	nowhere := func(t *testing.T) string { return testaddr.Free(t) }
	for name, test := range map[string]struct {
		code   string
		format string // of the log
		config func(t *testing.T) string
	}{
		"the key is refused": {"R1104", "json", func(t *testing.T) string {
			api := newAPI(t)
			api.FailRandomly(1, 1, sourcetest.Status(http.StatusUnauthorized))
			return natsConfig(api.URL(), newNATS(t, nil).URL)
		}},
		"the API is away": {"R1101", "console", func(t *testing.T) string { return natsConfig("http://"+nowhere(t), newNATS(t, nil).URL) }},
		"no NATS server":  {"R1401", "json", func(t *testing.T) string { return natsConfig(newAPI(t).URL(), "nats://"+nowhere(t)) }},
		"no broker": {"R1501", "console", func(t *testing.T) string {
			return sourceConfig(newAPI(t).URL()) + fmt.Sprintf("sinks: [{name: kafka, type: kafka, brokers: [%q]}]\n", nowhere(t))
		}},
		"wrong credentials": {"R1405", "json", func(t *testing.T) string {
			return natsConfig(newAPI(t).URL(), newNATS(t, func(o *server.Options) { o.Username, o.Password = "relay", "another" }).URL)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRelay(t, "relay", test.config(t), "RELAY_LOG_FORMAT="+test.format)
			r.Start(t)
			r.Await(t, func() bool { l := r.Lane(""); return l.Code == test.code && l.HealthReason != "" }, "it has the code")

			_, out, errs := r.Run(t, "status")
			require.Contains(t, out, "["+test.code+"]", "%s", errs)
			_, out, _ = r.Run(t, "status", "--json")
			require.Contains(t, out, `"code": "`+test.code+`"`)
			_, body := r.Ready()
			require.Contains(t, body, `"code": "`+test.code+`"`)
			r.Await(t, func() bool { return strings.Contains(statusPage(t, r), "["+test.code+"]") }, "the page shows it")
			shown := map[string]string{"console": "[" + test.code + "]", "json": `"code":"` + test.code + `"`}[test.format]
			r.Says(t, shown)
			finds(t, r, test.code, lineWith(t, r.Output(), shown))
		})
	}
}

// TestAnEndHasItsCode: a relay or a command that ends says the code, as text and in JSON.
func TestAnEndHasItsCode(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		codes string // of those that are right
		exit  int
		begin func(t *testing.T, env string) *relay
		args  []string // of the command that ends; default: run
	}{
		"a mistake in the configuration": {"R1001", exitUsage, func(t *testing.T, env string) *relay {
			return newRelay(t, "relay", sourceConfig("http://127.0.0.1:1")+"sinks: [{name: nats, typ: nats}]\n", env)
		}, nil},
		"a port in use": {"R1703", exitUsage, func(t *testing.T, env string) *relay {
			var listening net.ListenConfig
			ln, err := listening.Listen(context.Background(), "tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = ln.Close() })
			return newRelay(t, "relay", natsConfig(newAPI(t).URL(), newNATS(t, nil).URL)+fmt.Sprintf("admin: {listen: %q}\n", ln.Addr()), env)
		}, nil},
		"a lost checkpoint": {"R1201", exitDecides, func(t *testing.T, env string) *relay {
			r := newRelay(t, "relay", natsConfig(newAPI(t, backlog(20)).URL(), newNATS(t, nil).URL)+"delivery: at_least_once\n", env)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("").AtTip }, "it has caught up")
			require.Equal(t, exitDone, r.Stop(t))
			require.NoError(t, os.RemoveAll(r.Dir))
			return r
		}, nil},
		"a deleted stream": {"R1202", exitDecides, func(t *testing.T, env string) *relay {
			bus := newNATS(t, nil)
			r := newRelay(t, "relay", natsConfig(newAPI(t, backlog(20)).URL(), bus.URL), env)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("").AtTip }, "it has caught up")
			require.Equal(t, exitDone, r.Stop(t))
			require.NoError(t, bus.connect(t).DeleteStream(context.Background(), stream))
			return r
		}, nil},
		"an event too large": {"R1301", exitDecides, func(t *testing.T, env string) *relay {
			api := newAPI(t)
			appendEvents(t, api, "user.created", 1, 9_000_000)
			return newRelay(t, "relay", natsConfig(api.URL(), newNATS(t, nil).URL), env)
		}, nil},
		"an unknown flag": {"R1015", exitUsage, func(t *testing.T, env string) *relay {
			return newRelay(t, "relay", sourceConfig("http://127.0.0.1:1"), env)
		}, []string{"status", "--fast"}},
		"no relay to ask": {"R1601", exitFailed, func(t *testing.T, env string) *relay {
			return newRelay(t, "relay", natsConfig("http://127.0.0.1:1", "nats://127.0.0.1:1"), env)
		}, []string{"pause"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := test.begin(t, "RELAY_LOG_FORMAT=console")
			args := test.args
			if args == nil {
				args = []string{"run"}
			}
			code, _, errs := r.Run(t, args...)
			require.Equal(t, test.exit, code, errs)
			require.Contains(t, errs, "["+test.codes+"]")
			finds(t, r, test.codes, lineWith(t, errs, "["+test.codes+"]"))

			code, _, errs = r.Run(t, append([]string{"--log-format", "json"}, args...)...)
			require.Equal(t, test.exit, code, errs)
			require.Contains(t, errs, `"code":"`+test.codes+`"`)
			finds(t, r, test.codes, lineWith(t, errs, `"code":"`+test.codes+`"`))
		})
	}
}

// finds requires that `relay help troubleshoot` prints the heading of a code for the code, and for
// a line that relay wrote, without its code.
func finds(t *testing.T, r *relay, code, line string) {
	t.Helper()
	line = regexp.MustCompile(` ?\[R\d{4}\]|,"code":"R\d{4}"`).ReplaceAllString(line, "")
	require.NotContains(t, line, code)
	for _, asked := range []string{code, line} {
		exit, out, errs := r.Run(t, "help", "troubleshoot", asked)
		require.Equal(t, exitDone, exit, "%s: %s", asked, errs)
		require.True(t, strings.HasPrefix(out, code+" "), "%s: %s", asked, out)
	}
}

// lineWith returns the last line of text that has a part.
func lineWith(t *testing.T, text, part string) string {
	t.Helper()
	lines := strings.Split(text, "\n")
	for i := range lines {
		if line := lines[len(lines)-1-i]; strings.Contains(line, part) {
			return line
		}
	}
	require.Fail(t, "no line has "+part, text)
	return ""
}
