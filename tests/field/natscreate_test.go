//go:build unix

package field

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// TestPlacementOfTheStream: relay creates a stream with a placement, compression and metadata, and
// changes them later while events flow.
func TestPlacementOfTheStream(t *testing.T) {
	t.Parallel()
	cluster := newNATSCluster(t)
	js := cluster[0].connect(t)
	api := newAPI(t, backlog(200))
	urls := cluster[0].URL + "," + cluster[1].URL + "," + cluster[2].URL
	r := newRelay(t, "relay", natsCreate(api.URL(), urls, ", create: {placement: {cluster: three, tags: [ZONE-1]}, compression: s2, metadata: {team: platform}}"))
	code, out, errs := r.Check(t)
	require.Equal(t, exitDone, code, out+errs)
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 200 }, "events flow")
	r.AwaitState(t, "nats", pipeline.Running)
	conf := streamConfig(t, js)
	require.Equal(t, &jetstream.Placement{Cluster: "three", Tags: []string{"ZONE-1"}}, conf.Placement)
	require.Equal(t, jetstream.S2Compression, conf.Compression)
	require.Equal(t, "platform", conf.Metadata["team"])
	require.Equal(t, "relay", conf.Metadata["relay.created-by"])
	r.Await(t, func() bool { return leaderOf(js) == "n1" }, "the stream is where it was placed")
	require.Empty(t, r.Lane("nats").Settings)

	// The same in other words is the same.
	r.rewrite(t, natsCreate(api.URL(), urls, ", create: {placement: {tags: [zone-1, Zone-1], cluster: three}, compression: s2, metadata: {team: platform}}"))
	code, out, _ = r.Check(t)
	require.Equal(t, exitDone, code, out)
	require.NotContains(t, out, "create.placement")

	r.rewrite(t, natsCreate(api.URL(), urls, ", create: {placement: {tags: [zone-2]}, compression: none, metadata: {team: data, tier: '1'}}"))
	code, out, _ = r.Check(t)
	require.Equal(t, exitDone, code, out)
	require.Contains(t, out, "changes  stream WORKOS: create.placement is cluster three, tags zone-1 and changes to tags zone-2")
	require.Contains(t, out, "changes  stream WORKOS: create.compression is s2 and changes to none")
	require.Contains(t, out, "changes  stream WORKOS: create.metadata is team=platform and changes to team=data, tier=1")
	code, out, errs = r.Run(t, "reload")
	require.Equal(t, exitDone, code, out+errs)
	appendEvents(t, api, source.UserCreated, 50, 0)
	r.Await(t, func() bool { return leaderOf(js) == "n2" && countEvents(js, stream) == 250 }, "the stream has moved, and events flow")
	conf = streamConfig(t, js)
	require.Equal(t, jetstream.NoCompression, conf.Compression)
	require.Equal(t, [3]string{"data", "1", "relay"}, [3]string{conf.Metadata["team"], conf.Metadata["tier"], conf.Metadata["relay.created-by"]})
	r.Await(t, func() bool { return len(r.Lane("nats").Settings) == 3 }, "status names the settings")
	require.Equal(t, map[string]sink.Outcome{
		"create.placement": sink.Changed, "create.compression": sink.Changed, "create.metadata": sink.Changed,
	}, outcomes(r.Lane("nats").Settings))

	// No server has the tag: nothing moves, and relay says what to change.
	r.rewrite(t, natsCreate(api.URL(), urls, ", create: {placement: {tags: [zone-9]}}"))
	code, out, errs = r.Run(t, "reload")
	require.Equal(t, exitDone, code, out+errs)
	r.Await(t, func() bool {
		settings := r.Lane("nats").Settings
		return len(settings) == 1 && settings[0].Outcome == sink.Unchanged && strings.Contains(settings[0].Why, "correct create.placement")
	}, "status says what to change")
	appendEvents(t, api, source.UserCreated, 50, 0)
	r.Await(t, func() bool { return countEvents(js, stream) == 300 }, "events flow")
	require.Equal(t, exitDone, r.Stop(t))
	require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream), "every event once, in order")
}

// TestAStreamThatCannotBePlaced: no server is what create.placement asks for, a single server has
// no choice, and input that cannot be a placement is refused.
func TestAStreamThatCannotBePlaced(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(10))
	t.Run("no such server", func(t *testing.T) {
		t.Parallel()
		cluster := newNATSCluster(t)
		js := cluster[0].connect(t)
		for _, placement := range []string{"{tags: [zone-9]}", "{cluster: elsewhere}"} {
			r := newRelay(t, "relay", natsCreate(api.URL(), cluster[0].URL, ", create: {placement: "+placement+"}"))
			r.Start(t)
			r.Says(t, "correct create.placement")
			require.Equal(t, exitDone, r.Stop(t))
			require.Empty(t, eventIDs(t, js, stream))
		}
	})
	t.Run("a single server", func(t *testing.T) {
		t.Parallel()
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, "relay", natsCreate(api.URL(), bus.URL, ", create: {placement: {tags: [eu]}}"))
		code, out, errs := r.Check(t)
		require.Equal(t, exitDone, code, out+errs)
		require.Contains(t, out, "create.placement has no effect")
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == 10 }, "events flow")
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("a stream of others", func(t *testing.T) {
		t.Parallel()
		bus := newNATS(t, nil)
		js := bus.connect(t)
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
			Name: stream, Subjects: []string{"user.>"}, Metadata: map[string]string{"team": "others", "theirs": "1"},
		})
		require.NoError(t, err)
		r := newRelay(t, "relay", natsCreate(api.URL(), bus.URL, ", create: {compression: s2, placement: {cluster: three}, metadata: {team: platform}}"))
		_, out, _ := r.Check(t)
		require.Contains(t, out, "create.compression is none, not s2 as configured: relay did not create the stream")
		require.Contains(t, out, "create.placement is none, not cluster three as configured: relay did not create the stream")
		require.Contains(t, out, "create.metadata is team=others, not team=platform as configured: relay did not create the stream")
	})
	t.Run("bad input", func(t *testing.T) {
		t.Parallel()
		for create, says := range map[string]string{
			"{placement: {cluster: 'a b'}}": "is not the name of a cluster",
			"{placement: {tags: ['a b']}}":  "is not a tag of a server",
			"{placement: {tags: eu}}":       "must be a list",
			"{placement: {tag: [eu]}}":      "tags",
			"{placement: eu}":               "create.placement",
			"{compression: zstd}":           "none, s2",
			"{metadata: {relay.id: x}}":     "belongs to relay or to the NATS server",
			"{metadata: {_nats.ver: x}}":    "belongs to relay or to the NATS server",
			"{metadata: {'': x}}":           "is not a name of metadata",
			"{metadata: [team]}":            "create.metadata",
		} {
			code, out, errs := newRelay(t, "wrong", natsCreate(api.URL(), "nats://127.0.0.1:1", ", create: "+create)).Run(t, "check")
			require.Equal(t, exitUsage, code, create)
			require.Contains(t, out+errs, says, create)
		}
		code, out, errs := newRelay(t, "wrong", natsCreate(api.URL(), "embedded", ", create: {placement: {tags: [eu]}}")).Run(t, "check")
		require.Equal(t, exitUsage, code)
		require.Contains(t, out+errs, "remove create.placement")
	})
}
