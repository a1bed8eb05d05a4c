package secret_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"go.yaml.in/yaml/v4"

	"workos-relay/conf/secret"
)

func TestNothingButRevealShowsIt(t *testing.T) {
	const hidden = "hunter2"
	s := secret.String(hidden)
	section := struct {
		Password secret.String
		List     []secret.String
	}{s, []secret.String{s}}

	var shown []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%t", "%b", "%U", "%e", "%8.3f", "%20s"} {
		shown = append(shown, fmt.Sprintf(verb, s), fmt.Sprintf(verb, section), fmt.Sprintf(verb, &section))
	}
	shown = append(shown, errors.New("password "+s.String()).Error())
	asJSON, err := json.Marshal(section)
	require.NoError(t, err)
	asYAML, err := yaml.Marshal(section)
	require.NoError(t, err)
	core, logs := observer.New(zapcore.DebugLevel)
	zap.New(core).Info("config", zap.Any("section", section), zap.Stringer("s", s))
	shown = append(shown, string(asJSON), string(asYAML), fmt.Sprint(logs.All()[0].ContextMap()))
	for _, text := range shown {
		require.NotContains(t, text, hidden)
		require.NotContains(t, text, hidden[:3])
	}
	require.Equal(t, hidden, s.Reveal())
	require.True(t, s.IsSet())
	require.Empty(t, secret.String("").String(), "an empty one shows that it is empty")
}
