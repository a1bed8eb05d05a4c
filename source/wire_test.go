package source_test

import (
	"slices"
	"strings"
	"testing"

	"workos-relay/source/sourcetest"
)

// overWire reports whether the test reaches the API over TLS and HTTP/2 instead of by function
// calls, as all tests do that TestTheKitOverHTTP2 runs.
func overWire(t *testing.T) bool { return strings.HasPrefix(t.Name(), "TestTheKitOverHTTP2/") }

// wire serves srv over TLS and HTTP/2 in memory until the test ends.
func wire(t *testing.T, srv *sourcetest.Server) *sourcetest.Wire {
	t.Helper()
	w := srv.Wire()
	t.Cleanup(w.Close)
	return w
}

// TestTheKitOverHTTP2 runs every test that uses a sourcetest.Server once more over TLS and HTTP/2.
func TestTheKitOverHTTP2(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"EveryFaultIsSurvived":                  TestEveryFaultIsSurvived,
		"RandomFaultsInARow":                    TestRandomFaultsInARow,
		"EachLostCursor":                        TestEachLostCursor,
		"RepeatedEventsAreLeftOut":              TestRepeatedEventsAreLeftOut,
		"SilenceIsNoLostCursor":                 TestSilenceIsNoLostCursor,
		"WireFormsAreUnderstood":                TestWireFormsAreUnderstood,
		"FiltersAndTimes":                       TestFiltersAndTimes,
		"DescendingIsRefused":                   TestDescendingIsRefused,
		"TheOwnLimitKeepsUnderTheAPIs":          TestTheOwnLimitKeepsUnderTheAPIs,
		"PagesByTimeAreNotTrusted":              TestPagesByTimeAreNotTrusted,
		"APageByTimeIsCheckedAtEverySeam":       TestAPageByTimeIsCheckedAtEverySeam,
		"BackfillOfADisorderedList":             TestBackfillOfADisorderedList,
		"BackfillWithoutRanges":                 TestBackfillWithoutRanges,
		"APassingRefusalEndsNoBackfill":         TestAPassingRefusalEndsNoBackfill,
		"ABackfillsClockIsRight":                TestABackfillsClockIsRightAfterASlowConsumer,
		"BackfillCostsLittleMoreThanThePages":   TestBackfillCostsLittleMoreThanThePages,
		"MemoryIsBoundedWhenTheHeadIsSlow":      TestMemoryIsBoundedWhenTheHeadIsSlow,
		"TheCursorIsLostInABackfill":            TestTheCursorIsLostInABackfill,
		"ATypeIsRefusedInABackfill":             TestATypeIsRefusedInABackfill,
		"BackfillGivesWayTo429":                 TestBackfillGivesWayTo429,
		"AfterABackfillTheAPIsSilenceIsKept":    TestAfterABackfillTheAPIsSilenceIsKept,
		"LeavingABackfillLeavesNothingUnderWay": TestLeavingABackfillLeavesNothingUnderWay,
		"BackfillIsTheCursorsSequence":          TestBackfillIsTheCursorsSequence,
		"BackfillKeepsALateEvent":               TestBackfillKeepsALateEvent,
	} {
		if raceEnabled && slices.Contains(slowOverHTTP2, name) {
			continue
		}
		t.Run(name, test)
	}
}

// slowOverHTTP2 are tests that take minutes under the race detector over HTTP/2, and run there
// without HTTP/2 alone. Without the detector they run over both.
var slowOverHTTP2 = []string{
	"BackfillIsTheCursorsSequence", "BackfillKeepsALateEvent", "RepeatedEventsAreLeftOut", "EveryFaultIsSurvived", "PagesByTimeAreNotTrusted",
	"BackfillGivesWayTo429", "TheOwnLimitKeepsUnderTheAPIs", "ATypeIsRefusedInABackfill", "SilenceIsNoLostCursor",
}
