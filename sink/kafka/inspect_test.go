package kafka

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
)

// TestAdviceStoresNothing asks a cluster whether it takes each codec: it does, and nothing is in
// the topic afterwards.
func TestAdviceStoresNothing(t *testing.T) {
	t.Parallel()
	for name, brokers := range map[string]func(t *testing.T) []string{
		"fake": func(t *testing.T) []string { return fake(t).ListenAddrs() },
		"real": func(t *testing.T) []string { return realBrokers(t) },
	} {
		t.Run(name, func(t *testing.T) {
			addrs := brokers(t)
			topic := unique(t, "advice")[0]
			for _, codec := range []string{"auto", "none", "gzip", "snappy", "lz4", "zstd"} {
				cfg := config(t, addrs)
				cfg.Compression = codec
				s := open(t, cfg)
				require.NoError(t, s.Prepare(within(t, patient), []string{topic}))
				a, err := s.Advice(within(t, patient), []string{topic})
				require.NoError(t, err)
				if codec == "auto" {
					codec = "lz4"
				}
				require.Equal(t, []string{"compression: " + codec}, a.Facts)
				require.Empty(t, a.Warnings)
				require.Empty(t, a.Faults)
			}
			stored, err := ends(within(t, patient), kadm.NewClient(reader(t, addrs)), topic)
			require.NoError(t, err)
			stored.Each(func(o kadm.ListedOffset) { require.Zero(t, o.Offset) })
		})
	}
}
