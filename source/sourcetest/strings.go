package sourcetest

import (
	"slices"
	"strconv"
	"strings"

	"workos-relay/internal/catalogue"
)

// idsOfOrganization and idsOfUser are the fields whose id belongs to the organization, or the user,
// that the event is about, whichever event it is.
var (
	idsOfOrganization = []string{"directory_id", "connection_id", "data_integration_id", "environment_id", "waitlist_id", "agent_blueprint_id"}
	idsOfUser         = []string{"user_id", "accepted_user_id", "userland_user_id", "actor_id", "target_id"}
)

// stringNamed appends what stands at a place of data whose schema is a string, by its name. Nothing
// in it needs escaping.
func stringNamed(eventType, path string) part {
	names := strings.Split(path, ".")
	field := names[len(names)-1]
	if _, err := strconv.Atoi(field); err == nil && len(names) > 1 {
		field = strings.TrimSuffix(names[len(names)-2], "s") // of a list
	}
	switch {
	case field == "organization_id", field == "to_organization_id", isOrganization(eventType, path):
		return func(r *renderer) { r.lit(r.g.orgs[r.e.org]) }
	case field == "from_organization_id":
		return func(r *renderer) { r.lit(r.g.orgs[(r.e.org+1)%len(r.g.orgs)]) }
	case slices.Contains(idsOfUser, field):
		return func(r *renderer) { r.user("user_") }
	case strings.HasSuffix(field, "_user_id"):
		return func(r *renderer) { r.entity("user_", uint64(r.e.user/2)) }
	case slices.Contains(idsOfOrganization, field):
		prefix := idPrefix(strings.TrimSuffix(field, "_id"))
		return func(r *renderer) { r.entity(prefix, uint64(r.e.org)) }
	case field == "id":
		return ownID(eventType, names)
	case field == "external_id", field == "idp_id", field == "external_key", strings.HasSuffix(field, "token"), field == "jti":
		return func(r *renderer) { r.digits(20) }
	case strings.HasSuffix(field, "_id"):
		prefix := idPrefix(strings.TrimSuffix(field, "_id"))
		return func(r *renderer) { r.entity(prefix, r.member()) }
	}
	if s, ok := namedStrings[field]; ok {
		return s
	}
	return func(r *renderer) { r.lit(pick(&r.r, departments)) }
}

// idPrefix is what ids of a kind of object begin with.
func idPrefix(kind string) string {
	switch kind {
	case "connection":
		return "conn_"
	case "organization_membership":
		return "om_"
	case "organization_domain":
		return "org_domain_"
	case "feature_flag":
		return "flag_"
	default:
		return kind + "_"
	}
}

// ownID appends the id of an object. An object that other events refer to by a field of the name
// <kind>_id has the same id there.
func ownID(eventType string, names []string) part {
	kind := objectKind(eventType, names)
	prefix := idPrefix(kind)
	switch kind {
	case "organization":
		return func(r *renderer) { r.lit(r.g.orgs[r.e.org]) }
	case "user":
		return func(r *renderer) { r.user(prefix) }
	case "directory", "connection", "organization_domain":
		return func(r *renderer) { r.entity(prefix, uint64(r.e.org)) }
	case "session":
		return func(r *renderer) { r.entity(prefix, r.e.h) }
	}
	return func(r *renderer) { r.entity(prefix, r.member()) }
}

// objectKind is the value of the field object beside the id, or else the name of the field that
// holds the object.
func objectKind(eventType string, names []string) string {
	t, _ := catalogue.Lookup(eventType)
	if t.Schema != nil {
		beside := append(slices.Clone(names[:len(names)-1]), "object")
		for _, s := range t.Schema.At(strings.Join(beside, ".")) {
			for _, v := range append([]catalogue.Schema{*s}, s.AnyOf...) {
				if kind, ok := v.Const.(string); ok {
					return kind
				}
			}
		}
	}
	if len(names) > 1 {
		return names[len(names)-2]
	}
	domain, _, _ := strings.Cut(eventType, ".")
	return domain
}

var namedStrings = map[string]part{
	"email":               (*renderer).email,
	"login_hint":          (*renderer).email,
	"account_identifier":  (*renderer).email,
	"value":               (*renderer).email, // of a directory user's address
	"username":            (*renderer).login,
	"first_name":          func(r *renderer) { first, _ := r.person(); r.lit(first.text) },
	"last_name":           func(r *renderer) { _, last := r.person(); r.lit(last.text) },
	"actor_name":          (*renderer).fullName,
	"name":                func(r *renderer) { r.lit(orgNames[r.e.org%len(orgNames)]) },
	"job_title":           func(r *renderer) { r.lit(pick(&r.r, jobs)) },
	"domain":              func(r *renderer) { r.lit(r.domain()) },
	"slug":                func(r *renderer) { r.lit(roles[r.e.user%len(roles)]) },
	"flag_slug":           func(r *renderer) { r.lit(roles[r.e.user%len(roles)]) },
	"role_slug":           func(r *renderer) { r.lit(pick(&r.r, roles)) },
	"resource_type_slug":  func(r *renderer) { r.lit("organization") },
	"locale":              func(r *renderer) { r.lit(pick(&r.r, locales)) },
	"ip_address":          func(r *renderer) { r.lit("203.0.113."); r.digits(2) },
	"user_agent":          func(r *renderer) { r.lit(pick(&r.r, agents)) },
	"permission":          func(r *renderer) { r.lit("users:", pick(&r.r, roles)) },
	"description":         func(r *renderer) { r.lit(`It wasn\u2019t written by us`) },
	"message":             func(r *renderer) { r.lit(`The attempt was refused. It wasn\u2019t you?`) },
	"code":                func(r *renderer) { r.lit("refused") },
	"profile_picture_url": func(r *renderer) { r.lit(`https:\/\/cdn.example.com\/avatars\/`); r.digits(12); r.lit(".png") },
	"obfuscated_value":    func(r *renderer) { r.lit("sk_…"); r.digits(4) },
	"type":                func(r *renderer) { r.lit("work") },
	"provider_slug":       func(r *renderer) { r.lit("github") },
	"provider":            func(r *renderer) { r.lit("GoogleOAuth") },
	"scope":               func(r *renderer) { r.lit("repo:", pick(&r.r, roles)) },
	"target_type":         func(r *renderer) { r.lit("user") },
	"api_key_last_4":      func(r *renderer) { r.digits(4) },
	"kv_name":             func(r *renderer) { r.lit("secret-", strconv.Itoa(r.e.user)) },
}
