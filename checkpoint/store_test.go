package checkpoint_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
)

type folder string

func (dir folder) Open(t *testing.T, id checkpoint.Identity) checkpoint.Store {
	t.Helper()
	f, err := checkpoint.OpenFile(string(dir), id)
	require.NoError(t, err)
	return f
}

type memory struct{}

func (memory) Open(_ *testing.T, id checkpoint.Identity) checkpoint.Store {
	return checkpoint.NewMemory(id)
}

func TestFileConforms(t *testing.T) {
	checkpointtest.Run(t, checkpointtest.Harness{
		NewPlace: func(t *testing.T) checkpointtest.Place { return folder(t.TempDir()) },
		Durable:  true,
	})
}

func TestMemoryConforms(t *testing.T) {
	checkpointtest.Run(t, checkpointtest.Harness{
		NewPlace: func(*testing.T) checkpointtest.Place { return memory{} },
	})
}
