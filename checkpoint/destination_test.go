package checkpoint_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/internal/operator"
)

func TestFileDestination(t *testing.T) {
	dir := t.TempDir()
	f := openFile(t, dir)
	_, err := f.LoadDestination(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)
	require.NoError(t, f.ForgetDestination(t.Context()), "there is nothing to forget")

	d := checkpoint.Destination{
		Source: checkpointtest.Identity(), Mode: checkpoint.ExactlyOnce, Position: checkpointtest.Full(1).Position, Revision: 17, Closed: true,
		Parts: []checkpoint.Part{
			{Name: "kafka topic a", Topic: "a", ID: "0102", Ends: []int64{1, 2}, Used: true, Events: 3, Rough: true},
			{Name: "stream WORKOS", ID: "2026-11-29T10:00:00Z", Ends: []int64{9}, Position: true},
		},
	}
	require.NoError(t, f.SaveDestination(t.Context(), d))
	have, err := f.LoadDestination(t.Context())
	require.NoError(t, err)
	require.Equal(t, d, have)
	have, err = checkpoint.ReadDestination(dir, checkpointtest.Identity())
	require.NoError(t, err)
	require.Equal(t, d, have)

	d.Revision, d.Parts = 18, d.Parts[:1]
	path := filepath.Join(dir, "workos.kit.destination")
	require.NoError(t, os.WriteFile(path+".tmp", []byte("half"), 0o600))
	require.NoError(t, f.Close())
	f = openFile(t, dir)
	require.NoFileExists(t, path+".tmp")
	require.NoError(t, f.SaveDestination(t.Context(), d))

	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for i := range whole {
		altered := append([]byte{}, whole...)
		altered[i] ^= 1
		if i == len(whole)-1 { // the newline at the end matters to nobody
			continue
		}
		require.NoError(t, os.WriteFile(path, altered, 0o600))
		_, err := f.LoadDestination(t.Context())
		require.ErrorIs(t, err, checkpoint.ErrCorrupt, "byte %d", i)
		require.True(t, operator.Required(err))
		require.NoError(t, os.WriteFile(path, whole[:i], 0o600))
		_, err = f.LoadDestination(t.Context())
		require.ErrorIs(t, err, checkpoint.ErrCorrupt, "%d bytes", i)
	}
	require.NoError(t, f.ForgetDestination(t.Context()))
	_, err = f.LoadDestination(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)
}

func TestIdentityOfAnEarlierVersion(t *testing.T) {
	without := checkpointtest.Identity()
	without.Destination = "nats stream WORKOS"
	with := func(mark string) checkpoint.Identity {
		id := without
		id.Destination += mark
		return id
	}
	require.NoError(t, with(checkpoint.DomainMark+"hub").Check(without))
	require.NoError(t, with(checkpoint.APIPrefixMark+"JS.hub.API").Check(without))
	for _, c := range []struct{ id, have checkpoint.Identity }{
		{without, with(checkpoint.DomainMark + "hub")},
		{with(checkpoint.DomainMark + "hub"), with(checkpoint.DomainMark + "leaf")},
		{with(checkpoint.DomainMark + "hub"), with(checkpoint.APIPrefixMark + "hub")},
		{with("2" + checkpoint.DomainMark + "hub"), without},
		{with("2"), without},
	} {
		require.ErrorIs(t, c.id.Check(c.have), checkpoint.ErrForeign, "%v", c)
	}
}
