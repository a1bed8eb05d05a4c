package snapshot

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/router"
	"workos-relay/source"
	"workos-relay/source/lists"
	"workos-relay/source/sourcetest"
)

// TestMemoryStaysFlat reads 120,000 objects over HTTP, a hundred megabytes and more, and looks at
// the heap between portions: it does not grow with what was read. It runs beside no other test,
// whose memory would count.
func TestMemoryStaysFlat(t *testing.T) {
	const objects = 120_000
	api := sourcetest.New(sourcetest.WithAPIKey("sk_test"), sourcetest.WithWorld(sourcetest.WorldConfig{
		Seed: 1, Organizations: 5, Directories: 40, DirectoryUsers: objects,
	}))
	require.NoError(t, api.Start(""))
	defer func() { require.NoError(t, api.Close()) }()
	r, err := router.New(router.Config{Types: eventTypes, State: []string{"directory_user"}})
	require.NoError(t, err)
	const maxBytes = 1 << 20
	e := &Engine{
		Lists:    &lists.Client{Getter: &source.Getter{Client: &source.Client{APIKey: "sk_test", Endpoint: api.URL()}}},
		Entities: []string{"directory_user"}, Automatic: true, Message: r.AppendObject, Logger: zap.NewNop(), MaxMessages: 5000, MaxBytes: maxBytes,
		Now: func(context.Context) (time.Time, error) { return time.Now(), nil },
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	first, most, before := uint64(0), uint64(0), heap()
	var cp checkpoint.Checkpoint
	read, bytes, portions := 0, 0, 0
	for p, err := range e.Read(t.Context(), cp) {
		require.NoError(t, err)
		portion := 0
		for i := range p.Messages {
			portion += len(p.Messages[i].Body)
		}
		require.LessOrEqual(t, portion, maxBytes+256<<10, "a page more than the bound")
		read, bytes, cp.Snapshot = read+len(p.Messages), bytes+portion, p.Snapshot
		if portions++; portions%25 == 0 {
			most = max(most, heap())
			if first == 0 {
				first = most
			}
		}
	}
	require.True(t, cp.Snapshot.Finished())
	require.Equal(t, objects, read)
	require.Greater(t, bytes, 60<<20)
	t.Logf("%d objects, %d MiB in %d portions; heap %d KiB before, %d KiB at the first look, %d KiB at most", read, bytes>>20, portions, before>>10, first>>10, most>>10)
	require.Less(t, most, before+16<<20)
}
