package kafka

import (
	"fmt"
	"sort"
	"strings"
)

// maxTopicName is the longest topic name that Kafka takes: a partition's folder carries it.
const maxTopicName = 249

// illegalTopicName says why name is not a legal topic name in Kafka, or returns "".
func illegalTopicName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case name == "." || name == "..":
		return `is "." or "..", which Kafka does not allow`
	case len(name) > maxTopicName:
		return fmt.Sprintf("has %d characters; Kafka allows %d", len(name), maxTopicName)
	}
	return illegalTopicCharacters(name)
}

func illegalTopicCharacters(name string) string {
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return fmt.Sprintf("holds %q; Kafka allows the letters a-z and A-Z, digits, '.', '_' and '-'", r)
		}
	}
	return ""
}

// collisions returns, for each topic that has one, the other topic that differs from it only by '.'
// and '_'. Kafka's metric names do not tell the two apart, and a broker refuses to create the
// second.
func collisions(topics []string) map[string]string {
	seen := make(map[string]string, len(topics))
	found := make(map[string]string)
	sorted := append([]string(nil), topics...)
	sort.Strings(sorted)
	for _, t := range sorted {
		folded := strings.ReplaceAll(t, ".", "_")
		if other, ok := seen[folded]; ok && other != t {
			found[t], found[other] = other, t
			continue
		}
		seen[folded] = t
	}
	return found
}
