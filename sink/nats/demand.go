package nats

import (
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// demand is what a stream must have, or what it lacks of that.
type demand struct {
	subjects []string // bound
	atomic   bool     // takes atomic batches with a position in them
}

// lacking is the part of d that a stream of this configuration does not meet.
func (d demand) lacking(conf jetstream.StreamConfig) demand {
	return demand{subjects: unbound(conf.Subjects, d.subjects), atomic: d.atomic && !takesPositions(conf)}
}

// takesPositions: batches, the roll-up that lets the next position take the place of the last, and
// the TTL that keeps it from
// expiring.
func takesPositions(conf jetstream.StreamConfig) bool {
	return conf.AllowAtomicPublish && conf.AllowRollup && conf.AllowMsgTTL
}

func (d demand) nothing() bool { return len(d.subjects) == 0 && !d.atomic }

// position reports whether the subject of a position is in d.
func (d demand) position() bool {
	return slices.ContainsFunc(d.subjects, func(s string) bool { return matches(positionSubjects, s) })
}

// added is conf with what d says.
func (d demand) added(conf jetstream.StreamConfig) jetstream.StreamConfig {
	conf.Subjects = slices.Concat(conf.Subjects, d.subjects)
	if d.atomic {
		conf.AllowAtomicPublish, conf.AllowRollup, conf.AllowMsgTTL = true, true, true
	}
	return conf
}

// String is for people.
func (d demand) String() string {
	var parts []string
	if len(d.subjects) > 0 {
		parts = append(parts, "the subjects "+strings.Join(d.subjects, ", "))
	}
	if d.atomic {
		parts = append(parts, "allow_atomic, allow_rollup_hdrs and allow_msg_ttl")
	}
	return strings.Join(parts, ", and ")
}

// command adds what d says to the stream with the nats tool, whose --subjects replaces the list.
func (d demand) command(conf jetstream.StreamConfig) string {
	c := "nats stream edit " + conf.Name
	if d.atomic {
		c += " --allow-batch --allow-rollup --allow-msg-ttl"
	}
	if len(d.subjects) > 0 {
		c += " --subjects='" + strings.Join(slices.Concat(conf.Subjects, d.subjects), ",") + "'"
	}
	return c
}
