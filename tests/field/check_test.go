//go:build unix

package field

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// directory returns what the data directory of r holds: names, sizes, times and contents.
func directory(t testing.TB, r *relay) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(r.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s %d %s", path, info.Mode(), info.Size(), info.ModTime())
		if !d.IsDir() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(content))
		}
		all = append(all, line)
		return nil
	})
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return strings.Join(all, "\n")
}

// streams returns what a NATS server holds.
func streams(t testing.TB, js jetstream.JetStream) string {
	t.Helper()
	var all []string
	list := js.ListStreams(context.Background())
	for info := range list.Info() {
		all = append(all, fmt.Sprintf("%s %v %d %d", info.Config.Name, info.Config.Subjects, info.State.Msgs, info.State.LastSeq))
	}
	require.NoError(t, list.Err())
	return strings.Join(all, "\n")
}

// checkSays requires that `relay check` fails, says a text, and changes nothing. asks: it asks an
// operator where to go on. If js is nil, something else makes changes meanwhile.
func checkSays(t testing.TB, r *relay, js jetstream.JetStream, says string, asks bool) {
	t.Helper()
	var files, held string
	if js != nil {
		files, held = directory(t, r), streams(t, js)
	}
	code, out, errs := r.Run(t, "check")
	if asks {
		require.Equal(t, exitDecides, code, out+errs)
	} else {
		require.Equal(t, exitFailed, code, out+errs)
	}
	require.Contains(t, out+errs, says)
	if js == nil {
		return
	}
	require.Equal(t, files, directory(t, r), "no file is made or changed")
	require.Equal(t, held, streams(t, js), "no stream is made or changed")
}

