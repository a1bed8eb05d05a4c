//go:build !unix

package checkpoint

// syncDir does nothing on systems that cannot sync a directory. NTFS journals the names in it.
func syncDir(string) error { return nil }
