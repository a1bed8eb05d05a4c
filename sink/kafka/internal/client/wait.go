package client

import (
	"time"

	"workos-relay/internal/retry"
)

// Retries is how long to wait after failures in a row of a request.
var Retries = retry.Backoff{First: 50 * time.Millisecond, Most: 2 * time.Second}
