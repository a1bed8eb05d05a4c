package sourcetest

import "strings"

const hourMS = 3_600_000

func (r *renderer) userID(key string) { r.id(key, "user_", uint64(r.e.user)) }

func (r *renderer) client() {
	r.lit(`,"ip_address":"203.0.113.`)
	r.digits(2)
	r.lit(`","user_agent":"`, pick(&r.r, agents), `"`)
}

// authentication data has no id and no object.
func (r *renderer) authentication() {
	step := r.verb()
	cut := strings.LastIndexByte(step, '_')
	method, status := step[:cut], step[cut+1:]
	if step == "sso_timed_out" {
		method, status = "sso", "timed_out"
	}
	if step == "radar_risk_detected" {
		method, status = "radar", "detected"
	}
	r.lit(`"type":"`, method, `","status":"`, status, `"`)
	if status == "started" || status == "failed" && r.e.h%3 == 0 {
		r.lit(`,"user_id":null`)
	} else {
		r.userID("user_id")
	}
	r.email("email")
	r.client()
	if method == "sso" {
		r.lit(`,"sso":{"organization_id":"`, r.g.orgs[r.e.org], `"`)
		r.id("connection_id", "conn_", uint64(r.e.org))
		r.id("session_id", "session_", r.e.h)
		r.lit(`}`)
	}
	if status == "failed" || status == "timed_out" {
		r.lit(`,"error":{"code":"`, method, `_`, status, `","message":"The attempt was refused. It wasn\u2019t you?"}`)
	}
}

func (r *renderer) session() {
	r.lit(`"object":"session"`)
	r.id("id", "session_", r.e.h)
	r.lit(`,"impersonator":null`)
	r.client()
	r.orgID()
	r.userID("user_id")
	r.str("auth_method", pick(&r.r, authMethods))
	if r.verb() == "revoked" {
		r.str("status", "revoked")
		r.time("ended_at", r.ms)
	} else {
		r.lit(`,"status":"active","ended_at":null`)
	}
	r.time("expires_at", r.ms+168*hourMS)
	r.times()
}

func (r *renderer) user() {
	first, last := r.person()
	r.lit(`"object":"user"`)
	r.userID("id")
	r.email("email")
	r.str("first_name", first.text)
	r.str("last_name", last.text)
	r.lit(`,"name":"`, first.text, ` `, last.text, `","email_verified":true,"profile_picture_url":"https:\/\/cdn.example.com\/avatars\/`)
	r.digits(12)
	r.lit(`.png"`)
	r.time("last_sign_in_at", r.ms-hourMS)
	r.str("locale", pick(&r.r, locales))
	r.lit(`,"external_id":"`)
	r.digits(19)
	r.lit(`","metadata":{"team":"`, pick(&r.r, departments), `","ref":"`)
	r.digits(12)
	r.lit(`"}`)
	r.times()
}

func (r *renderer) organizationMembership() {
	role := pick(&r.r, roles)
	r.lit(`"object":"organization_membership"`)
	r.id("id", "om_", r.member())
	r.orgID()
	r.userID("user_id")
	r.str("organization_name", orgNames[r.e.org%len(orgNames)])
	r.lit(`,"role":{"slug":"`, role, `"},"roles":[{"slug":"`, role, `"}],"directory_managed":false,"custom_attributes":{"seat":`)
	r.digits(17)
	r.lit(`,"department":"`, pick(&r.r, departments), `"}`)
	status := "active"
	if r.verb() == "deleted" {
		status = "inactive"
	}
	r.str("status", status)
	r.times()
}

func (r *renderer) invitation() {
	r.lit(`"object":"invitation"`)
	r.id("id", "invitation_", r.member())
	r.email("email")
	state, accepted, revoked := "pending", false, false
	switch r.verb() {
	case "accepted":
		state, accepted = "accepted", true
	case "revoked":
		state, revoked = "revoked", true
	}
	r.str("state", state)
	r.timeIf(accepted, "accepted_at")
	r.timeIf(revoked, "revoked_at")
	r.time("expires_at", r.ms+72*hourMS)
	r.orgID()
	r.id("inviter_user_id", "user_", uint64(r.e.user/2))
	if accepted {
		r.userID("accepted_user_id")
	} else {
		r.lit(`,"accepted_user_id":null`)
	}
	r.lit(`,"role_slug":"`, pick(&r.r, roles), `"`)
	r.times()
}

func (r *renderer) timeIf(set bool, key string) {
	if set {
		r.time(key, r.ms)
		return
	}
	r.lit(`,"`, key, `":null`)
}

// oneTimeToken is a magic code, an email verification or a password reset; events carry no code.
func (r *renderer) oneTimeToken() {
	object := objectOf(r.name)
	r.lit(`"object":"`, object, `"`)
	r.id("id", object+"_", r.member())
	r.userID("user_id")
	r.email("email")
	r.time("expires_at", r.ms+hourMS/6)
	r.times()
}

// resource is the common form of all types that have no form of their own here.
func (r *renderer) resource() {
	object := objectOf(r.name)
	r.lit(`"object":"`, object, `"`)
	r.id("id", object+"_", r.member())
	if r.place == orgField {
		r.orgID()
	}
	r.str("name", pick(&r.r, departments))
	r.str("slug", pick(&r.r, roles))
	r.lit(`,"description":null,"environment_id":"environment_`)
	r.digits(12)
	r.lit(`","owner":{"type":"user"`)
	r.userID("id")
	r.email("email")
	r.lit(`},"permissions":["events:read","users:`, pick(&r.r, roles), `"],"revision":`)
	r.digits(18)
	r.times()
}
