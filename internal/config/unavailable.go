package config

// What the design names and this version does not do yet. It is refused by name, so that nobody relies on what is not there;
// remove a line when its code has landed and its keys are declared.
var (
	// unavailableKeys are not declared. Lists are written without an index: sinks[].key.
	unavailableKeys = map[string]string{
		"source.backfill": "reading the backlog with several readers is not available in this version",
		"source.webhook":  "waking up by webhook is not available in this version",
	}
	// unavailableValues are values missing from the enum of their key.
	unavailableValues = map[string]map[string]string{
		"delivery":         {"exactly_once": "exactly_once is not available in this version"},
		"sinks[].delivery": {"exactly_once": "exactly_once is not available in this version"},
	}
)
