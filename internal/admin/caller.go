package admin

import (
	"context"
	"net/http"
	"os"
	"os/user"
	"strings"

	"workos-relay/internal/printable"
)

type callerKey struct{}

// WithCaller returns a context for a request of who.
func WithCaller(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

// Caller returns who made the request that ctx is for, as far as it is known. The text is
// printable.
func Caller(ctx context.Context) string {
	if who, ok := ctx.Value(callerKey{}).(string); ok {
		return who
	}
	return "not known"
}

// commandMark begins the header of a request that a command of relay makes.
const commandMark = "relay command"

const maxCaller = 200 // bytes of what a client says of itself

// callerOf returns who makes a request: what the client says of itself, and its address.
func callerOf(r *http.Request) string {
	who := "an HTTP client"
	switch said := r.Header.Get(Header); {
	case said == pageMark:
		who = "the status page"
	case strings.HasPrefix(said, commandMark):
		who = printable.Clip(said, maxCaller)
	}
	return who + ", from " + printable.Text(r.RemoteAddr)
}

// pageMark is what the status page says of itself.
const pageMark = "status page"

// thisCommand returns what a command of relay says of itself: the user and the host, as far as they
// are known and in printable ASCII.
func thisCommand() string {
	name, host := "not known", "not known"
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil && h != "" {
		host = h
	}
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '_'
		}
		return r
	}, strings.Join([]string{commandMark, "of user", name, "on host", host}, " "))
	return plain[:min(len(plain), maxCaller)]
}
