// Package docs holds the manual, so that the binary carries the pages of its version.
package docs

import "embed"

// Pages are the pages, as they stand in this folder.
//
//go:embed *.md
var Pages embed.FS
