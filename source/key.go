package source

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"workos-relay/internal/retry"
)

// maxKeys is how many keys a client remembers to keep them out of texts: while a key is exchanged
// an answer may repeat the one
// before.
const maxKeys = 4

// keys are the API keys that a client has sent, newest last.
type keys struct {
	mu   sync.Mutex
	sent []string
}

func (k *keys) note(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key != "" && !slices.Contains(k.sent, key) {
		k.sent = append(k.sent, key)
		k.sent = k.sent[max(0, len(k.sent)-maxKeys):]
	}
}

func (k *keys) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.sent)
}

// key returns the key for the next request, or after a refusal the newest one that there is.
func (c *Client) key(refused bool) string {
	key := c.APIKey
	if c.Key != nil {
		key = c.Key(refused)
	}
	c.keys.note(key)
	return key
}

func keyRefused(err error) bool {
	var api *APIError
	return errors.As(err, &api) && (api.Status == http.StatusUnauthorized || api.Status == http.StatusForbidden)
}

// keyLook is how often a wait after a refused key looks for a newer one.
const keyLook = time.Second

// maxKeyWait bounds the wait after a refused key if the key may change while relay runs.
const maxKeyWait = 30 * time.Second

// sleepForKey waits for d, or until there is another key than the one that was refused.
func (c *Client) sleepForKey(ctx context.Context, d time.Duration) error {
	refused := c.key(false)
	for until := time.Now().Add(d); time.Until(until) > 0; {
		if err := retry.Sleep(ctx, min(keyLook, time.Until(until))); err != nil {
			return err
		}
		if c.key(true) != refused {
			return ctx.Err()
		}
	}
	return ctx.Err()
}
