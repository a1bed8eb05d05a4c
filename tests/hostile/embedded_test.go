//go:build linux

package hostile

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

const embeddedSecret = "c0ffee-and-no-milk-in-the-morning"

// embeddedConfig is a configuration with an embedded NATS server.
func embeddedConfig(api, listen, more string) string {
	return fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms}\nsinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q%s}}]\n",
		api, apiKey, listen, more)
}

// port returns the port of a free address, with a colon before it.
func port(t *testing.T) string {
	t.Helper()
	return strings.TrimPrefix(testaddr.Free(t), "127.0.0.1")
}

// stored connects to an embedded server and returns how many messages the events' subjects of its
// stream hold.
func stored(url string, opts ...nats.Option) (messages uint64, err error) {
	nc, err := nats.Connect(url, append(opts, nats.Timeout(patient))...)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	if err != nil {
		return 0, err
	}
	for subject, n := range subjects(js) {
		if !strings.HasPrefix(subject, "relay.position") {
			messages += n
		}
	}
	return messages, nil
}

// requireStored waits until the embedded server holds that many messages. A client that is slow may
// find the connection closed before it has said who it is.
func requireStored(t *testing.T, url string, want uint64, opts ...nats.Option) {
	t.Helper()
	var have uint64
	var err error
	require.Eventually(t, func() bool {
		have, err = stored(url, opts...)
		return err == nil && have == want
	}, patient, often, "%d messages are not stored", want)
}

// requireRefused requires that an embedded server lets nobody in with these credentials, and says
// why. A client that is slow may find the connection closed before it reads the reason.
func requireRefused(t *testing.T, url string, wrong nats.Option) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		_, err := stored(url, wrong)
		require.Error(t, err)
		return errors.Is(err, nats.ErrAuthorization)
	}, "it does not say that the credentials are wrong")
}

// TestAnEmbeddedServerThatOthersReachAsksWhoTheyAre refuses every form of an address that is not
// loopback, unless there are credentials.
func TestAnEmbeddedServerThatOthersReachAsksWhoTheyAre(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	for _, host := range []string{"0.0.0.0", "", "[::]", "[::ffff:0.0.0.0]", "192.0.2.1", "relay.example", "127.0.0.1.example", "[::ffff:192.0.2.1]", "[::1%eth0]", "2130706433"} {
		for _, more := range []string{"", `, token: ""`, `, user: relay`, ", password: " + embeddedSecret, ", token: short"} {
			if host != "0.0.0.0" && more != "" {
				continue
			}
			r := testkit.NewRelay(t, relayBinary, "refused", embeddedConfig(api.URL(), host+port(t), more))
			for _, command := range []string{"run", "check", "status"} {
				code, out, errs := r.Run(t, command)
				require.Equal(t, 2, code, "%s %s %s: %s%s", host, more, command, out, errs)
				require.Contains(t, errs, "embedded.")
				require.NotContains(t, out+errs, embeddedSecret)
			}
		}
	}
	for _, host := range []string{"127.0.0.1", "127.3.2.1", "localhost", "LocalHost", "[::ffff:127.0.0.1]"} {
		r := testkit.NewRelay(t, relayBinary, "open", embeddedConfig(api.URL(), host+port(t), ""))
		r.Start(t)
		r.AwaitState(t, "nats", pipeline.Running)
		require.Zero(t, r.Stop(t))
	}
}

