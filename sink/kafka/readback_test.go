package kafka

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRealReadback has kcat read what the sink wrote with each codec: bodies, headers, keys and
// partitions. kcat is librdkafka, so neither franz-go nor kafka-go has a part in it.
func TestRealReadback(t *testing.T) {
	t.Parallel()
	brokers := realBrokers(t)
	if _, err := exec.LookPath("kcat"); err != nil {
		t.Skip("needs kcat (Debian package kcat)")
	}
	script, err := filepath.Abs("../../.ci/kafka/readback")
	require.NoError(t, err)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			cfg := config(t, brokers)
			cfg.Compression = codec
			s := open(t, cfg)
			topic := unique(t, "readback")[0]
			require.NoError(t, s.Prepare(within(t, patient), []string{topic}))
			batch := messages(0, 500, topic)
			require.NoError(t, s.Publish(within(t, patient), batch))

			out, err := exec.CommandContext(within(t, patient), script, strings.Join(brokers, ","), topic).Output()
			require.NoError(t, err)
			lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
			require.Len(t, lines, len(batch))
			byKey := make(map[string][]string)
			for _, line := range lines {
				f := strings.SplitN(line, "\t", 5)
				require.Len(t, f, 5)
				require.Equal(t, f[0], strconv.Itoa(int(partitionOf([]byte(f[2]), partitionNumbers(6)))), "partition of key %s", f[2])
				byKey[f[2]] = append(byKey[f[2]], f[3]+"\t"+f[4])
			}
			for _, m := range batch {
				key := string(m.Key)
				require.NotEmpty(t, byKey[key], m.ID)
				require.Equal(t, fmt.Sprintf("event-id=%s,event-type=dsync.user.created\t%s", m.ID, m.Body), byKey[key][0])
				byKey[key] = byKey[key][1:]
			}
		})
	}
}
