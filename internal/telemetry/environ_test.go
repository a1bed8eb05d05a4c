package telemetry

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSecretsOfTheEnvironmentAreHidden(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", `authorization=Bearer%20abc%2Fdef, x-short=ab,x-quote=one%22two`)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-token = for traces")
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "x-token=metrics%zz,no pair")
	hide := hideEnviron(func(s string) string { return "<" + s + ">" })
	for text, want := range map[string]string{
		"sent Bearer abc/def":         "<sent [secret]>",
		"written Bearer%20abc%2Fdef.": "<written [secret].>",
		"alone abc/def":               "<alone [secret]>",
		`quoted one\"two one"two`:     "<quoted [secret] [secret]>",
		"for traces":                  "<[secret]>",
		"metrics%zz":                  "<[secret]>",
		"ab, no pair, x-token":        "<ab, no pair, x-token>",
	} {
		require.Equal(t, want, hide(text))
	}
}
