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
