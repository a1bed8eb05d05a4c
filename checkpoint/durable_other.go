//go:build !unix

package checkpoint

// syncFolder does nothing where a folder cannot be synced. NTFS journals the names in it.
func syncFolder(string) error { return nil }
