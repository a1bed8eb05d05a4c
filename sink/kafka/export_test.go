package kafka

// What the tests of whole lanes, which are outside of the package since they need the pipeline,
// share with those inside.
var (
	Fake        = fake
	RealBrokers = realBrokers
	UniqueLane  = uniqueLane
	Reader      = reader
	Ends        = ends
	Within      = within
	CleaningUp  = cleaningUp
	RealCluster = newRealCluster

	NewCuttingListener = newCuttingListener
	MoveLeaders        = moveLeaders
)

const Patient = patient
