package sourcetest

import (
	"strings"
	"time"

	"workos-relay/source"
)

// Generator renders the events of a Population. It is safe for concurrent use, holds no events, and
// renders each one from its index alone.
type Generator struct {
	seed uint64
	tl   timeline
	orgs []string // organization ids
}

// NewGenerator returns a Generator for p. It is for who wants the events themselves, to hand them
// to Server.Append or to compare; a Server takes the Population directly.
func NewGenerator(p Population) *Generator {
	if p.Start.IsZero() {
		p.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	g := &Generator{seed: p.Seed, tl: newTimeline(p)}
	n := p.Organizations
	if n <= 0 {
		n = 40
	}
	for k := range n {
		g.orgs = append(g.orgs, string(g.appendEntity(nil, "org_", uint64(k))))
	}
	return g
}

// Len returns the number of events.
func (g *Generator) Len() int { return g.tl.n }

// Event returns the JSON of event n, from 0 to Len()-1, in the order of the list.
func (g *Generator) Event(n int) []byte { return g.appendEvent(nil, n, g.tl.ms(n)) }

// CreatedAt returns the time of event n.
func (g *Generator) CreatedAt(n int) time.Time { return time.UnixMilli(g.tl.ms(n)).UTC() }

// ID returns the id of event n.
func (g *Generator) ID(n int) string { return string(g.appendID(nil, n, g.tl.ms(n))) }

const eventPrefix = "event_"

// appendID appends an event's id: a ULID whose random part begins with the index in 40 bits, so
// that ids ascend within one millisecond and an index is found again from its id without a table.
func (g *Generator) appendID(b []byte, n int, ms int64) []byte {
	u := uint64(n)
	return appendULID(append(b, eventPrefix...), ms, uint16(u>>24), u<<40|mix(g.seed, u, 2)>>24)
}

// index finds the event of an id.
func (g *Generator) index(id string) (int, bool) {
	rest, ok := strings.CutPrefix(id, eventPrefix)
	if !ok {
		return 0, false
	}
	ms, hi, lo, ok := parseULID(rest)
	if !ok {
		return 0, false
	}
	u := uint64(hi)<<24 | lo>>40
	if u >= uint64(g.tl.n) || g.tl.ms(int(u)) != ms || mix(g.seed, u, 2)>>24 != lo&(1<<40-1) {
		return 0, false
	}
	return int(u), true
}

// appendEntity appends the id of an organization, user, directory...: the same for the same prefix
// and number.
func (g *Generator) appendEntity(b []byte, prefix string, k uint64) []byte {
	const y2025 = 1735689600000
	h := mix(g.seed, k, uint64(len(prefix))<<8|uint64(prefix[0]))
	return appendULID(append(b, prefix...), y2025+int64(h%(300*24*3600*1000)), uint16(h>>48), mix(h, k, 3))
}

// Events come in blocks: the first sync of a new customer's directory, a nightly re-sync, or
// everyday life in scenes of four.
const (
	blockLen = 128
	sceneLen = 4
	people   = 5000
)

type blockKind uint8

const (
	everyday blockKind = iota
	onboarding
	resync
)

func (g *Generator) block(n int) (kind blockKind, h uint64) {
	b := uint64(n / blockLen)
	h = mix(g.seed, b, 4)
	switch {
	case b == 0 || h%8 == 0:
		return onboarding, h
	case h%8 == 1:
		return resync, h
	}
	return everyday, h
}

// event is what is known of an event before it is rendered.
type event struct {
	typ  uint8 // index in the catalogue
	org  int   // index in Generator.orgs of the organization concerned
	user int   // whom a scene is about
	h    uint64
}

func (g *Generator) plan(n int) event {
	kind, bh := g.block(n)
	pos := n % blockLen
	h := mix(g.seed, uint64(n), 5)
	switch kind {
	case onboarding:
		return event{typ: onboardingTypes[pos], org: int(bh >> 8 % uint64(len(g.orgs))), user: pos, h: h}
	case resync:
		return event{typ: resyncTypes[h%uint64(len(resyncTypes))], org: int(bh >> 8 % uint64(len(g.orgs))), user: int(h >> 32 % 80), h: h}
	default:
		sh := mix(bh, uint64(pos/sceneLen), 6)
		user := int(sh >> 16 % people)
		e := event{org: user % len(g.orgs), user: user, h: h}
		if i := int(sh % uint64(len(scenes)+1)); i < len(scenes) {
			e.typ = scenes[i][pos%sceneLen]
		} else {
			e.typ = defaultTypes[h%uint64(len(defaultTypes))]
		}
		return e
	}
}

// orgOf returns the index of the organization that a filter by organization finds event e under,
// and whether there is one.
func (g *Generator) orgOf(e event) (int, bool) {
	return e.org, typePrograms()[e.typ].namesOrganization(e)
}

// eventTypes is source.Catalogue; an event type is known here by its index in it.
var eventTypes = source.Catalogue()

var catalogueIndex = func() map[string]uint8 {
	m := make(map[string]uint8, len(eventTypes))
	for i, t := range eventTypes {
		m[t.Name] = uint8(i)
	}
	return m
}()

var defaultTypes = func() (out []uint8) {
	for i, t := range eventTypes {
		if t.Default {
			out = append(out, uint8(i))
		}
	}
	return out
}()

func typesOf(names ...string) []uint8 {
	out := make([]uint8, 0, len(names))
	for _, name := range names {
		i, ok := catalogueIndex[name]
		if !ok {
			panic("sourcetest: " + name + " is missing from source.Catalogue")
		}
		out = append(out, i)
	}
	return out
}

func repeat(name string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = name
	}
	return out
}

func concat(lists ...[]string) (out []string) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

var (
	onboardingTypes = typesOf(concat(
		[]string{"organization.created", "organization_domain.created", "organization_domain.verified", "connection.activated", "dsync.activated"},
		repeat("dsync.group.created", 6),
		repeat("dsync.user.created", 80),
		repeat("dsync.group.user_added", blockLen-91),
	)...)
	resyncTypes = typesOf(concat(
		repeat("dsync.user.updated", 11),
		repeat("dsync.group.user_added", 4),
		repeat("dsync.group.user_removed", 3),
		repeat("dsync.group.updated", 1),
		repeat("dsync.user.deleted", 1),
	)...)
	scenes = [][]uint8{
		typesOf("authentication.sso_started", "authentication.sso_succeeded", "session.created", "user.updated"),
		typesOf("authentication.sso_started", "authentication.sso_succeeded", "session.created", "session.revoked"),
		typesOf("authentication.password_failed", "authentication.password_succeeded", "session.created", "session.revoked"),
		typesOf("authentication.oauth_succeeded", "session.created", "organization_membership.updated", "user.updated"),
		typesOf("magic_auth.created", "authentication.magic_auth_succeeded", "session.created", "session.revoked"),
		typesOf("user.created", "email_verification.created", "authentication.email_verification_succeeded", "organization_membership.created"),
		typesOf("invitation.created", "invitation.accepted", "user.created", "organization_membership.created"),
		typesOf("password_reset.created", "password_reset.succeeded", "authentication.password_succeeded", "session.created"),
		typesOf("organization.updated", "role.updated", "api_key.created", "flag.updated"),
	}
)

// burstShare is the share of events in onboarding and resync blocks, which come in bursts.
const burstShare = 0.25
