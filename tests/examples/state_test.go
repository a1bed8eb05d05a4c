//go:build unix

package examples

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

const (
	entity    = "directory_user"
	directory = "directory"
)

// TestStateIsFollowed lets relay keep the users of a directory that changes, and compares what each
// program says it holds with the directory.
func TestStateIsFollowed(t *testing.T) {
	all := programs(t)
	binary, err := testkit.Build(t.TempDir())
	require.NoError(t, err)
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			AuthTimeout: patient.Seconds()})
		require.NoError(t, err)
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		require.True(t, srv.ReadyForConnections(patient))
		testStateIsFollowed(t, binary, all, "nats", fmt.Sprintf("type: nats, url: %q", srv.ClientURL()), "NATS_URL="+srv.ClientURL())
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		brokers := os.Getenv("RELAY_TEST_KAFKA")
		if brokers == "" {
			t.Skip("needs a real Kafka: set RELAY_TEST_KAFKA to the address that .ci/kafka/start prints")
		}
		prefix := fmt.Sprintf("example-state-%d.", time.Now().UnixNano())
		testStateIsFollowed(t, binary, all, "kafka", fmt.Sprintf("type: kafka, brokers: [%s], topic_prefix: %s", brokers, prefix), "KAFKA_BROKERS="+brokers, "PREFIX="+prefix)
	})
}

func testStateIsFollowed(t *testing.T, binary string, all map[string]program, bus, sink string, env ...string) {
	api := sourcetest.New(sourcetest.WithAPIKey("sk_test"), sourcetest.WithWorld(sourcetest.WorldConfig{Organizations: 1, Directories: 1}))
	require.NoError(t, api.Start(""))
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	world := api.World()
	home := world.Keys(directory)[0]
	change := func() {
		var keys []string
		for range 20 {
			key, err := world.Create(entity, home)
			require.NoError(t, err)
			keys = append(keys, key)
		}
		for _, key := range keys[:10] {
			require.NoError(t, world.Update(entity, key))
		}
		for _, key := range keys[5:8] {
			require.NoError(t, world.Delete(entity, key))
		}
	}
	change()
	r := testkit.NewRelay(t, binary, "relay", fmt.Sprintf("id: examples-%d\nsource: {endpoint: %q, api_key: sk_test, poll_interval: 200ms}\nsinks: [{name: bus, %s, state: {entities: [%s], snapshot: never}}]\n",
		time.Now().UnixNano(), api.URL(), sink, entity))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("bus").AtTip }, "relay has carried the events")
	for language, p := range all {
		if p.state == nil {
			continue
		}
		t.Run(language, func(t *testing.T) {
			f := follow(t, p, bus, env)
			require.Eventually(t, func() bool { return f.holds(world) }, patient, 20*time.Millisecond, "%s", f)
			change()
			require.Eventually(t, func() bool { return f.holds(world) }, patient, 20*time.Millisecond, "%s", f)
			f.end(t)
		})
	}
}

