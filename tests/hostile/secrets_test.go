//go:build linux

package hostile

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/tests/testkit"
)

// TestAddressesDoNotShowCredentials puts a password where relay expects an address, in each way
// that somebody may try. relay refuses it, and no command repeats it.
func TestAddressesDoNotShowCredentials(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	kafka := func(broker string) string {
		return fmt.Sprintf("source: {endpoint: http://127.0.0.1:9, api_key: x}\nsinks: [{name: out, type: kafka, brokers: [%q]}]\n", broker)
	}
	nats := func(url string) string {
		return fmt.Sprintf("source: {endpoint: http://127.0.0.1:9, api_key: x}\nsinks: [{name: out, type: nats, url: %q}]\n", url)
	}
	embedded := func(listen string) string {
		return fmt.Sprintf("source: {endpoint: http://127.0.0.1:9, api_key: x}\nsinks: [{name: out, type: nats, url: embedded, embedded: {listen: %q}}]\n", listen)
	}
	source := func(endpoint string) string { return stdoutConfig(endpoint, "") }
	traces := func(endpoint string) string {
		return stdoutConfig("http://127.0.0.1:9", "") + fmt.Sprintf("telemetry: {traces: {endpoint: %q}}\n", endpoint)
	}
	metrics := func(endpoint string) string {
		return stdoutConfig("http://127.0.0.1:9", "") + fmt.Sprintf("telemetry: {metrics: {endpoint: %q}}\n", endpoint)
	}
	admin := func(listen string) string {
		return stdoutConfig("http://127.0.0.1:9", "") + fmt.Sprintf("admin: {listen: %q}\n", listen)
	}
	webhook := func(listen string) string {
		return stdoutConfig("http://127.0.0.1:9", fmt.Sprintf(", webhook: {listen: %q, secret: whsec_x}", listen))
	}
	type attempt struct {
		config func(string) string
		text   string
	}
	var attempts []attempt
	for _, a := range []string{
		"relay:hunter2@127.0.0.1:9", "hunter2@127.0.0.1:9", "relay:hunter2@127.0.0.1", "kafka://relay:hunter2@127.0.0.1:9",
		"127.0.0.1:9?password=hunter2", "127.0.0.1:9/hunter2", "127.0.0.1:9#hunter2", "127.0.0.1:9,relay:hunter2@127.0.0.1:9", "relay:hunter2:127.0.0.1:9",
	} {
		attempts = append(attempts, attempt{kafka, a})
	}
	for _, a := range []string{
		"nats://relay:hunter2@127.0.0.1:9", "relay:hunter2@127.0.0.1:9", "nats://hunter2@127.0.0.1:9", "nats://127.0.0.1:9,nats://relay:hunter2@127.0.0.1:9",
		"nats://relay:hunter2%zz@127.0.0.1:9", "tls://relay:hunter2@127.0.0.1:9", "wss://relay:hunter2@127.0.0.1:9", "ws://127.0.0.1:9/?token=hunter2", "wss://127.0.0.1:9/nats#hunter2", "nats://127.0.0.1:9?token=hunter2",
		"127.0.0.1:9/hunter2", "tls://127.0.0.1:9/#hunter2", "http://relay:hunter2@127.0.0.1:9",
	} {
		attempts = append(attempts, attempt{nats, a})
	}
	for _, a := range []string{
		"https://relay:hunter2@127.0.0.1:9", "https://127.0.0.1:9?key=hunter2", "https://127.0.0.1:9/#hunter2", "https://relay:hunter2%zz@127.0.0.1:9",
		"relay:hunter2@127.0.0.1:9", "ftp://relay:hunter2@127.0.0.1:9", "https://relay:a hunter2@127.0.0.1:9",
	} {
		attempts = append(attempts, attempt{source, a}, attempt{traces, a})
	}
	for _, a := range []string{"https://relay:hunter2@127.0.0.1:9", "https://127.0.0.1:9?key=hunter2", "https://relay:hunter2%zz@127.0.0.1:9"} {
		attempts = append(attempts, attempt{metrics, a})
	}
	for _, a := range []string{"relay:hunter2@127.0.0.1:9", "hunter2@127.0.0.1:9", "http://relay:hunter2@127.0.0.1:9"} {
		attempts = append(attempts, attempt{admin, a}, attempt{webhook, a}, attempt{embedded, a})
	}
	for i, a := range attempts {
		r := testkit.NewRelay(t, relayBinary, fmt.Sprintf("relay%d", i), a.config(a.text))
		for _, command := range []string{"check", "run"} {
			code, stdout, stderr := r.Run(t, command)
			require.NotZero(t, code, "relay %s with %s", command, a.text)
			require.NotContains(t, stdout+stderr, secret, "relay %s with %s", command, a.text)
		}
	}
	for _, variable := range []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://relay:hunter2@127.0.0.1:9", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9?key=hunter2",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://relay:hunter2%zz@127.0.0.1:9", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=relay:hunter2@127.0.0.1:9",
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://relay:hunter2@127.0.0.1:9",
	} {
		r := testkit.NewRelay(t, relayBinary, "relay", stdoutConfig("http://127.0.0.1:9", ""), variable)
		code, stdout, stderr := r.Run(t, "run")
		require.NotZero(t, code, variable)
		require.NotContains(t, stdout+stderr, secret, variable)
	}
	require.Empty(t, os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "the tests need an environment without it")
}
