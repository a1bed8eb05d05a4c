package page_test

import (
	"os"
	"testing"

	"workos-relay/internal/testrun"
)

func TestMain(m *testing.M) {
	testrun.PatientListeners()
	os.Exit(m.Run())
}
