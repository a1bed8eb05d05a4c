package source

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestContext(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		raw  string
		want Context
		ok   bool
	}{
		"all": {
			`{"id":"e","context":{"client_id":"client_1","actor":{"id":"user_1","name":"Zo\u00eb","source":"dashboard"},"previous_attributes":{"n":12345678901234567890}}}`,
			Context{Actor: Actor{ID: "user_1", Name: "Zoë", Source: "dashboard"}, ClientID: "client_1", PreviousAttributes: []byte(`{"n":12345678901234567890}`)}, true,
		},
		"empty":        {`{"context":{}}`, Context{}, true},
		"nulls":        {`{"context":{"client_id":null,"actor":null,"previous_attributes":null}}`, Context{}, true},
		"other shapes": {`{"context":{"client_id":7,"actor":["user_1"],"previous_attributes":"x"}}`, Context{}, true},
		"none":         {`{"id":"e","data":{"context":{"client_id":"no"}}}`, Context{}, false},
		"null":         {`{"context":null}`, Context{}, false},
		"a list":       {`{"context":[]}`, Context{}, false},
	} {
		got, ok := (&Event{Raw: []byte(c.raw)}).Context()
		require.Equal(t, c.ok, ok, name)
		require.Equal(t, c.want, got, name)
	}
	_, ok := (&Event{}).Context()
	require.False(t, ok)
}
