package kafka

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func TestJudgeTimestamps(t *testing.T) {
	t.Parallel()
	const never = "9223372036854775807"
	for name, c := range map[string]struct {
		settings map[string]string
		says     []string // nothing if empty
	}{
		"nothing known":          {nil, nil},
		"kept for ever":          {map[string]string{retentionTime: "-1", timestampBefore: never, timestampDifference: never}, nil},
		"kept for a year":        {map[string]string{retentionTime: "31536000000"}, nil},
		"kept as WorkOS does":    {map[string]string{retentionTime: "7776000000", timestampBefore: "7776000000"}, nil},
		"a week":                 {map[string]string{retentionTime: "604800000"}, []string{"retention.ms is 7 days and counts from the time of the event"}},
		"a week, compacted only": {map[string]string{retentionTime: "604800000", cleanupPolicy: "compact"}, nil},
		"a week, compacted":      {map[string]string{retentionTime: "604800000", cleanupPolicy: "compact,delete"}, []string{"retention.ms is 7 days"}},
		"an hour before":         {map[string]string{timestampBefore: "3600000", timestampDifference: never}, []string{"message.timestamp.before.max.ms is 1h0m0s, so the brokers refuse older events"}},
		"an older broker":        {map[string]string{timestampDifference: "86400000", retentionTime: "-1"}, []string{"message.timestamp.difference.max.ms is 24h0m0s, so the brokers refuse older events"}},
		"both":                   {map[string]string{timestampBefore: "0", retentionTime: "60000"}, []string{"message.timestamp.before.max.ms is 0s", "retention.ms is 1m0s"}},
		"the broker's clock":     {map[string]string{timestampType: "LogAppendTime", retentionTime: "60000", timestampBefore: "1"}, []string{"message.timestamp.type is LogAppendTime"}},
		"not a number":           {map[string]string{timestampBefore: "soon", retentionTime: ""}, nil},
	} {
		said := judgeTimestamps(func(name string) string { return c.settings[name] })
		require.Len(t, said, len(c.says), name)
		for i, text := range c.says {
			require.Contains(t, said[i], text, name)
		}
	}
}

func TestStamp(t *testing.T) {
	t.Parallel()
	created, now := time.UnixMilli(1_600_000_000_000), time.UnixMilli(1_800_000_000_000)
	event, letter := &sink.Message{Created: created}, &sink.Message{}
	require.Equal(t, created, Config{Timestamp: "event"}.stamp(event, now))
	require.Equal(t, now, Config{Timestamp: "event"}.stamp(letter, now), "a dead letter or a position")
	require.Equal(t, now, Config{Timestamp: "publish"}.stamp(event, now))
	require.Equal(t, now, Config{}.stamp(event, now))
}
