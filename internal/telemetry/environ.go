package telemetry

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
)

// environSecrets are what the standard variables for the headers of requests to collectors hold:
// each value as it is written and as it is sent, and the credentials alone of one such as "Bearer
// abc".
func environSecrets() []string {
	var out []string
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_HEADERS"} {
		for pair := range strings.SplitSeq(os.Getenv(name), ",") {
			_, raw, _ := strings.Cut(pair, "=")
			values := []string{strings.TrimSpace(raw)}
			if sent, err := url.PathUnescape(raw); err == nil {
				values = append(values, strings.TrimSpace(sent))
			}
			for _, v := range values {
				_, credentials, _ := strings.Cut(v, " ")
				out = append(out, v, strings.TrimSpace(credentials))
			}
		}
	}
	return out
}

// hideEnviron returns a function that replaces the secrets of the environment in a text by a
// placeholder, then calls hide. As in the configuration, a value of less than three bytes is none.
func hideEnviron(hide func(string) string) func(string) string {
	secrets := environSecrets()
	for _, v := range slices.Clone(secrets) {
		quoted := fmt.Sprintf("%q", v)
		secrets = append(secrets, quoted[1:len(quoted)-1])
	}
	secrets = slices.DeleteFunc(secrets, func(v string) bool { return len(v) < 3 })
	slices.SortFunc(secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // a part comes after the whole
	pairs := make([]string, 0, 2*len(secrets))
	for _, v := range secrets {
		pairs = append(pairs, v, "[secret]")
	}
	replace := strings.NewReplacer(pairs...)
	return func(text string) string { return hide(replace.Replace(text)) }
}
