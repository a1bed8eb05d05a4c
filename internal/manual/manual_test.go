package manual

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlain(t *testing.T) {
	const page = `# Title

See [the page](kafka.md), [kafka.md](kafka.md#topics) and **[elsewhere](https://example.com)**.
<!-- test: none: it is an example -->
` + "```sh\nrelay run | cat\n```" + `

| what | then | why |
|---|---|---|
| ` + "`a \\| b`" + ` | c | |
| d | **e** | f |

End.
`
	require.Equal(t, `# Title

See the page, `+"`relay help kafka`"+` and elsewhere.
    relay run | cat

- `+"`a | b`"+`
    then: c
- d
    then: e
    why: f

End.
`, Plain(page))
}

func TestEveryTopicIsReadable(t *testing.T) {
	topics := Topics()
	require.Greater(t, len(topics), 8)
	for _, topic := range topics {
		page, ok := Page(topic.Name)
		require.True(t, ok)
		text := Plain(page)
		require.True(t, strings.HasPrefix(text, "# "+topic.Title), topic.Name)
		for _, mark := range []string{"```", "<!--", "](", "|---"} {
			require.NotContains(t, text, mark, topic.Name)
		}
	}
	_, ok := Page("../README")
	require.False(t, ok)
}

// As they come out of relay, with what stands around them there.
func TestExplain(t *testing.T) {
	for message, title := range map[string]string{
		"config.yaml:3:7: source.polinterval: unknown key; did you mean \"poll_interval\"?":                            "A value is written wrongly",
		"relay: lane nats: no NATS server answers at nats://127.0.0.1:4222: is one running there?":                     "No NATS server answers",
		"NO NATS SERVER\n  answers at nats://x":                                                                        "No NATS server answers",
		"the NATS server at nats://n refuses auth.token: wrong secret, unknown or revoked user, or the credentials of": "NATS refuses the credentials",
		"publishing failed, will try again {\"error\": \"kafka broker k:9092 does not accept connections: it":          "No broker answers",
		"stopped at event event_01 (user.created): cannot be published to user.created: body and headers of 12":        "A lane has stopped",
		"cursor lost: the Events API no longer goes on after event_01 of 2026: 400; choose where to go on with":        "The cursor is lost",
		"the Events API answered 401 Unauthorized: bad key; check WORKOS_API_KEY or source.api_key: it must be":        "The API key is refused",
		"/data/x: it was altered: the checksum does not fit the content; the one before it is kept in /data/y":         "The position cannot be read",
		"admin.listen: cannot listen on 127.0.0.1:8080: another process, perhaps another relay, listens there":         "The admin address cannot be used",
	} {
		found := Explain(message)
		require.NotEmpty(t, found, message)
		titles := []string{}
		for _, e := range found[:min(3, len(found))] {
			titles = append(titles, e.Title)
		}
		require.Contains(t, titles, title, message)
	}
	require.Empty(t, Explain("all is well"))
}
