// Package common holds the type that the events package of WorkOS's Go SDK takes from a package of
// this name, so that a program written for the SDK compiles after a change of its import paths.
package common

// ListMetadata holds the cursors of a page. A cursor is empty if the API says null.
type ListMetadata struct {
	Before string `json:"before"`
	After  string `json:"after"`
}
