package testrun

import (
	"time"

	"workos-relay/internal/listener"
)

// PatientListeners makes the HTTP servers of relay in the calling test binary wait minutes for a
// client instead of seconds. Otherwise a machine that stands still for a few seconds between the
// connection and the request makes them cut off the test. Call it first in TestMain.
func PatientListeners() {
	for _, l := range []*listener.Limits{&listener.Admin, &listener.Webhooks} {
		l.HeaderTime, l.ReadTime, l.WriteTime, l.IdleTime = patient, patient, patient, patient
	}
}

const patient = 3 * time.Minute