// TestCheckFindsWhatEndsRun shows each fault of the machine, the API and the bus with which a start
// fails or goes on trying: `relay check` says the same text before, and changes nothing. The faults
// of TestRelayExitsWith3IfOnlyAnOperatorCanHelp are others.
func TestCheckFindsWhatEndsRun(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	busy := taken.Addr().String() // takes connections and never says anything
	type world struct {
		api *sourcetest.Server
		bus *natsServer
		js  jetstream.JetStream
	}
	embedded := func(w *world, more string) string {
		return sourceConfig(w.api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q%s}}]\n", testaddr.Free(t), more)
	}
	for name, c := range map[string]struct {
		config func(w *world) string
		before func(t *testing.T, w *world, r *relay)
		says   string
		check  string // what check says if run says nothing for a while
		asks   bool   // check exits with 3
		goesOn bool   // run does not end
	}{
		"the admin address is taken": {
			config: func(w *world) string {
				return natsConfig(w.api.URL(), w.bus.URL) + fmt.Sprintf("admin: {listen: %q}\n", busy)
			},
			says: "admin.listen: cannot listen on",
		},
		"the admin address is not of this machine": {
			config: func(w *world) string {
				return natsConfig(w.api.URL(), w.bus.URL) + "admin: {listen: \"192.0.2.1:8080\", token: 0123456789abcdef0123456789abcdef}\n"
			},
			says: "it must be an address of this machine",
		},
		"the webhook address is taken": {
			config: func(w *world) string {
				return strings.Replace(natsConfig(w.api.URL(), w.bus.URL), "api_key:", fmt.Sprintf("webhook: {listen: %q, secret: whsec_1}, api_key:", busy), 1)
			},
			says: "source.webhook.listen: cannot listen on",
		},
		"webhooks and admin have the same address": {
			config: func(w *world) string {
				_, port, _ := net.SplitHostPort(testaddr.Free(t))
				return strings.Replace(natsConfig(w.api.URL(), w.bus.URL), "api_key:", fmt.Sprintf("webhook: {listen: \"localhost:%s\", secret: whsec_1}, api_key:", port), 1) +
					fmt.Sprintf("admin: {listen: \"127.0.0.1:%s\"}\n", port)
			},
			says: "source.webhook.listen: cannot listen on",
		},
		"the directory of the embedded server is a file": {
			config: func(w *world) string { return embedded(w, ", dir: /dev/null/streams") },
			says:   "correct embedded.dir, or its permissions",
		},
		"the store of the embedded server is gone": {
			config: func(w *world) string { return embedded(w, "") },
			before: func(t *testing.T, _ *world, r *relay) {
				runOnce(t, r)
				require.NoError(t, os.RemoveAll(filepath.Join(r.Dir, "jetstream")))
			},
			says:   "stream WORKOS was deleted, or its server lost its store",
			asks:   true,
			goesOn: true,
		},
		"the mode of an embedded server would change": {
			config: func(w *world) string { return embedded(w, "") },
			before: func(t *testing.T, _ *world, r *relay) {
				runOnce(t, r)
				text, err := os.ReadFile(r.Config)
				require.NoError(t, err)
				r.WriteConfig(t, string(text)+"delivery: at_least_once\n")
			},
			says:   "lane nats ran as exactly_once and is to run as at_least_once: take its position along; the command is `relay checkpoint set --lane nats --from bus`",
			asks:   true,
			goesOn: true,
		},
		"the position is gone and messages are there": {
			before: func(t *testing.T, w *world, r *relay) {
				runOnce(t, r)
				require.NoError(t, os.RemoveAll(r.Dir))
				s, err := w.js.Stream(t.Context(), stream)
				require.NoError(t, err)
				require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("relay.position.>")))
			},
			says: "already holds messages on the topics of lane nats, so this is not a first start",
			asks: true,
		},
		"a certificate for the admin server is missing": {
			config: func(w *world) string {
				return natsConfig(w.api.URL(), w.bus.URL) + fmt.Sprintf("admin: {listen: %q, tls: {cert_file: /nonexistent/c.pem, key_file: /nonexistent/k.pem}}\n", testaddr.Free(t))
			},
			says: "/nonexistent/c.pem",
		},
		"a certificate for the collector is missing": {
			config: func(w *world) string {
				return natsConfig(w.api.URL(), w.bus.URL) + "telemetry: {traces: {endpoint: \"https://127.0.0.1:1\", tls: {ca_file: /nonexistent/ca.pem}}}\n"
			},
			says: "/nonexistent/ca.pem",
		},
		"the cursor is lost": {
			before: func(t *testing.T, w *world, r *relay) {
				runOnce(t, r)
				code, out, errs := r.Run(t, "checkpoint", "set", "event_01NOBODYKNOWSTHISONE00000", "--skip", "--unchecked")
				require.Equal(t, exitDone, code, out+errs)
			},
			says: "cursor lost: the Events API no longer goes on after event_01NOBODYKNOWSTHISONE00000",
			asks: true,
		},
		"the API refuses the key": {
			config: func(w *world) string {
				return strings.Replace(natsConfig(w.api.URL(), w.bus.URL), apiKey, "sk_other", 1)
			},
			says:   "401",
			goesOn: true,
		},
		"a stream with more replicas than servers": {
			config: func(w *world) string { return natsCreate(w.api.URL(), w.bus.URL, ", create: {replicas: 3}") },
			says:   "set create.replicas: 1, or use a NATS cluster",
		},
		"the bus hangs": {
			config: func(w *world) string { return natsConfig(w.api.URL(), "nats://"+busy) },
			says:   "what answers at nats://" + busy,
			goesOn: true,
		},
		"the API hangs": {
			before: func(_ *testing.T, w *world, _ *relay) { w.api.Fail(-1, sourcetest.Hang()) },
			check:  "did not answer within 15s (--timeout)",
			goesOn: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{api: newAPI(t, backlog(20)), bus: newNATS(t, nil)}
			w.js = w.bus.connect(t)
			text := natsConfig(w.api.URL(), w.bus.URL)
			if c.config != nil {
				text = c.config(w)
			}
			r := newRelay(t, "relay", text)
			if c.before != nil {
				c.before(t, w, r)
			}
			checkSays(t, r, w.js, c.says+c.check, c.asks)
			if c.check != "" {
				return
			}
			r.Start(t)
			if c.goesOn {
				r.Says(t, c.says)
				return
			}
			require.NotEqual(t, exitDone, r.Wait(t))
			require.Contains(t, r.Output(), c.says)
		})
	}
}

