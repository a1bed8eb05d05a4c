package sink

import (
	"context"
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

// Overlap reports whether there is a topic that both patterns, or topics, stand for.
func Overlap(a, b string) bool {
	for {
		x, restX, moreX := strings.Cut(a, ".")
		y, restY, moreY := strings.Cut(b, ".")
		if x == ">" || y == ">" {
			return true
		}
		if x != "*" && y != "*" && x != y {
			return false
		}
		if !moreX || !moreY {
			return moreX == moreY
		}
		a, b = restX, restY
	}
}

// TopicMaker is a Sink or a Ledger that creates topics of patterns while it publishes, each before
// the first message that needs it. It is optional.
type TopicMaker interface {
	// OnTopics sets a function that is called with such topics, once they exist and before anything
	// is stored in them. If it returns an error, nothing is stored there, and the function is
	// called again with the next attempt. It may also be called with topics that existed before.
	OnTopics(note func(ctx context.Context, topics []string) error)
}

// PatternSettings is implemented by Settings of a bus on which topics can be patterns.
type PatternSettings interface {
	// TakesPatterns returns why a lane with these settings cannot have topics that are patterns;
	// nil if it can. The text completes "routes[0].topic has placeholders, and ".
	TakesPatterns() error
}
