package sourcetest

import (
	"strconv"
	"strings"
)

// renderer appends the JSON of one event. The values that it is given need no escaping.
type renderer struct {
	b    []byte
	g    *Generator
	e    event
	name string
	ms   int64
	r    rng
}

// appendEvent appends the JSON of event n as created at ms.
func (g *Generator) appendEvent(b []byte, n int, ms int64) []byte {
	r := renderer{b: b, g: g}
	r.event(n, n, ms)
	return r.b
}

// event appends the JSON of what event n is about, with the id that belongs to number and ms. A
// renderer that is used for several events in turn saves an allocation each.
func (r *renderer) event(n, number int, ms int64) {
	e := r.g.plan(n)
	r.e, r.name, r.ms, r.r = e, eventTypes[e.typ].Name, ms, rng(e.h)
	r.lit(`{"object":"event","id":"`)
	r.b = r.g.appendID(r.b, number, ms)
	r.lit(`","event":"`, r.name, `","data":`)
	for _, s := range typePrograms()[e.typ].steps {
		s(r)
	}
	r.lit(`,"created_at":"`)
	r.b = appendTime(r.b, ms)
	r.lit(`"`)
	switch e.h >> 40 % 8 {
	case 0:
		r.lit(`,"context":{}`)
	case 1:
		r.lit(`,"context":{"google_analytics_client_id":"`)
		r.digits(10)
		r.lit(`.17","client_id":"client_`)
		r.digits(12)
		r.lit(`"}`)
	case 2:
		r.lit(`,"context":{"actor":{"id":"`)
		r.user("user_")
		r.lit(`","source":"`, pick(&r.r, actorSources), `","name":"`)
		r.fullName()
		r.lit(`"},"previous_attributes":{"seat":`)
		r.digits(19)
		r.lit(`}}`)
	}
	r.lit(`}`)
}

func (r *renderer) lit(parts ...string) {
	for _, s := range parts {
		r.b = append(r.b, s...)
	}
}

func (r *renderer) entity(prefix string, k uint64) { r.b = r.g.appendEntity(r.b, prefix, k) }

// user appends the id of the user that the event is about.
func (r *renderer) user(prefix string) { r.entity(prefix, uint64(r.e.user)) }

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

// person is the one that the event is about; the same user has the same name in each event.
func (r *renderer) person() (first, last name) {
	h := mix(r.g.seed, uint64(r.e.user)*uint64(len(r.g.orgs))+uint64(r.e.org), 7)
	return firstNames[h%uint64(len(firstNames))], lastNames[h>>16%uint64(len(lastNames))]
}

func (r *renderer) fullName() {
	first, last := r.person()
	r.lit(first.text, " ", last.text)
}

// login appends the bare user name of the person.
func (r *renderer) login() {
	first, last := r.person()
	r.lit(first.login, ".", last.login)
	r.b = strconv.AppendInt(r.b, int64(r.e.user), 10)
}

func (r *renderer) domain() string { return domains[r.e.org%len(domains)] }

func (r *renderer) email() {
	r.login()
	r.lit("@", r.domain())
}

// member numbers a user, or an object of one, within all organizations.
func (r *renderer) member() uint64 { return uint64(r.e.org)<<32 | uint64(r.e.user) }

const (
	hourMS = 3_600_000
	dayMS  = 24 * hourMS
)

// moment appends a time, by the name of its field.
func moment(field string) part {
	return func(r *renderer) {
		updated := r.ms - int64(r.e.h%40)
		at := updated
		switch {
		case field == "created_at" && !strings.HasSuffix(r.name, ".created"):
			at -= int64(r.e.h>>20%1000) * 86_400
		case field == "expires_at", field == "expiry_date":
			at += 72 * hourMS
		case strings.HasPrefix(field, "last_"):
			at -= hourMS
		}
		r.b = appendTime(r.b, at)
	}
}

// freeForm appends an object whose members no schema names. Numbers beyond 2^53 and beyond 64 bits,
// and one in exponent form, are what decoding into float64 would alter.
func freeForm(field string) part {
	switch field {
	case "raw_attributes":
		return (*renderer).rawAttributes
	case "custom_attributes":
		return func(r *renderer) {
			r.lit(`{"department":"`, pick(&r.r, departments), `","employee_number":`)
			r.digits(19)
			r.lit(`,"cost_center":"CC-`)
			r.digits(5)
			r.lit(`","fte":1.0E+0}`)
		}
	case "previous_attributes":
		return func(r *renderer) {
			r.lit(`{"name":"`, pick(&r.r, departments), ` (old)","custom_attributes":{"department":null}}`)
		}
	default: // members are strings
		return func(r *renderer) {
			r.lit(`{"plan":"`, pick(&r.r, plans), `","account_number":"`)
			r.digits(18)
			r.lit(`"}`)
		}
	}
}

func (r *renderer) rawAttributes() {
	first, last := r.person()
	r.lit(`{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User","urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],"externalId":"`)
	r.digits(20)
	r.lit(`","userName":"`)
	r.login()
	r.lit(`","name":{"givenName":"`, first.text, `","familyName":"`, last.text, `","formatted":"`, first.text, ` `, last.text, `"},"title":"`,
		pick(&r.r, jobs), `","locale":"`, pick(&r.r, locales), `","active":true,"badge":`)
	r.digits(24)
	r.lit(`,"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"employeeNumber":`)
	r.digits(17)
	r.lit(`,"manager":{"value":"`)
	r.digits(9)
	r.lit(`","displayName":null}},"groups":[`)
	for i := range r.r.intn(4) {
		if i > 0 {
			r.lit(`,`)
		}
		r.lit(`{"value":"`)
		r.digits(12)
		r.lit(`","display":"`, departments[(r.e.user+i)%len(departments)], `"}`)
	}
	r.lit(`]}`)
}
