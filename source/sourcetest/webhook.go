package sourcetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"time"
)

// SignWebhook returns the value of the WorkOS-Signature header for a webhook body sent at t:
// "t=<Unix milliseconds>, v1=<hex of HMAC-SHA256(secret, t + "." + body)>".
// Source: https://workos.com/docs/events/data-syncing/webhooks
func SignWebhook(secret string, t time.Time, body []byte) string {
	ms := strconv.FormatInt(t.UnixMilli(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(ms + "."))
	mac.Write(body)
	return "t=" + ms + ", v1=" + hex.EncodeToString(mac.Sum(nil))
}
