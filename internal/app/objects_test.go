package app

import (
	"context"
	"fmt"
	"hash/maphash"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

// versions is a state topic that tells of every version it holds.
type versions []sink.Stored

func (v versions) ReadState(_ context.Context, _ sink.StateTopic, fn func(*sink.Stored) error) error {
	for i := range v {
		if err := fn(&v[i]); err != nil {
			return err
		}
	}
	return nil
}

func (versions) ReadObject(context.Context, sink.StateTopic, []byte) (*sink.Stored, error) {
	return nil, nil //nolint:nilnil // it is not asked
}

// counting counts the versions that are read.
type counting struct {
	versions
	read int
}

func (c *counting) ReadState(ctx context.Context, topic sink.StateTopic, fn func(*sink.Stored) error) error {
	return c.versions.ReadState(ctx, topic, func(m *sink.Stored) error {
		c.read++
		return fn(m)
	})
}

// TestAPartThatDoesNotFitIsNotReadToItsEnd: finding out that there are too many keys costs no more
// than reading so many.
func TestAPartThatDoesNotFitIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	c := &counting{}
	for n := range 1000 {
		c.versions = append(c.versions, sink.Stored{Key: []byte(fmt.Sprint("user_", n)), Offset: int64(n), Body: []byte("{}")})
	}
	o := &Objects{reader: c, seed: maphash.MakeSeed(), most: 10}
	last, fits, err := o.last(t.Context(), sink.StateTopic{}, part{})
	require.NoError(t, err)
	require.False(t, fits)
	require.Empty(t, last, "nothing is kept of it")
	require.Equal(t, 11, c.read)
}

// TestObjectsTellOfTheNewestVersions holds for any number of keys that may be remembered at once.
func TestObjectsTellOfTheNewestVersions(t *testing.T) {
	t.Parallel()
	const keys = 300
	var topic versions
	want := map[string]string{}
	for n := range 3 * keys {
		key, value := fmt.Sprint("user_", n*7%keys), fmt.Sprintf(`{"n":%d}`, n)
		m := sink.Stored{Key: []byte(key), Offset: int64(n), Body: []byte(fmt.Sprintf(`{"data":%s}`, value))}
		if want[key] = value; n%5 == 0 {
			m.Body = nil
			delete(want, key)
		}
		topic = append(topic, m)
	}
	require.Greater(t, len(want), keys/2)
	r, err := router.New(router.Config{
		Relay: "r", Encoding: router.CloudEventsStructured, State: []string{"user"}, Types: []string{source.UserCreated, source.UserUpdated, source.UserDeleted},
	})
	require.NoError(t, err)
	for _, most := range []int{1, 7, keys / 2, keys, 10 * keys} {
		s := &Objects{reader: topic, router: r, seed: maphash.MakeSeed(), most: most}
		have := map[string]string{}
		require.NoError(t, s.Each(t.Context(), "user", func(key string, value []byte, _ []sink.Header) error {
			require.NotContains(t, have, key, "each once")
			have[key] = string(value)
			return nil
		}))
		require.Equal(t, want, have, "%d at once", most)
		require.NoError(t, s.Each(t.Context(), "directory", func(string, []byte, []sink.Header) error { return context.Canceled }))
	}
}
