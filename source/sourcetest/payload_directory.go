package sourcetest

import "strconv"

func (r *renderer) directory() {
	r.lit(`"object":"directory"`)
	r.id("id", "directory_", uint64(r.e.org))
	r.orgID()
	r.lit(`,"external_key":"`)
	r.digits(14)
	r.lit(`"`)
	r.str("type", "okta scim v2.0")
	r.str("name", orgNames[r.e.org%len(orgNames)]+` directory`)
	state := "active"
	if r.verb() == "deleted" {
		state = "deleting"
	}
	r.str("state", state)
	r.lit(`,"domains":[{"object":"organization_domain"`)
	r.id("id", "org_domain_", uint64(r.e.org))
	r.str("domain", r.domain())
	r.lit(`}]`)
	r.times()
}

func (r *renderer) directoryUser() {
	r.directoryUserBody()
	r.lit(`,"role":{"slug":"`, pick(&r.r, roles), `"}`)
	if r.verb() == "updated" {
		r.lit(`,"previous_attributes":{"job_title":"`, pick(&r.r, jobs), `","custom_attributes":{"department":null}}`)
	}
}

func (r *renderer) directoryUserBody() {
	first, last := r.person()
	r.lit(`"object":"directory_user"`)
	r.id("id", "directory_user_", r.member())
	r.id("directory_id", "directory_", uint64(r.e.org))
	r.orgID()
	r.lit(`,"idp_id":"`)
	r.digits(9)
	r.lit(`","emails":[{"primary":true,"type":"work","value":"`)
	r.login()
	r.lit(`@`, r.domain(), `"}]`)
	r.email("email")
	r.str("first_name", first.text)
	r.str("last_name", last.text)
	job := pick(&r.r, jobs)
	r.str("job_title", job)
	r.email("username")
	state := "active"
	if r.verb() == "deleted" {
		state = "inactive"
	}
	r.str("state", state)
	// Numbers beyond 2^53 and beyond 64 bits, and one in exponent form: what decoding into float64 would alter.
	r.lit(`,"custom_attributes":{"department":"`, pick(&r.r, departments), `","employee_number":`)
	r.digits(19)
	r.lit(`,"cost_center":"CC-`)
	r.digits(5)
	r.lit(`","fte":1.0E+0},"raw_attributes":{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User",`,
		`"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],"externalId":"`)
	r.digits(20)
	r.lit(`","userName":"`)
	r.login()
	r.lit(`","name":{"givenName":"`, first.text, `","familyName":"`, last.text, `","formatted":"`, first.text, ` `, last.text, `"},"title":"`, job,
		`","locale":"`, pick(&r.r, locales), `","active":true,"badge":`)
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
	r.times()
}

func (r *renderer) directoryGroup() {
	k := r.e.user % len(departments)
	r.lit(`"object":"directory_group"`)
	r.id("id", "directory_group_", uint64(r.e.org)<<32|uint64(k))
	r.lit(`,"idp_id":"`)
	r.digits(12)
	r.lit(`"`)
	r.id("directory_id", "directory_", uint64(r.e.org))
	r.orgID()
	r.str("name", departments[k])
	r.lit(`,"raw_attributes":{"displayName":"`, departments[k], `","meta":{"version":`)
	r.digits(22)
	r.lit(`},"members":[`)
	for i := range 3 + r.r.intn(6) {
		if i > 0 {
			r.lit(`,`)
		}
		r.lit(`{"value":"`)
		r.digits(12)
		r.lit(`"}`)
	}
	r.lit(`]}`)
	r.times()
	if r.verb() == "updated" {
		r.lit(`,"previous_attributes":{"name":"`, departments[k], ` (old)"}`)
	}
}

func (r *renderer) groupMembership() {
	r.lit(`"directory_id":"`)
	r.b = r.g.appendEntity(r.b, "directory_", uint64(r.e.org))
	r.lit(`","user":{`)
	r.directoryUserBody()
	r.lit(`},"group":{`)
	r.directoryGroup()
	r.lit(`}`)
}

func (r *renderer) organization() {
	r.lit(`"object":"organization"`)
	r.str("id", r.g.orgs[r.e.org])
	r.str("name", orgNames[r.e.org%len(orgNames)])
	r.lit(`,"domains":[{"object":"organization_domain"`)
	r.id("id", "org_domain_", uint64(r.e.org))
	r.str("domain", r.domain())
	r.orgID()
	r.lit(`,"state":"verified","verification_strategy":"dns"}],"allow_profiles_outside_organization":false,"stripe_customer_id":null,"external_id":"`,
		strconv.Itoa(r.e.org), `","metadata":{"plan":"`, pick(&r.r, plans), `","account_number":"`)
	r.digits(18)
	r.lit(`"}`)
	r.times()
}

func (r *renderer) organizationDomain() {
	r.lit(`"object":"organization_domain"`)
	r.id("id", "org_domain_", uint64(r.e.org))
	r.orgID()
	r.str("domain", r.domain())
	state := "pending"
	switch r.verb() {
	case "verified":
		state = "verified"
	case "verification_failed":
		state = "failed"
	}
	r.str("state", state)
	r.lit(`,"verification_strategy":"dns","verification_token":"`)
	r.digits(24)
	r.lit(`","verification_prefix":"workos"`)
	r.times()
}

func (r *renderer) connection() {
	r.lit(`"object":"connection"`)
	r.id("id", "conn_", uint64(r.e.org))
	r.orgID()
	r.lit(`,"connection_type":"OktaSAML","name":"`, orgNames[r.e.org%len(orgNames)], ` SSO"`)
	state := "active"
	if v := r.verb(); v == "deactivated" || v == "deleted" {
		state = "inactive"
	}
	r.str("state", state)
	r.str("status", state)
	r.lit(`,"external_key":"`)
	r.digits(14)
	r.lit(`","domains":[{"object":"connection_domain"`)
	r.id("id", "conn_domain_", uint64(r.e.org))
	r.str("domain", r.domain())
	r.lit(`}],"options":{"signing_cert":null}`)
	r.times()
}
