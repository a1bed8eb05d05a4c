package sourcetest

import (
	"strconv"
	"strings"
)

type orgPlace uint8

const (
	orgNone  orgPlace = iota
	orgField          // data.organization_id
	orgSelf           // data.id of an organization
	orgSSO            // data.sso.organization_id
	orgUser           // data.user.organization_id
)

type payload func(r *renderer)

// traits say how events of a type are rendered and where their organization stands.
type traits struct {
	org     orgPlace
	payload payload
}

var typeTraits = func() []traits {
	out := make([]traits, len(catalogue))
	for i, t := range catalogue {
		out[i] = traitsOf(t.Name)
	}
	return out
}()

// traitsOf follows the payloads shown in WorkOS's event reference: https://workos.com/docs/events
func traitsOf(name string) traits {
	switch objectOf(name) {
	case "directory_user":
		return traits{orgField, (*renderer).directoryUser}
	case "directory_group":
		if strings.Contains(name, ".user_") {
			return traits{orgUser, (*renderer).groupMembership}
		}
		return traits{orgField, (*renderer).directoryGroup}
	case "directory":
		return traits{orgField, (*renderer).directory}
	case "authentication":
		if strings.Contains(name, ".sso_") {
			return traits{orgSSO, (*renderer).authentication}
		}
		return traits{orgNone, (*renderer).authentication}
	case "session":
		return traits{orgField, (*renderer).session}
	case "user":
		return traits{orgNone, (*renderer).user}
	case "organization":
		return traits{orgSelf, (*renderer).organization}
	case "organization_domain":
		return traits{orgField, (*renderer).organizationDomain}
	case "organization_membership":
		return traits{orgField, (*renderer).organizationMembership}
	case "connection":
		return traits{orgField, (*renderer).connection}
	case "invitation":
		return traits{orgField, (*renderer).invitation}
	case "magic_auth", "email_verification", "password_reset":
		return traits{orgNone, (*renderer).oneTimeToken}
	case "organization_role", "group", "connected_account", "agent_registration":
		return traits{orgField, (*renderer).resource}
	}
	return traits{orgNone, (*renderer).resource}
}

// objectOf returns data.object of an event type.
func objectOf(name string) string {
	object := name[:strings.LastIndexByte(name, '.')]
	switch {
	case strings.HasPrefix(name, "agent.registration."):
		return "agent_registration"
	case object == "dsync":
		return "directory"
	case strings.HasPrefix(object, "dsync."):
		return "directory_" + object[len("dsync."):]
	}
	return object[strings.LastIndexByte(object, '.')+1:]
}

// renderer appends the JSON of one event. Values it is given need no escaping.
type renderer struct {
	b     []byte
	g     *Generator
	e     event
	name  string
	ms    int64
	r     rng
	place orgPlace
}

// appendEvent appends the JSON of event n as created at ms.
func (g *Generator) appendEvent(b []byte, n int, ms int64) []byte {
	r := renderer{b: b, g: g}
	r.event(n, n, ms)
	return r.b
}

// event appends the JSON of what event n is about, with the id that belongs to number and ms. A renderer used for several events in turn saves an allocation each.
func (r *renderer) event(n, number int, ms int64) {
	e := r.g.plan(n)
	t := &typeTraits[e.typ]
	r.e, r.name, r.place, r.ms, r.r = e, catalogue[e.typ].Name, t.org, ms, rng(e.h)
	r.lit(`{"object":"event","id":"`)
	r.b = r.g.appendID(r.b, number, ms)
	r.lit(`","event":"`, r.name, `","data":{`)
	t.payload(r)
	r.lit(`}`)
	r.time("created_at", ms)
	switch e.h >> 40 % 8 {
	case 0:
		r.lit(`,"context":{}`)
	case 1:
		r.lit(`,"context":{"google_analytics_client_id":"`)
		r.digits(10)
		r.lit(`.17"},"schema_revision":3`)
	}
	r.lit(`}`)
}

func (r *renderer) lit(parts ...string) {
	for _, s := range parts {
		r.b = append(r.b, s...)
	}
}

// The methods below append a member with a comma before it; the first member of an object is written with lit.

func (r *renderer) time(key string, ms int64) {
	r.lit(`,"`, key, `":"`)
	r.b = appendTime(r.b, ms)
	r.lit(`"`)
}

func (r *renderer) str(key, value string) { r.lit(`,"`, key, `":"`, value, `"`) }

func (r *renderer) id(key, prefix string, k uint64) {
	r.lit(`,"`, key, `":"`)
	r.b = r.g.appendEntity(r.b, prefix, k)
	r.lit(`"`)
}

func (r *renderer) orgID() { r.str("organization_id", r.g.orgs[r.e.org]) }

func (r *renderer) digits(n int) {
	h := r.r.next()
	r.b = append(r.b, '1'+byte(h%9))
	for i := range n - 1 {
		h /= 10
		if i%17 == 16 {
			h = r.r.next()
		}
		r.b = append(r.b, '0'+byte(h%10))
	}
}

func (r *renderer) times() {
	updated := r.ms - int64(r.e.h%40)
	created := updated
	if !strings.HasSuffix(r.name, ".created") {
		created -= int64(r.e.h>>20%1000) * 86_400
	}
	r.time("created_at", created)
	r.time("updated_at", updated)
}

// person is the one that the event is about; the same user has the same name in each event.
func (r *renderer) person() (first, last name) {
	h := mix(r.g.seed, uint64(r.e.user)*uint64(len(r.g.orgs))+uint64(r.e.org), 7)
	return firstNames[h%uint64(len(firstNames))], lastNames[h>>16%uint64(len(lastNames))]
}

// login appends the bare user name of the person.
func (r *renderer) login() {
	first, last := r.person()
	r.lit(first.login, ".", last.login)
	r.b = strconv.AppendInt(r.b, int64(r.e.user), 10)
}

func (r *renderer) domain() string { return domains[r.e.org%len(domains)] }

func (r *renderer) email(key string) {
	r.lit(`,"`, key, `":"`)
	r.login()
	r.lit(`@`, r.domain(), `"`)
}

// member numbers the directory user within all organizations.
func (r *renderer) member() uint64 { return uint64(r.e.org)<<32 | uint64(r.e.user) }

func (r *renderer) verb() string { return r.name[strings.LastIndexByte(r.name, '.')+1:] }
