package manual

import (
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCodesNeverChange: every heading of docs/troubleshoot.md has its own code, and a code
// once given stays with its heading. testdata/codes.txt has every code there ever was, with the
// words of its heading. A heading that goes leaves its line behind, so that its code is not given
// again; one whose words change has them changed there.
func TestCodesNeverChange(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/codes.txt")
	require.NoError(t, err)
	given := map[string]string{}
	before := ""
	for line := range strings.Lines(string(text)) {
		code, title, found := strings.Cut(strings.TrimSpace(line), " ")
		require.True(t, found, line)
		require.Greater(t, code, before, "codes.txt is sorted, and no code is there twice")
		given[code], before = title, code
	}
	used := map[string]bool{}
	for _, e := range Entries() {
		require.Regexp(t, `^R1[0-9]{3}$`, e.Code, "the heading %q has no code: give it the next free one of its area, and add it to testdata/codes.txt", e.Title)
		require.False(t, used[e.Code], "two headings have the code %s", e.Code)
		used[e.Code] = true
		require.Equal(t, given[e.Code], e.Title, "%s: a code stays with what it means. Add a new one to testdata/codes.txt; change the words there only if the meaning stays", e.Code)
	}
	require.GreaterOrEqual(t, len(given), len(used))
}

// TestEveryQuotedMessageHasTheCodeOfItsHeading holds for each pattern of the page alone, and in the
// forms in which messages come.
func TestEveryQuotedMessageHasTheCodeOfItsHeading(t *testing.T) {
	t.Parallel()
	for _, e := range Entries() {
		for _, p := range e.Patterns {
			said := strings.ReplaceAll(p.Text, Gap, "17")
			require.Equal(t, e.Code, Code(p.Text), "%q is under %s, but another heading has longer words for it, or the same", p.Text, e.Code)
			require.Equal(t, e.Code, Code("lane nats", strings.ToUpper(said), "some other reason; and more"), p.Text)
		}
	}
}

func TestCode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ code, headline, err string }{
		{"R1104", "a request to the Events API failed; trying again", `polling: the Events API answered 401 Unauthorized: "Unauthorized"; check WORKOS_API_KEY or source.api_key`},
		{"R1301", "a lane has stopped; the others go on", "stopped at event event_1 (user.created): cannot be published to user.created: its limit is reached"},
		{"R1401", "publishing failed, will try again", "no NATS server answers at nats://127.0.0.1:4222: is one running there?: dial tcp: connect: connection refused"},
		{"R1801", "publishing failed, will try again", "dial tcp 127.0.0.1:4222: connect: connection refused"},
		{"R1304", "publishing failed, will try again", "it did not like that"},
		// What WorkOS refuses has the code of that, and what something else answers has the code of
		// that.
		{"R1108", "WorkOS refuses a request for a list; trying again slowly", "WorkOS answered 404 Not Found to GET /x: Cannot GET /x (code Not Found, request id req_1)"},
		{"R1108", "reading", "WorkOS answered 404 Not Found to GET /x: no (request id req_1); check source.endpoint; if it is right, ask WorkOS why it refuses the request"},
		{"R1107", "an answer does not come from WorkOS itself", "WorkOS answered 404 Not Found to GET /x: Cannot GET /x (code Not Found)"},
		{"R1107", "reading", "WorkOS answered 404 Not Found to GET /x: no; nothing shows that the answer is WorkOS's: check source.endpoint, and the proxies, firewalls and load balancers in between"},
		{"R1304", "publishing failed, will try again", ""},
		// A text of the other side does not decide, unless there is nothing else.
		{"R1108", "", `the Events API has refused the request for 5m0s: "cursor lost: the Events API refuses the API key"`},
		{"R1304", "publishing failed, will try again", `"all went wrong"`},
		{"R1802", "", `"no such host"`},
		{"", "all is well", ""},
	} {
		require.Equal(t, test.code, Code(test.headline, test.err), "%s: %s", test.headline, test.err)
	}
}

// TestMarkLines: each mistake of a configuration has its own code, and a text has one in any case
// if the page knows any of it.
func TestMarkLines(t *testing.T) {
	t.Parallel()
	for text, marked := range map[string]string{
		"a.yaml:1:1: x: unknown key\na.yaml:2:1: no words for that\na.yaml:3:1: y: is not a number":        "a.yaml:1:1: x: unknown key [R1001]\na.yaml:2:1: no words for that\na.yaml:3:1: y: is not a number [R1001]",
		"lane nats: dial tcp:\nconnection refused":                                                         "lane nats: dial tcp: [R1801]\nconnection refused",
		"action needed; lane nats: check WORKOS_API_KEY or source.api_key [R1104]":                         "action needed; lane nats: check WORKOS_API_KEY or source.api_key [R1104]",
		"replay: it is a stopped before the end\nWhen that is mended, go on with: relay replay --since 1h": "replay: it is a stopped before the end [R1701]\nWhen that is mended, go on with: relay replay --since 1h",
		"stopped before the end; go on with: relay replay --since 1h":                                      "[R1701] stopped before the end; go on with: relay replay --since 1h",
		"the command is `relay checkpoint set`":                                                            "the command is `relay checkpoint set` [R1201]",
		"action needed; lane nats: no NATS server answers at x [R1104]":                                    "action needed; lane nats: no NATS server answers at x [R1104]",
		"all is well": "all is well",
		"":            "",
	} {
		require.Equal(t, marked, MarkLines(text))
	}
}

// TestCodeConcurrently holds Code to its promise, and its memory to its bound.
func TestCodeConcurrently(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 2 * maxKnown {
				if Code("lane nats", strings.Repeat("x", i), "connection refused") != "R1801" {
					t.Error("another code")
				}
			}
		})
	}
	wg.Wait()
	codes.mu.Lock()
	defer codes.mu.Unlock()
	require.LessOrEqual(t, len(codes.known), maxKnown)
}

// TestWordsFromOutside: no two entries have the same words from outside, and none stands within
// those of another entry, which would never be found.
func TestWordsFromOutside(t *testing.T) {
	t.Parallel()
	letters := regexp.MustCompile(`[A-Za-z]{2}`)
	n := 0
	for _, e := range Entries() {
		for _, p := range e.Patterns {
			if p.Kind != Outside {
				continue
			}
			n++
			require.Regexp(t, letters, p.Text)
			require.Equal(t, e.Code, Code("reading", p.Text), p.Text)
		}
	}
	require.Greater(t, n, 60)
}
