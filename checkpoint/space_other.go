//go:build !linux

package checkpoint

// hasSpace cannot tell on this system.
func hasSpace(string) error { return nil }
