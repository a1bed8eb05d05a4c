package sink

import (
	"slices"
	"strings"
)

// A topic that relay chooses for each event by the event's content stands among the topics of a
// lane as a pattern: tokens between dots, of which * stands for any one, and > at the end for one
// or more. No topic that a message goes to has either.

// IsPattern reports whether topic is a pattern.
func IsPattern(topic string) bool { return strings.ContainsAny(topic, "*>") }

// Matches reports whether a pattern, or a topic, stands for topic. If topic is a pattern too,
// Matches reports whether pattern stands for every topic that topic stands for.
func Matches(pattern, topic string) bool {
	for {
		p, restP, moreP := strings.Cut(pattern, ".")
		if p == ">" {
			return true
		}
		t, restT, moreT := strings.Cut(topic, ".")
		if t == ">" || p != "*" && p != t {
			return false
		}
		if !moreP || !moreT {
			return moreP == moreT
		}
		pattern, topic = restP, restT
	}
}

// HasTopic reports whether one of topics, which may be patterns, stands for topic.
func HasTopic(topics []string, topic string) bool {
	return slices.ContainsFunc(topics, func(t string) bool { return Matches(t, topic) })
}

// PatternSettings is implemented by Settings of a bus on which topics can be patterns.
type PatternSettings interface {
	// TakesPatterns returns why a lane with these settings cannot have topics that are patterns;
	// nil if it can. The text completes "routes[0].topic has placeholders, and ".
	TakesPatterns() error
}
