package config

// unavailableKeys are what the design names and this version does not do yet. They are not declared, and refused by name, so that
// nobody relies on what is not there; remove a line when its code has landed. Lists are written without an index: sinks[].key.
var unavailableKeys = map[string]string{
	"source.backfill": "reading the backlog with several readers is not available in this version",
	"source.webhook":  "waking up by webhook is not available in this version",
}
