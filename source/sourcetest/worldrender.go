package sourcetest

import (
	"strconv"
	"strings"
)

// data returns the object in the shape that the data of its events have.
func (o *object) data() []byte {
	b := make([]byte, 0, 512)
	switch o.entity {
	case organizationRole:
		b = append(b, `{"object":"organization_role","organization_id":"`+o.org+`",`...)
		b = o.roleFields(b)
	case role:
		b = append(b, `{"object":"role","slug":"`+o.slug+`","resource_type_slug":"organization","permissions":["posts:read"],`...)
	default:
		b = append(b, `{"object":"`+o.entity+`","id":"`+o.id+`",`...)
		b = o.fields(b)
	}
	return o.times(b)
}

// listed returns a role as a list has it.
func (o *object) listed() []byte {
	b := []byte(`{"object":"role","id":"` + o.id + `","type":"EnvironmentRole",`)
	if o.entity == organizationRole {
		b = []byte(`{"object":"role","id":"` + o.id + `","type":"OrganizationRole",`)
	}
	return o.times(o.roleFields(b))
}

func (o *object) roleFields(b []byte) []byte {
	return append(b, `"slug":"`+o.slug+`","name":"`+pickBy(o.n, jobs)+" "+strconv.Itoa(o.version)+
		`","description":null,"resource_type_slug":"organization","permissions":["posts:read"],`...)
}

func (o *object) times(b []byte) []byte {
	b = appendTime(append(b, `"created_at":"`...), o.created)
	b = appendTime(append(b, `","updated_at":"`...), o.updated)
	return append(b, `"}`...)
}

// fields appends the members between the id and the times.
func (o *object) fields(b []byte) []byte {
	first, last := pickBy(o.n, firstNames), pickBy(o.n>>16, lastNames)
	version, digits := strconv.Itoa(o.version), strconv.FormatUint(o.n|1<<63, 10)
	address := first.login + "." + last.login + digits[:9] + "@" + pickBy(o.n>>24, domains)
	lit := func(parts ...string) {
		for _, p := range parts {
			b = append(b, p...)
		}
	}
	switch o.entity {
	case organization:
		lit(`"name":"`, pickBy(o.n, orgNames), ` `, version, `","domains":[],"metadata":{"plan":"`, pickBy(o.n>>8, plans), `"},"external_id":null,`)
	case user:
		lit(`"first_name":"`, first.text, `","last_name":"`, last.text, `","name":null,"email":"`, address,
			`","email_verified":true,"profile_picture_url":null,"external_id":"`, digits, `","last_sign_in_at":null,"locale":"`, pickBy(o.n>>32, locales),
			`","metadata":{"changes":"`, version, `"},`)
	case organizationMembership:
		lit(`"user_id":"`, o.user, `","organization_id":"`, o.org, `","status":"`, o.status(),
			`","role":{"slug":"`, pickBy(o.n+uint64(o.version), roles), `"},"custom_attributes":{},"directory_managed":false,`)
	case connection:
		lit(`"organization_id":"`, o.org, `","external_key":"`, digits, `","connection_type":"OktaSAML","name":"`, pickBy(o.n, orgNames), `","state":"`,
			[2]string{"active", "inactive"}[o.version%2], `","status":"`, [2]string{"linked", "unlinked"}[o.version%2], `","domains":[],`)
	case directory:
		lit(`"organization_id":"`, o.org, `","external_key":"`, digits, `","type":"okta scim v2.0","state":"active","name":"`, pickBy(o.n, orgNames), `","domains":[],`)
	case directoryGroup:
		lit(`"idp_id":"`, digits, `","directory_id":"`, o.dir, `","organization_id":"`, o.org, `","name":"`, pickBy(o.n, departments), ` `, version, `","raw_attributes":{},`)
	case directoryUser:
		lit(`"directory_id":"`, o.dir, `","organization_id":"`, o.org, `","idp_id":"`, digits, `","email":"`, address, `","first_name":"`, first.text,
			`","last_name":"`, last.text, `","job_title":"`, pickBy(o.n>>8+uint64(o.version), jobs), `","username":"`, first.login,
			`","emails":[{"primary":true,"type":"work","value":"`, address, `"}],"state":"`, [2]string{"active", "suspended"}[o.version/3%2],
			`","custom_attributes":{"department":"`, pickBy(o.n>>40, departments), `","employee_number":`, digits, `,"fte":1.0E+0,"changes":`, version,
			`},"raw_attributes":{"userName":"`, first.login, `","badge":`, digits, strings.Repeat("7", 5), `},"role":{"slug":"`, pickBy(o.n>>48, roles), `"},`)
	}
	return b
}

// status is that of an organization membership.
func (o *object) status() string {
	return [3]string{"active", "inactive", "pending"}[(o.n%3+uint64(o.version))%3]
}

// membershipData is the data of an event about a member of a group.
func membershipData(group, member *object) []byte {
	b := append([]byte(`{"directory_id":"`+group.dir+`","user":`), member.data()...)
	b = append(append(b, `,"group":`...), group.data()...)
	return append(b, '}')
}
