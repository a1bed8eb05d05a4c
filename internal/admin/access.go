package admin

import (
	"context"
	"net/http"
)

// access is what a request may do. The server decides it once for each request, before any handler sees it.
type access struct{ write bool }

type accessKey struct{}

func withAccess(r *http.Request, a access) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), accessKey{}, a))
}

// MayWrite reports whether whoever sent r may steer the relay: pause, resume, poll, reload, move checkpoints. It holds for requests
// that the Server passed to a handler, and is false for any other.
func MayWrite(r *http.Request) bool {
	a, _ := r.Context().Value(accessKey{}).(access)
	return a.write
}
