package source_test

import (
	"testing"

	"workos-relay/source/sourcetest"
)

// overWire makes the tests of this package reach the API over TLS and HTTP/2 instead of by function calls. TestTheKitOverHTTP2 sets
// it; no test of this package runs in parallel.
var overWire bool

// wire serves srv over TLS and HTTP/2 in memory until the test ends.
func wire(t *testing.T, srv *sourcetest.Server) *sourcetest.Wire {
	t.Helper()
	w := srv.Wire()
	t.Cleanup(w.Close)
	return w
}

// TestTheKitOverHTTP2 runs every test that uses a sourcetest.Server once more over TLS and HTTP/2.
func TestTheKitOverHTTP2(t *testing.T) {
	overWire = true
	defer func() { overWire = false }()
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
		t.Run(name, test)
	}
}