// TestCheckFindsMissingPermissionsOnNATS: what a user may not do is found without doing it.
func TestCheckFindsMissingPermissionsOnNATS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		publish *server.SubjectPermission
		says    []string // check says each; run says the first
	}{
		"may not create the stream": {
			&server.SubjectPermission{Deny: []string{"$JS.API.STREAM.CREATE.>"}},
			[]string{"creating stream WORKOS: the NATS user lacks a permission for the JetStream API"},
		},
		"may not create the stream, nor ask what it may": {
			&server.SubjectPermission{Allow: []string{"$JS.API.STREAM.INFO.>", "$JS.API.STREAM.MSG.GET.>", "$JS.API.STREAM.NAMES"}},
			[]string{"creating stream WORKOS: the NATS user lacks a permission for the JetStream API"},
		},
		"may not publish events": {
			&server.SubjectPermission{Deny: []string{"user.>"}},
			[]string{"the NATS user may not publish to ", "user.created, user.deleted, user.updated: the NATS user may not publish to <topic>: allow it for this user on the server"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, backlog(20))
			bus := newNATS(t, func(o *server.Options) {
				o.Users = []*server.User{
					{Username: "root", Password: "root"},
					{Username: "relay", Password: "relay", Permissions: &server.Permissions{Publish: c.publish}},
				}
			})
			js := bus.connect(t, nats.UserInfo("root", "root"))
			r := newRelay(t, "relay", managedConfig(api.URL(), bus.URL, ""))
			for _, says := range c.says {
				checkSays(t, r, js, says, false)
			}
			appendEvents(t, api, "user.created", 1, 0)
			r.Start(t)
			r.Says(t, c.says[0])
		})
	}
}

// TestCheckIsBoundByItsTimeout: if the API and each bus hang, check names them and ends in time.
func TestCheckIsBoundByItsTimeout(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t, backlog(20)), newNATS(t, nil)
	slowAPI := testkit.NewLink(t, "127.0.0.1:0", api.URL()[len("http://"):])
	slowBus := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
	slowAPI.Set(testkit.Weather{Silent: true})
	slowBus.Set(testkit.Weather{Silent: true})
	text := sourceConfig("http://"+slowAPI.Address) + fmt.Sprintf(
		"sinks: [{name: nats, type: nats, url: \"nats://%s\"}, {name: kafka, type: kafka, brokers: [%q]}]\n", slowBus.Address, slowAPI.Address)
	r := newRelay(t, "relay", text)
	begin := time.Now()
	code, out, errs := r.Run(t, "check", "--timeout", "4s")
	took := time.Since(begin)
	require.Equal(t, exitFailed, code, out+errs)
	require.Less(t, took, 60*time.Second, "the machine may be slow; without a bound it takes minutes")
	for _, says := range []string{
		"the Events API at http://" + slowAPI.Address + " did not answer within 4s (--timeout)",
		"nats at " + slowBus.Address + " did not answer within 4s (--timeout)",
		"kafka at " + slowAPI.Address + " did not answer within 4s (--timeout)",
	} {
		require.Contains(t, out, says)
	}
}

