package nats

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/conf/unit"
	"workos-relay/sink"
)

func TestLimitsOfAnAccount(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	unlimited := jetstream.AccountLimits{MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: -1}
	with := func(change func(*jetstream.Tier)) *jetstream.AccountInfo {
		tier := jetstream.Tier{Limits: unlimited}
		change(&tier)
		return &jetstream.AccountInfo{Tier: tier}
	}
	tiered := func(names ...string) *jetstream.AccountInfo {
		info := &jetstream.AccountInfo{Tiers: map[string]jetstream.Tier{}}
		for _, name := range names {
			info.Tiers[name] = jetstream.Tier{Limits: jetstream.AccountLimits{MaxStore: 2 * gib, MaxStreams: 5, MaxBytesRequired: true}}
		}
		return info
	}
	for name, c := range map[string]struct {
		info *jetstream.AccountInfo
		want Create
		says []string
	}{
		"none":               {with(func(*jetstream.Tier) {}), Create{Replicas: 3}, nil},
		"size required":      {with(func(t *jetstream.Tier) { t.Limits.MaxBytesRequired = true }), Create{}, []string{"set create.max_bytes"}},
		"size given":         {with(func(t *jetstream.Tier) { t.Limits.MaxBytesRequired = true }), Create{MaxBytes: gib}, nil},
		"size of at most":    {with(func(t *jetstream.Tier) { t.Limits.MaxBytesRequired, t.Limits.StoreMaxStreamBytes = true, gib }), Create{}, []string{"set create.max_bytes to at most 1GiB"}},
		"too large":          {with(func(t *jetstream.Tier) { t.Limits.StoreMaxStreamBytes = gib }), Create{MaxBytes: 2 * gib}, []string{"at most 1GiB for one stream: lower create.max_bytes"}},
		"no limit, none set": {with(func(t *jetstream.Tier) { t.Limits.StoreMaxStreamBytes = gib }), Create{}, nil},
		"streams":            {with(func(t *jetstream.Tier) { t.Limits.MaxStreams, t.Streams = 2, 2 }), Create{}, []string{"may have no more than 2"}},
		"streams left":       {with(func(t *jetstream.Tier) { t.Limits.MaxStreams, t.Streams = 2, 1 }), Create{}, nil},
		"no storage at all":  {with(func(t *jetstream.Tier) { t.Limits.MaxStore = 0 }), Create{}, []string{"no file storage left"}},
		"all reserved":       {with(func(t *jetstream.Tier) { t.Limits.MaxStore, t.ReservedStore = gib, gib }), Create{}, []string{"no file storage left"}},
		"not enough left":    {with(func(t *jetstream.Tier) { t.Limits.MaxStore, t.ReservedStore = 2*gib, gib }), Create{MaxBytes: gib + 1}, []string{"1GiB of storage left: lower create.max_bytes"}},
		"just enough":        {with(func(t *jetstream.Tier) { t.Limits.MaxStore, t.ReservedStore = 2*gib, gib }), Create{MaxBytes: gib}, nil},
		"each replica":       {with(func(t *jetstream.Tier) { t.Limits.MaxStore = 3 * gib }), Create{MaxBytes: 2 * gib, Replicas: 3}, []string{"to at most 1GiB, or create.replicas"}},
		"replicas fit":       {with(func(t *jetstream.Tier) { t.Limits.MaxStore = 3 * gib }), Create{MaxBytes: gib, Replicas: 3}, nil},
		"tier":               {tiered("R1", "R3"), Create{MaxBytes: gib, Replicas: 3}, nil},
		"tier counts once":   {tiered("R3"), Create{MaxBytes: 2 * gib, Replicas: 3}, nil},
		"no such tier":       {tiered("R3", "R5"), Create{}, []string{"only for R3 and R5: change create.replicas"}},
		"limits of a tier":   {tiered("R1"), Create{Replicas: 1}, []string{"set create.max_bytes"}},
		"several": {with(func(t *jetstream.Tier) {
			t.Limits.MaxStreams, t.Streams, t.Limits.MaxBytesRequired, t.Limits.MaxStore = 1, 1, true, 0
		}), Create{}, []string{"max_streams", "create.max_bytes", "no file storage"}},
	} {
		got := limitProblems(c.info, c.want)
		require.Len(t, got, len(c.says), "%s: %v", name, got)
		for i, says := range c.says {
			require.Contains(t, got[i], says, name)
		}
	}
}

