package testrun

import (
	"time"

	"workos-relay/internal/listener"
)

// PatientListeners makes the HTTP servers of relay in the calling test binary wait minutes for a
// client instead of seconds. Otherwise a machine that stands still for a few seconds between the
// connection and the request makes them cut off the test. Connections without a request end as soon
// as ever: each command of a test leaves one, and a server takes no more than a number of them.
// Call it first in TestMain.
func PatientListeners() {
	for _, l := range []*listener.Limits{&listener.Admin, &listener.Webhooks} {
		l.HeaderTime, l.ReadTime, l.WriteTime = patient, patient, patient
	}
}

const patient = 3 * time.Minute
