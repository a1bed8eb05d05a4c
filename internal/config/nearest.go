package config

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// nearest returns the candidate that word most likely means, or "" if none is near enough. Case
// does not count, and neither does a dash in place of an underscore.
func nearest(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	fold := strings.NewReplacer("-", "_", " ", "_")
	word = fold.Replace(strings.ToLower(word))
	best, limit := "", len(word)/3+1
	if len(word) > 3 {
		limit = max(limit, 3)
	} else {
		limit = 2
	}
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(word, fold.Replace(strings.ToLower(c))); d < limit {
			best, limit = c, d
		}
	}
	return best
}