// TestRaisingBeyondTheAccount: a stream that exists counts for what it becomes, not for what it is.
func TestRaisingBeyondTheAccount(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	info := &jetstream.AccountInfo{Tier: jetstream.Tier{Streams: 1, ReservedStore: 3 * gib, Limits: jetstream.AccountLimits{MaxStore: 6 * gib, MaxStreams: 1}}}
	have := jetstream.StreamConfig{MaxBytes: gib, Replicas: 3, Storage: jetstream.FileStorage}
	require.Empty(t, limitProblems(withoutStream(info, have), Create{MaxBytes: 2 * gib, Replicas: 3}))
	require.Len(t, limitProblems(withoutStream(info, have), Create{MaxBytes: 3 * gib, Replicas: 3}), 1)
	require.Equal(t, 1, info.Streams, "the answer of the server is left as it is")

	tiers := &jetstream.AccountInfo{Tiers: map[string]jetstream.Tier{
		"R1": {Streams: 1, ReservedStore: gib, Limits: jetstream.AccountLimits{MaxStore: gib, MaxStreams: 1}},
		"R3": {Streams: 1, ReservedStore: gib, Limits: jetstream.AccountLimits{MaxStore: 2 * gib, MaxStreams: 1}},
	}}
	have = jetstream.StreamConfig{MaxBytes: gib, Replicas: 1, Storage: jetstream.FileStorage}
	require.Empty(t, limitProblems(withoutStream(tiers, have), Create{MaxBytes: gib, Replicas: 1}))
	require.Len(t, limitProblems(withoutStream(tiers, have), Create{MaxBytes: gib, Replicas: 3}), 1, "the other tier is full")
}

// TestRefusalsNameTheKey: if any limit makes a server refuse a stream, the error names what to
// change.
func TestRefusalsNameTheKey(t *testing.T) {
	t.Parallel()
	for code, c := range map[jetstream.ErrorCode]struct {
		description, says string
		fatal             bool
	}{
		10002: {"resource limits exceeded for account", "storage limit of the account", false},
		10005: {"no suitable peers for placement", "create.replicas", false},
		10023: {"insufficient resources", "create.replicas", false},
		10027: {"maximum number of streams reached", "max_streams", true},
		10047: {"insufficient storage resources available", "create.max_bytes", false},
		10052: {"duplicates window can not be larger then server limit of 1m0s", "duplicate_window", true},
		10074: {"replicas > 1 not supported in non-clustered mode", "create.replicas: 1", true},
		10113: {"account requires a stream config to have max bytes set", "set create.max_bytes", true},
		10120: {"no JetStream default or applicable tiered limit present", "create.replicas", true},
		10122: {"stream max bytes exceeds account limit max stream bytes", "lower create.max_bytes", true},
	} {
		cfg := Config{Stream: "WORKOS", Create: Create{MaxBytes: unit.Bytes(1 << 30), Replicas: 3}}.withDefaults()
		cause := &jetstream.APIError{Code: 400, ErrorCode: code, Description: c.description}
		err := account{&cfg}.explainUnmade(newLink(), "creating stream WORKOS", fmt.Errorf("asking: %w", cause), nil)
		require.ErrorContains(t, err, c.says, code)
		require.ErrorContains(t, err, c.description, code)
		require.ErrorIs(t, err, cause)
		var fatal *sink.FatalError
		if c.fatal {
			require.ErrorAs(t, err, &fatal, code)
			require.Contains(t, fatal.OperatorAction(), c.says, code)
		} else {
			require.NotErrorAs(t, err, &fatal, code)
		}
	}
}