// TestCheckBesideARunningRelay: a running relay with the same configuration is a fact, check does
// not disturb it, and another relay with the same directory is a fault.
func TestCheckBesideARunningRelay(t *testing.T) {
	t.Parallel()
	for name, sinks := range map[string]func(bus *natsServer) string{
		"outside": func(bus *natsServer) string { return fmt.Sprintf("{name: nats, type: nats, url: %q}", bus.URL) },
		"embedded": func(*natsServer) string {
			return fmt.Sprintf("{name: nats, type: nats, url: embedded, embedded: {listen: %q}}", testaddr.Free(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api, bus := newAPI(t, backlog(20)), newNATS(t, nil)
			source := strings.Replace(sourceConfig(api.URL()), "api_key:", fmt.Sprintf("webhook: {listen: %q, secret: whsec_1}, api_key:", testaddr.Free(t)), 1)
			r := newRelay(t, "relay", source+"sinks: ["+sinks(bus)+"]\n")
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "first start: begins with event_")
			require.Contains(t, out, "of events (source.start: earliest)")
			require.NoDirExists(t, r.Dir)

			r.Start(t)
			r.Await(t, func() bool { return r.Lane("").AtTip }, "the backlog is carried")
			code, out, errs = r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "a relay is running with this configuration: "+r.Admin)
			require.Contains(t, out, "goes on after event_")
			require.Contains(t, out, ", which is the newest event")
			r.AwaitState(t, "", pipeline.Running)

			// check waits for a relay that does not answer for a moment.
			r.Pause()
			ended, late := inBackground(t, r, "check", "--timeout", "2m")
			time.Sleep(5 * time.Second)
			r.Resume()
			<-ended
			require.Equal(t, exitDone, *late)

			other := r.twin(t, "other")
			text, err := os.ReadFile(other.Config)
			require.NoError(t, err)
			other.WriteConfig(t, strings.Replace(string(text), other.Dir, r.Dir, 1))
			code, out, errs = other.Check(t)
			require.Equal(t, exitFailed, code, out+errs)
			require.Contains(t, out, "stop it or give one another checkpoint.dir")
			require.NotContains(t, out, "a relay is running with this configuration")

			require.Equal(t, exitDone, r.Stop(t))
			appendEvents(t, api, "user.created", 5, 0)
			code, out, errs = r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Contains(t, out, "goes on after event_")
			require.Regexp(t, ` with event_\S+ .*, about \d+ \w+ behind`, out)
		})
	}
}

// TestCheckFindsWhatKafkaRefuses: a cluster is asked whether it would create the topics, and
// creates none.
func TestCheckFindsWhatKafkaRefuses(t *testing.T) {
	t.Parallel()
	clusters := map[string]func(testing.TB) *kafka{
		"kfake": func(t testing.TB) *kafka { return newKfake(t, kfake.NumBrokers(1)) },
		"kafka": realKafka,
		"a kafka that creates topics if asked whether it would": func(t testing.TB) *kafka {
			old := kversion.V3_9_0()
			old.SetMaxKeyVersion(int16(kmsg.CreateTopics), 0)
			return newKfake(t, kfake.NumBrokers(1), kfake.MaxVersions(old))
		},
	}
	for name, start := range clusters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, backlog(20))
			bus := start(t)
			topics := func() []string {
				all, err := bus.topics(t.Context())
				require.NoError(t, err)
				return all
			}
			before := topics()
			for create, says := range map[string]string{
				"{partitions: 3, replication_factor: 2}":                                   "replication_factor",
				"{partitions: 3, replication_factor: 1, config: {retention.ms: soon}}":     "retention.ms",
				"{partitions: 3, replication_factor: 1, config: {\"no.such.setting\": a}}": "no.such.setting",
			} {
				if name != "kafka" && strings.Contains(create, "config") {
					continue // it takes every setting
				}
				r := newRelay(t, "wrong", bus.config(api.URL(), ", create: "+create))
				code, out, errs := r.Check(t)
				require.Equal(t, exitFailed, code, out+errs)
				require.Contains(t, out, says)
				require.Equal(t, before, topics(), "check creates nothing")
				r.Start(t)
				require.Equal(t, exitDecides, r.Wait(t))
				require.Contains(t, r.Output(), says)
			}
			r := newRelay(t, "right", bus.config(api.URL(), ", create: {partitions: 3, replication_factor: 1}"))
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			require.Regexp(t, `creates  \d+ topics: 3 partitions, replication 1`, out)
			require.Equal(t, before, topics(), "check creates nothing")
		})
	}
}