// TestTheEmbeddedServerAsksForCredentials uses each kind of them, on loopback and elsewhere:
// without them nothing is to be had, relay and its commands have them, and they are in no output.
func TestTheEmbeddedServerAsksForCredentials(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		host, keys string
		file       bool
		right      nats.Option
	}{
		"token":               {"0.0.0.0", "token: " + embeddedSecret, false, nats.Token(embeddedSecret)},
		"user":                {"", "user: reader, password: " + embeddedSecret, false, nats.UserInfo("reader", embeddedSecret)},
		"token of a file":     {"[::]", "token_file: %q", true, nats.Token(embeddedSecret)},
		"password of a file":  {"0.0.0.0", "user: reader, password_file: %q", true, nats.UserInfo("reader", embeddedSecret)},
		"token, for this one": {"127.0.0.1", "token: " + embeddedSecret, false, nats.Token(embeddedSecret)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 50, Seed: 1}))
			keys := c.keys
			file := filepath.Join(t.TempDir(), "secret")
			if c.file {
				require.NoError(t, os.WriteFile(file, []byte(embeddedSecret+"\n"), 0o600))
				keys = fmt.Sprintf(keys, file)
			}
			at := port(t)
			url := "nats://127.0.0.1" + at
			r := testkit.NewRelay(t, relayBinary, "relay", embeddedConfig(api.URL(), c.host+at, ", "+keys))
			r.Start(t)
			r.AwaitState(t, "nats", pipeline.Running)
			r.Await(t, func() bool { return r.Lane("nats").AtTip }, "everything is published")
			requireStored(t, url, 50, c.right)
			for _, wrong := range []nats.Option{
				nats.Name("nobody"), nats.Token("wrong"), nats.UserInfo("reader", "wrong"), nats.UserInfo("", embeddedSecret), nats.UserInfo(embeddedSecret, ""),
				nats.UserInfo("other", embeddedSecret), nats.UserInfo("reader", ""), nats.Token(""), nats.UserInfo("reader"+embeddedSecret, ""),
			} {
				requireRefused(t, url, wrong)
			}
			said := ""
			for _, args := range [][]string{{"check", "--timeout", "2m"}, {"status"}, {"checkpoint", "show"}, {"verify", "--since", "earliest", "--until", "latest"}} {
				code, out, errs := r.Run(t, args...)
				require.Zero(t, code, "%s: %s%s", args, out, errs)
				said += out + errs
			}
			if c.file {
				const next = "another-secret-of-the-same-length"
				var old *nats.Conn
				r.Await(t, func() (done bool) { // as in requireStored
					var err error
					old, err = nats.Connect(url, c.right, nats.NoReconnect(), nats.Timeout(patient))
					return err == nil
				}, "a client is let in")
				defer old.Close()
				require.NoError(t, os.WriteFile(file, []byte(next), 0o600))
				require.Eventually(t, old.IsClosed, patient, often, "clients with the previous credentials are disconnected")
				requireRefused(t, url, c.right)
				right := nats.Token(next)
				if strings.Contains(c.keys, "user") {
					right = nats.UserInfo("reader", next)
				}
				require.NoError(t, api.Append([]byte(newEvent(900, "user.created", 0).raw)))
				requireStored(t, url, 51, right) // relay goes on with the new credentials
				require.NotContains(t, r.Output(), next)
			}
			require.Zero(t, r.Stop(t))
			require.NotContains(t, said+r.Output(), embeddedSecret)
		})
	}
}

// TestConnectionsToTheEmbeddedServerCostLittle opens many connections to the embedded server: idle
// ones, some that wait in the middle of their credentials, with wrong ones, and, if the server asks
// for none, with most of a large message. Memory and descriptors stay within bounds, events go on
// to the stream, probes are answered, and relay's own connection comes back if it breaks.
func TestConnectionsToTheEmbeddedServerCostLittle(t *testing.T) {
	t.Parallel()
	const connections = 800
	connect := `CONNECT {"verbose":false,"lang":"go","version":"1"}` + "\r\n"
	message := connect + "PUB flood.of.messages 1048576\r\n" + strings.Repeat("x", 1<<20-1000)
	for name, c := range map[string]struct{ text, keys string }{
		"idle":                     {"", ""},
		"idle, with a token":       {"", ", token: " + embeddedSecret},
		"half a CONNECT":           {connect[:20], ", token: " + embeddedSecret},
		"an endless CONNECT":       {`CONNECT {"name":"` + strings.Repeat("x", 1<<20), ", token: " + embeddedSecret},
		"a wrong token":            {`CONNECT {"auth_token":"wrong"}` + "\r\nPING\r\n", ", token: " + embeddedSecret},
		"a message before a token": {message, ", token: " + embeddedSecret},
		"large messages":           {message, ""},
		"many subscriptions":       {connect + subscriptions(20_000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			at := testaddr.Free(t)
			r := testkit.NewRelay(t, relayBinary, "relay", embeddedConfig(api.URL(), at, c.keys))
			r.Start(t)
			r.AwaitState(t, "nats", pipeline.Running)
			r.Await(t, func() bool { return r.Lane("nats").AtTip }, "the lane works")
			before := peakMemory(t, r.Pid())
			for round := range 2 {
				flood(t, at, connections/2, c.text)
				require.NoError(t, api.Append([]byte(newEvent(round, "user.created", 0).raw)))
				r.Await(t, func() bool { return r.Lane("nats").Events == uint64(round)+1 }, "events go on")
				require.Less(t, descriptors(t, r.Pid()), 250)
			}
			r.Await(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, "relay is ready")
			require.Less(t, peakMemory(t, r.Pid())-before, 128<<20)
			require.Less(t, len(r.Output()), 64<<10, "the log stays short")
			require.Zero(t, r.Stop(t))
		})
	}
}

func subscriptions(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "SUB flood.%d %d\r\n", i, i)
	}
	return b.String()
}