// TestTheWholeStateIsSeen: the Go program says how many objects there are once it has read what
// each partition of the state topic holds: also if one is empty, if all of its records are gone, if
// only marks of transactions are left in it, or if an aborted transaction is last.
func TestTheWholeStateIsSeen(t *testing.T) {
	t.Parallel()
	program := programs(t)["go"]
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.TransactionalID("relay"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	transact := func(prefix string, end kgo.TransactionEndTry, partition int32, records ...kgo.Record) {
		t.Helper()
		require.NoError(t, client.BeginTransaction())
		for _, r := range records {
			r.Topic, r.Partition = prefix+"state."+entity, partition
			require.NoError(t, client.ProduceSync(t.Context(), &r).FirstErr())
		}
		require.NoError(t, client.EndTransaction(t.Context(), end))
	}
	set := func(key string) kgo.Record { return kgo.Record{Key: []byte(key), Value: []byte(`{}`)} }
	removed := func(key string) kgo.Record { return kgo.Record{Key: []byte(key)} }
	for _, prefix := range []string{"none.", "some."} {
		_, err = admin.CreateTopic(t.Context(), 5, 1, map[string]*string{
			"cleanup.policy": kadm.StringPtr("compact"), "delete.retention.ms": kadm.StringPtr("0"), "min.compaction.lag.ms": kadm.StringPtr("0"),
		}, prefix+"state."+entity)
		require.NoError(t, err)
		transact(prefix, kgo.TryCommit, 1, set("a"))
		var gone kadm.Offsets
		gone.AddOffset(prefix+"state."+entity, 1, 2, -1)
		deleted, err := admin.DeleteRecords(t.Context(), gone)
		require.NoError(t, err)
		require.NoError(t, deleted.Error())
		transact(prefix, kgo.TryCommit, 2, set("b"), set("b"), removed("b"))
		cluster.Compact()
		cluster.Compact()
	}
	transact("some.", kgo.TryCommit, 3, set("c"), set("d"))
	for range 3 {
		transact("some.", kgo.TryAbort, 3, set("e"))
	}
	transact("some.", kgo.TryCommit, 4, set("f"), set("g"), removed("g"))
	for prefix, says := range map[string]string{"none.": " 0 objects\n", "some.": " 3 objects\n"} {
		f := follow(t, program, "kafka", []string{"KAFKA_BROKERS=" + brokers, "PREFIX=" + prefix})
		require.Eventually(t, func() bool { return strings.Contains(f.String(), says) }, patient, 20*time.Millisecond, "%s: %s", prefix, f)
		f.end(t)
		require.Equal(t, 1, strings.Count(f.String(), " objects\n"), f.String())
	}
}

// TestAStateTopicThatDoesNotExist: a program that is started before relay says what it misses and
// ends. It does not create the topic, which the cluster would give its own settings.
func TestAStateTopicThatDoesNotExist(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation())
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	for language, p := range programs(t) {
		if p.state == nil {
			continue
		}
		t.Run(language, func(t *testing.T) {
			f := follow(t, p, "kafka", []string{"KAFKA_BROKERS=" + brokers})
			ended := time.AfterFunc(patient, func() { _ = f.cmd.Process.Kill() })
			defer ended.Stop()
			var failed *exec.ExitError
			require.ErrorAs(t, f.cmd.Wait(), &failed, "%s", f)
			require.Equal(t, 1, failed.ExitCode(), "%s", f)
			require.Contains(t, f.String(), "topic state."+entity)
		})
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers))
	require.NoError(t, err)
	defer client.Close()
	topics, err := kadm.NewClient(client).ListTopics(t.Context())
	require.NoError(t, err)
	require.Empty(t, topics.Names())
}

// TestAnEmptyBucketIsCurrent: each program says that nothing is in the bucket, and then follows it.
func TestAnEmptyBucketIsCurrent(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		AuthTimeout: patient.Seconds()})
	require.NoError(t, err)
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	require.True(t, srv.ReadyForConnections(patient))
	nc, err := nats.Connect(srv.ClientURL(), nats.Timeout(patient))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	require.NoError(t, err)
	for language, p := range programs(t) {
		if p.state == nil {
			continue
		}
		t.Run(language, func(t *testing.T) {
			name := language + "_" + entity
			bucket, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "STATE_" + name})
			require.NoError(t, err)
			f := follow(t, p, "nats", []string{"NATS_URL=" + srv.ClientURL(), "ENTITY=" + name})
			says := "current\t0\n"
			if language == "go" {
				says = " 0 objects\n"
			}
			require.Eventually(t, func() bool { return strings.Contains(f.String(), says) }, patient, 20*time.Millisecond, "%s", f)
			_, err = bucket.PutString(t.Context(), "a", "{}")
			require.NoError(t, err)
			require.Eventually(t, func() bool { return strings.Contains(f.String(), "set\ta\t{}\n") }, patient, 20*time.Millisecond, "%s", f)
			f.end(t)
		})
	}
}

// follower is a program that prints what the state topic tells.
type follower struct {
	program
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer // under mu
}

func follow(t *testing.T, p program, bus string, env []string) *follower {
	t.Helper()
	args := p.state(bus)
	f := &follower{program: p, cmd: exec.CommandContext(t.Context(), args[0], args[1:]...)}
	f.cmd.Dir, f.cmd.Env = p.dir, append(append(os.Environ(), "ENTITY="+entity), env...)
	f.cmd.Stdout, f.cmd.Stderr = f, f
	require.NoError(t, f.cmd.Start())
	return f
}

// Write takes what the program prints.
func (f *follower) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Write(b)
}

// String is what the program has printed.
func (f *follower) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.String()
}

// holds reports whether the table that the program has printed is the directory.
func (f *follower) holds(world *sourcetest.World) bool {
	objects := map[string]string{}
	for line := range strings.Lines(f.String()) {
		switch word := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); {
		case word[0] == "set" && len(word) == 3:
			objects[word[1]] = word[2]
		case word[0] == "removed" && len(word) == 2:
			delete(objects, word[1])
		}
	}
	want := world.State()[entity]
	for key, o := range want {
		if objects[key] != string(o.Data) {
			return false
		}
	}
	return len(objects) == len(want)
}

func (f *follower) end(t *testing.T) {
	t.Helper()
	require.NoError(t, f.cmd.Process.Signal(syscall.SIGTERM))
	f.requireStopped(t, f.cmd.Wait())
}
