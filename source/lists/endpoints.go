package lists

import (
	"net/url"
	"slices"
	"strings"
)

// Endpoint is a list endpoint of the API.
type Endpoint struct {
	Entity string // the kind of object, such as directory_user
	// Path is the path of the list. A name in braces, such as {organization}, stands for the id of
	// the object of that kind among Query.Parents.
	Path string
	// Parents are the kinds of object that a list belongs to, outermost first, so that there is one
	// list for each object of the last kind. It is empty if there is one list of all objects. The
	// parents of a list are the parents of such an object, and its id.
	Parents []string
	// Parameter is the query parameter that holds the id of the last parent. It is empty if the
	// path holds it, and if there is none.
	Parameter string
	// Fixed are query parameters that are always sent.
	Fixed url.Values
	// Unpaged means that one response holds the whole list, and that there is neither a limit nor a
	// cursor.
	Unpaged bool
	// Member is the field of a listed object that holds the objects, if they are not listed
	// themselves: an organization has its domains.
	Member string
	// One is the path of one object; {id} stands for its id, or for what Slug says. It is empty if
	// no endpoint gives one object.
	One string
	// Slug means that the API names an object by its slug in One.
	Slug bool
	// PerUser means that there is one list for each user, and so at least one request.
	PerUser bool

	id     string // the field of an object that holds its id; "id" if empty
	parent string // the field of an object that must hold the id of the last parent; empty if none does
	shape  string // Path with names in braces for ids; empty if Path holds no id itself
	only   string // the value of "type" of the objects that belong to the entity; empty for any
}

// endpoints follow the API description of 2026-11-05, PyPI's workos 10.8.0. An endpoint comes after
// the endpoints of its parents.
var endpoints = []Endpoint{
	{Entity: "organization", Path: "/organizations", One: "/organizations/{id}"},
	{Entity: "organization_domain", Path: "/organizations", Member: "domains", One: "/organization_domains/{id}"},
	{Entity: "user", Path: "/user_management/users", One: "/user_management/users/{id}"},
	{
		Entity: "organization_membership", Path: "/user_management/organization_memberships", Parents: []string{"organization"}, Parameter: "organization_id",
		Fixed: url.Values{"statuses": {"active,inactive,pending"}}, // only active ones without it
		One:   "/user_management/organization_memberships/{id}", parent: "organization_id",
	},
	{Entity: "invitation", Path: "/user_management/invitations", One: "/user_management/invitations/{id}"},
	{Entity: "connection", Path: "/connections", One: "/connections/{id}"},
	{Entity: "directory", Path: "/directories", One: "/directories/{id}"},
	{
		Entity: "directory_user", Path: "/directory_users", Parents: []string{"directory"}, Parameter: "directory",
		One: "/directory_users/{id}", parent: "directory_id",
	},
	{
		Entity: "directory_group", Path: "/directory_groups", Parents: []string{"directory"}, Parameter: "directory",
		One: "/directory_groups/{id}", parent: "directory_id",
	},
	{Entity: "directory_group_membership", Path: "/directory_users", Parents: []string{"directory", "directory_group"}, Parameter: "group"},
	{Entity: "role", Path: "/authorization/roles", Unpaged: true, One: "/authorization/roles/{id}", Slug: true, id: "slug"},
	{
		Entity: "organization_role", Path: "/authorization/organizations/{organization}/roles", Parents: []string{"organization"}, Unpaged: true,
		One: "/authorization/organizations/{organization}/roles/{id}", Slug: true, id: "slug", only: "OrganizationRole",
	},
	{Entity: "permission", Path: "/authorization/permissions", One: "/authorization/permissions/{id}", Slug: true},
	{
		Entity: "group", Path: "/organizations/{organization}/groups", Parents: []string{"organization"},
		One: "/organizations/{organization}/groups/{id}", parent: "organization_id",
	},
	{
		Entity: "group_membership", Path: "/organizations/{organization}/groups/{group}/organization-memberships",
		Parents: []string{"organization", "group"},
	},
	{Entity: "feature_flag", Path: "/feature-flags", One: "/feature-flags/{id}", Slug: true},
	{Entity: "agent_blueprint", Path: "/agents/blueprints", One: "/agents/blueprints/{id}"},
	{Entity: "agent_instance", Path: "/agents/instances", One: "/agents/instances/{id}"},
	{Entity: "agent_instance_session", Path: "/agents/sessions", One: "/agents/sessions/{id}"},
	{Entity: "api_key", Path: "/organizations/{organization}/api_keys", Parents: []string{"organization"}},
	{Entity: "session", Path: "/user_management/users/{user}/sessions", Parents: []string{"user"}, PerUser: true, parent: "user_id"},
}

// ByKey reports whether the key of an object tells by what the API names it, so that Client.Get
// needs nothing else: the key is its id or slug, or has the id of its organization before that.
func (e *Endpoint) ByKey() bool {
	return e.id == "slug" || !e.Slug && !strings.Contains(e.One, "{organization}")
}

// Endpoints returns the table of lists. The caller may change it. An entity comes after its
// parents.
func Endpoints() []Endpoint { return slices.Clone(endpoints) }

// Lookup returns the endpoint that lists an entity.
func Lookup(entity string) (Endpoint, bool) {
	i := slices.IndexFunc(endpoints, func(e Endpoint) bool { return e.Entity == entity })
	if i < 0 {
		return Endpoint{}, false
	}
	return endpoints[i], true
}

// path fills the ids of parents, and the id of an object, into a path.
func (e *Endpoint) path(pattern string, parents []string, id string) string {
	for i, kind := range e.Parents {
		pattern = strings.ReplaceAll(pattern, "{"+kind+"}", url.PathEscape(parents[i]))
	}
	return strings.ReplaceAll(pattern, "{id}", url.PathEscape(id))
}

// idField is the field of an object that holds its id.
func (e *Endpoint) idField() string {
	if e.id == "" {
		return "id"
	}
	return e.id
}
