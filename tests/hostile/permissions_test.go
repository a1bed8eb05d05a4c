//go:build linux

package hostile

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"workos-relay/checkpoint"
	"workos-relay/internal/testaddr"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// feed adds count events of a type to the API; from counts the events before them.
func feed(t *testing.T, api *sourcetest.Server, from int, eventType string, count int) {
	t.Helper()
	for n := from; n < from+count; n++ {
		require.NoError(t, api.Append([]byte(newEvent(n, eventType, 1000-n).raw)))
	}
}

// documented returns the code of the manual's page that follows a sentence, up to the end of the
// block.
func documented(t *testing.T, page, sentence string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), sentence)
	require.True(t, found, "%s no longer says %q", page, sentence)
	_, rest, found = strings.Cut(rest, "```")
	require.True(t, found)
	code, _, _ := strings.Cut(rest, "\n```")
	return code
}

// TestThePermissionsOfTheManualAreEnoughOnNATS gives a user what docs/nats.md lists and nothing
// else. relay makes its stream, publishes and continues after a restart; its user can neither write
// the position of another relay nor read what the server answers to others.
func TestThePermissionsOfTheManualAreEnoughOnNATS(t *testing.T) {
	t.Parallel()
	publish, subscribe, found := strings.Cut(documented(t, "nats.md", "`workos` and the sink `nats`:"), "subscribe:")
	require.True(t, found)
	publish += documented(t, "nats.md", "for each of its entities also (here `user`):")
	quoted := func(text string) (subjects []string) {
		for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(text, -1) {
			subjects = append(subjects, m[1])
		}
		require.NotEmpty(t, subjects)
		return subjects
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: testaddr.Port(t), JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, AuthTimeout: patient.Seconds(),
		Users: []*server.User{
			{Username: "relay", Password: "right", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: quoted(publish)}, Subscribe: &server.SubjectPermission{Allow: quoted(subscribe)},
			}},
			{Username: "admin", Password: "admin"},
		},
	})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patient))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })

	api := newAPI(t)
	feed(t, api, 0, source.UserCreated, 20)
	feed(t, api, 20, source.DsyncUserCreated, 20)
	r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 200ms, events: ["dsync.*", "user.*"]}
sinks: [{name: nats, type: nats, url: %q, inbox_prefix: _INBOX_relay_workos, auth: {user: relay, password: right}, state: {entities: [user], snapshot: never}}]
dead_letter: {topic: relay.dead_letter}
`, api.URL(), apiKey, s.ClientURL()))
	for n := range 2 {
		code, out, errs := r.Check(t)
		require.Zero(t, code, "%s%s", out, errs)
		require.NotContains(t, strings.ToLower(strings.ReplaceAll(out+errs, r.Dir, "")), "permission")
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("nats").AtTip }, "the events are published")
		require.Equal(t, checkpoint.ExactlyOnce, r.Lane("nats").Mode)
		require.Zero(t, r.Stop(t))
		require.NotContains(t, strings.ToLower(r.Output()), "permissions violation")
		feed(t, api, 40+5*n, source.UserCreated, 5)
	}

	denied := make(chan error, 16)
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("relay", "right"), nats.Timeout(patient), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err }))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	for _, act := range []func() error{
		func() error { return nc.Publish("relay.position.other.nats", []byte("{}")) },
		func() error { return nc.Publish("$JS.API.STREAM.DELETE.WORKOS", nil) },
		func() error { return nc.Publish("$JS.API.STREAM.PURGE.WORKOS", nil) },
		func() error { _, err := nc.SubscribeSync("_INBOX.>"); return err },
		func() error { _, err := nc.SubscribeSync("user.>"); return err },
	} {
		require.NoError(t, act())
		require.NoError(t, nc.Flush())
		select {
		case err := <-denied:
			require.ErrorContains(t, err, "Permissions Violation", "the server refuses it")
		case <-time.After(patient):
			require.Fail(t, "the server takes it")
		}
	}
}

// kafkaACLs reads the commands kafka-acls.sh of the manual.
func kafkaACLs(t *testing.T, text string) (acls []kfake.ACL) {
	t.Helper()
	operations := map[string]kmsg.ACLOperation{
		"Read": kmsg.ACLOperationRead, "Write": kmsg.ACLOperationWrite, "Create": kmsg.ACLOperationCreate,
		"Describe": kmsg.ACLOperationDescribe, "DescribeConfigs": kmsg.ACLOperationDescribeConfigs, "IdempotentWrite": kmsg.ACLOperationIdempotentWrite,
	}
	for command := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		command, _, _ = strings.Cut(command, " #")
		if !strings.Contains(command, "kafka-acls.sh") {
			continue
		}
		require.Contains(t, command, "User:relay ")
		acl := kfake.ACL{Pattern: kmsg.ACLResourcePatternTypeLiteral, Allow: true}
		if strings.Contains(command, "--resource-pattern-type prefixed") {
			acl.Pattern = kmsg.ACLResourcePatternTypePrefixed
		}
		switch m := regexp.MustCompile(`--(topic|transactional-id|cluster)(?: ([^ ]+))?`).FindStringSubmatch(command); m[1] {
		case "topic":
			acl.Resource, acl.Name = kmsg.ACLResourceTypeTopic, m[2]
		case "transactional-id":
			acl.Resource, acl.Name = kmsg.ACLResourceTypeTransactionalId, m[2]
		case "cluster":
			acl.Resource, acl.Name = kmsg.ACLResourceTypeCluster, "kafka-cluster"
		}
		for _, m := range regexp.MustCompile(`--operation ([A-Za-z]+)`).FindAllStringSubmatch(command, -1) {
			require.Contains(t, operations, m[1])
			acl.Operation = operations[m[1]]
			acls = append(acls, acl)
		}
	}
	require.NotEmpty(t, acls)
	return acls
}

// TestThePermissionsOfTheManualAreEnoughOnKafka does the same with the rules that docs/kafka.md
// lists.
func TestThePermissionsOfTheManualAreEnoughOnKafka(t *testing.T) {
	t.Parallel()
	rules := append(kafkaACLs(t, documented(t, "kafka.md", "More permissions are needed than to publish")),
		kafkaACLs(t, documented(t, "kafka.md", "change settings later, AlterConfigs on the topics"))...)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"),
		kfake.User("PLAIN", "relay", "right", rules...))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	api := newAPI(t)
	feed(t, api, 0, source.DsyncUserCreated, 20)
	r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 200ms, events: ["dsync.user.*"]}
sinks: [{name: kafka, type: kafka, brokers: [%q], sasl: {mechanism: plain, user: relay, password: right}}]
dead_letter: {topic: relay.dead_letter}
`, api.URL(), apiKey, cluster.ListenAddrs()[0]))
	for n := range 2 {
		code, out, errs := r.Check(t)
		require.Zero(t, code, "%s%s", out, errs)
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("kafka").AtTip }, "the events are published")
		require.Equal(t, checkpoint.ExactlyOnce, r.Lane("kafka").Mode)
		require.Zero(t, r.Stop(t))
		feed(t, api, 20+5*n, source.DsyncUserCreated, 5)
	}

	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.SASL(plain.Auth{User: "relay", Pass: "right"}.AsMechanism()),
		kgo.AllowAutoTopicCreation(), kgo.RecordDeliveryTimeout(patient))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	err = client.ProduceSync(t.Context(), &kgo.Record{Topic: "relay.position.other.kafka", Key: []byte("k"), Value: []byte("{}")}).FirstErr()
	require.ErrorContains(t, err, "AUTHORIZATION", "the position of another relay is out of reach")
}
